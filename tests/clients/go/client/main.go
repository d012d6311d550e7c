// The client library of most controllers at work: every verb, by protobuf, each answer checked.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"clients/internal/check"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const ns = "go"

var (
	config *rest.Config
	kube   *kubernetes.Clientset
	dyn    *dynamic.DynamicClient
	crds   *apiextensions.Clientset
	asked  requests
)

// Every request that went out, as METHOD and URL.
type requests struct {
	sync.Mutex
	lines []string
}

func (r *requests) wrap(next http.RoundTripper) http.RoundTripper {
	return tripper(func(request *http.Request) (*http.Response, error) {
		r.Lock()
		r.lines = append(r.lines, request.Method+" "+request.URL.RequestURI())
		r.Unlock()
		return next.RoundTrip(request)
	})
}

// since says which of the requests have all of the words.
func (r *requests) since(mark int, words ...string) (found []string) {
	r.Lock()
	defer r.Unlock()
	for _, line := range r.lines[mark:] {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

func (r *requests) mark() int {
	r.Lock()
	defer r.Unlock()
	return len(r.lines)
}

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }

// kill ends the server by SIGKILL and waits for the next one.
func kill(ctx context.Context) {
	check.Ok(exec.CommandContext(ctx, os.Getenv("CLIENTS_KILL")).Run())
	check.Within(30*time.Second, "the server is ready again", func() bool {
		return kube.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil
	})
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Data: data}
}

func main() {
	// What the libraries say about connections that are cut on purpose is noise.
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"})
	var err error
	config, err = clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Println("not ok go:", err)
		os.Exit(1)
	}
	config.QPS = -1
	config.UserAgent = "clients/1"
	config.WarningHandler = rest.NoWarnings{}
	config.Wrap(asked.wrap)
	plain := rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	kube = kubernetes.NewForConfigOrDie(config)
	dyn = dynamic.NewForConfigOrDie(plain)
	crds = apiextensions.NewForConfigOrDie(config)

	var all []check.One
	for _, some := range [][]check.One{begin, objects, patches, applies, deletions, pods, discoveries, customs, identities, watches, end} {
		all = append(all, some...)
	}
	check.Run("client-go", all)
}

var begin = []check.One{{"the namespace is there", func(ctx context.Context) {
	// A run before this one may have left it.
	_ = kube.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
	check.Within(30*time.Second, "the namespace is created", func() bool {
		_, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		return err == nil
	})
	check.Within(10*time.Second, "its service account is there", func() bool {
		_, err := kube.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
}}}

var end = []check.One{{"the namespace goes with everything in it", func(ctx context.Context) {
	check.Ok(kube.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}))
	check.Within(30*time.Second, "the namespace is gone", func() bool {
		_, err := kube.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	check.Is(len(check.Must(kube.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})).Items), 0)
}}}
