package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	. "clients/internal/check"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/utils/ptr"
)

// said is the next event in short.
func said(ctx context.Context, w watch.Interface) string {
	select {
	case event, open := <-w.ResultChan():
		if !open {
			return "closed"
		}
		if event.Type == watch.Error {
			return fmt.Sprint("ERROR ", event.Object.(*metav1.Status).Code)
		}
		object := event.Object.(*corev1.ConfigMap)
		return strings.TrimSpace(fmt.Sprint(event.Type, " ", object.Name, " ", object.Data["n"]))
	case <-ctx.Done():
		return "nothing"
	}
}

// numbered writes n into an object that watchers look at.
func numbered(ctx context.Context, n int) {
	Must(kube.CoreV1().ConfigMaps(ns).Patch(ctx, "seen", types.MergePatchType, []byte(fmt.Sprintf(`{"data":{"n":"%d"}}`, n)), metav1.PatchOptions{}))
}

// A client whose connections are cut at will.
func cuttable() (*kubernetes.Clientset, func()) {
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 5 * time.Second}).DialContext)
	mine := rest.CopyConfig(config)
	mine.Dial = dialer.DialContext
	return Must(kubernetes.NewForConfig(mine)), dialer.CloseAll
}

var watches = []One{
	{"watches tell what happens, from a version on", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		made := Must(cm.Create(ctx, configMap("seen", map[string]string{"n": "0"}), metav1.CreateOptions{}))
		numbered(ctx, 1)
		w := Must(cm.Watch(ctx, metav1.ListOptions{ResourceVersion: made.ResourceVersion}))
		defer w.Stop()
		Is(said(ctx, w), "MODIFIED seen 1")
		Ok(cm.Delete(ctx, "seen", metav1.DeleteOptions{}))
		Is(said(ctx, w), "DELETED seen 1")
		Must(cm.Create(ctx, configMap("seen", nil), metav1.CreateOptions{}))
		Is(said(ctx, w), "ADDED seen")
		one := Must(cm.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=seen"}))
		defer one.Stop()
		Is(said(ctx, one), "ADDED seen")
		Refused(cm.Watch(ctx, metav1.ListOptions{ResourceVersion: "nonsense"}))(anyhow, `resourceVersion: Invalid value: "nonsense"`)
	}},
	{"watches of a selector see what comes and goes", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		list := Must(cm.List(ctx, metav1.ListOptions{}))
		w := Must(cm.Watch(ctx, metav1.ListOptions{LabelSelector: "on=yes", ResourceVersion: list.ResourceVersion}))
		defer w.Stop()
		for _, row := range [][2]string{{`{"labels":{"on":"yes"}}`, "ADDED seen"}, {`{"annotations":{"a":"b"}}`, "MODIFIED seen"}, {`{"labels":{"on":"no"}}`, "DELETED seen"}} {
			Must(cm.Patch(ctx, "seen", types.MergePatchType, []byte(`{"metadata":`+row[0]+`}`), metav1.PatchOptions{}))
			Is(said(ctx, w), row[1])
		}
	}},
	{"watches end in time", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		started := time.Now()
		w := Must(cm.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=seen", AllowWatchBookmarks: true, TimeoutSeconds: ptr.To[int64](2)}))
		defer w.Stop()
		Is(said(ctx, w), "ADDED seen")
		event := <-w.ResultChan()
		Is(event.Type, watch.Bookmark)
		Is(event.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey], "true")
		for open := true; open; {
			_, open = <-w.ResultChan()
		}
		That(time.Since(started) > 1500*time.Millisecond && time.Since(started) < 4*time.Second, "it ended after %v", time.Since(started))
	}},
	{"a watch sends the list itself", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		list := Must(cm.List(ctx, metav1.ListOptions{}))
		w := Must(cm.Watch(ctx, metav1.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true}))
		defer w.Stop()
		names := []string{}
		for event := range w.ResultChan() {
			object := event.Object.(*corev1.ConfigMap)
			if event.Type == watch.Bookmark {
				Is(object.Annotations[metav1.InitialEventsAnnotationKey], "true")
				That(number(object.ResourceVersion) >= number(list.ResourceVersion), "%s is before %s", object.ResourceVersion, list.ResourceVersion)
				break
			}
			Is(event.Type, watch.Added)
			names = append(names, object.Name)
		}
		Is(len(names), len(list.Items))
		Refused(cm.Watch(ctx, metav1.ListOptions{SendInitialEvents: ptr.To(true)}))(apierrors.IsInvalid, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}},
	{"watchers and informers go on after cuts and a killed server", func(ctx context.Context) {
		client, cut := cuttable()
		cm := client.CoreV1().ConfigMaps(ns)
		mark := asked.mark()
		list := Must(kube.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{}))

		// An informer, which gets its list by a watch.
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
		informer := factory.Core().V1().ConfigMaps()
		var heard []string
		Must(informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
			if object := after.(*corev1.ConfigMap); object.Name == "seen" && object.ResourceVersion != before.(*corev1.ConfigMap).ResourceVersion {
				heard = append(heard, object.Data["n"])
			}
		}}))
		stop := make(chan struct{})
		defer func() { close(stop); factory.Shutdown() }()
		factory.Start(stop)
		factory.WaitForCacheSync(stop)
		Is(len(Must(informer.Lister().List(labels.Everything()))), len(list.Items))

		// A watcher that asks again from the last version it saw.
		w := Must(watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = "metadata.name=seen"
			return cm.Watch(ctx, options)
		}}))
		defer w.Stop()
		wanted := []string{}
		for n := 1; n <= 12; n++ {
			numbered(ctx, n)
			wanted = append(wanted, strconv.Itoa(n))
			Is(said(ctx, w), fmt.Sprint("MODIFIED seen ", n))
			switch n {
			case 3, 6:
				cut()
			case 9:
				kill(ctx)
			}
		}
		Within(40*time.Second, "the informer heard the last one", func() bool {
			got, err := informer.Lister().ConfigMaps(ns).Get("seen")
			return err == nil && got.Data["n"] == "12"
		})
		That(len(asked.since(mark, "/configmaps?", "sendInitialEvents=true")) >= 1, "the informer asked for no list by a watch")
		Is(fmt.Sprint(asked.since(mark+1, "GET", "/configmaps?limit")), "[]")
		That(slices.IsSorted(numbers(heard)), "out of order: %v", heard)
		Is(len(Must(informer.Lister().List(labels.Everything()))), len(list.Items))
	}},
	{"a version of before the kill is still watched from", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		before := Must(cm.Get(ctx, "seen", metav1.GetOptions{}))
		numbered(ctx, 13)
		kill(ctx)
		numbered(ctx, 14)
		w := Must(cm.Watch(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion}))
		defer w.Stop()
		Is(said(ctx, w)+", "+said(ctx, w), "MODIFIED seen 13, MODIFIED seen 14")
	}},
}

func anyhow(error) bool { return true }

func number(version string) int { return Must(strconv.Atoi(version)) }

func numbers(texts []string) (all []int) {
	for _, text := range texts {
		all = append(all, number(text))
	}
	return
}
