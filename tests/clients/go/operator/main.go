// An operator on controller-runtime: a definition of two versions, its webhooks, a finalizer, what it owns, and its status.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "clients/internal/check"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"
)

const (
	ns        = "operator"
	finalizer = "operator.example/harbour"
)

type operator struct{ client.Client }

func (o operator) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	boat := &Boat{}
	if err := o.Get(ctx, request.NamespacedName, boat); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if boat.DeletionTimestamp != nil {
		left := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "left-" + boat.Name, Namespace: ns}}
		if err := client.IgnoreAlreadyExists(o.Create(ctx, left)); err != nil {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(boat, finalizer)
		return ctrl.Result{}, client.IgnoreNotFound(o.Update(ctx, boat))
	}
	if controllerutil.AddFinalizer(boat, finalizer) {
		return ctrl.Result{}, o.Update(ctx, boat)
	}
	// One of what it owns is updated, the other applied.
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: boat.Name, Namespace: ns}}
	if _, err := controllerutil.CreateOrUpdate(ctx, o.Client, owned, func() error {
		owned.Data = map[string]string{"name": boat.Spec.Name}
		return controllerutil.SetControllerReference(boat, owned, o.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	owner := applymeta.OwnerReference().WithAPIVersion(v2.String()).WithKind("Boat").WithName(boat.Name).WithUID(boat.UID).WithController(true).WithBlockOwnerDeletion(true)
	secret := applycore.Secret(boat.Name, ns).WithOwnerReferences(owner).WithStringData(map[string]string{"name": boat.Spec.Name})
	if err := o.Apply(ctx, secret, client.FieldOwner("operator"), client.ForceOwnership); err != nil {
		return ctrl.Result{}, err
	}
	before := copied(boat)
	boat.Status.Berth = fmt.Sprintf("berth of %d m", boat.Spec.Length)
	meta.SetStatusCondition(&boat.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Moored", ObservedGeneration: boat.Generation})
	return ctrl.Result{}, o.Status().Patch(ctx, boat, client.MergeFrom(before))
}

func (operator) Default(_ context.Context, boat *Boat) error {
	if boat.Spec.Name == "" {
		boat.Spec.Name = "nameless"
	}
	return nil
}

func (operator) ValidateCreate(_ context.Context, boat *Boat) (admission.Warnings, error) {
	if boat.Spec.Length > 100 {
		return nil, fmt.Errorf("%d m is too long", boat.Spec.Length)
	}
	return admission.Warnings{"it may rain"}, nil
}

func (operator) ValidateUpdate(_ context.Context, old, boat *Boat) (admission.Warnings, error) {
	if boat.Spec.Length < old.Spec.Length {
		return nil, apierrors.NewBadRequest("boats do not shrink")
	}
	return nil, nil
}

func (operator) ValidateDelete(_ context.Context, boat *Boat) (admission.Warnings, error) {
	if boat.Labels["moored"] == "fast" {
		return nil, fmt.Errorf("%s is moored fast", boat.Name)
	}
	return nil, nil
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }

var (
	direct client.Client // past the cache
	said   warnings
	stop   context.CancelFunc
	ended  = make(chan error, 1)
)

// keys writes a certificate for the webhooks and answers with the authority's.
func keys(directory string) []byte {
	key := Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := Must(x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key))
	own := Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leafBytes := Must(x509.CreateCertificate(rand.Reader, leaf, authority, &own.PublicKey, key))
	Ok(os.WriteFile(filepath.Join(directory, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafBytes}), 0o600))
	Ok(os.WriteFile(filepath.Join(directory, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: Must(x509.MarshalECPrivateKey(own))}), 0o600))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})
}

func boat(name string, length int) *Boat {
	made := &Boat{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}}
	made.Spec.Length = length
	return made
}

func key(name string) client.ObjectKey { return client.ObjectKey{Namespace: ns, Name: name} }

func berth(ctx context.Context, name string) string {
	found := &Boat{}
	if err := direct.Get(ctx, key(name), found); err != nil {
		return err.Error()
	}
	return found.Status.Berth
}

func start(ctx context.Context) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	config := Must(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	scheme := scheme.Scheme
	register(scheme)
	mine := rest.CopyConfig(config)
	mine.WarningHandler = &said
	direct = Must(client.New(mine, client.Options{Scheme: scheme, FieldOwner: "tester"}))
	_ = direct.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})

	listener := Must(net.Listen("tcp", "127.0.0.1:0"))
	port := listener.Addr().(*net.TCPAddr).Port
	Ok(listener.Close())
	directory := Must(os.MkdirTemp("", "clients-"))
	bundle := base64.StdEncoding.EncodeToString(keys(directory))
	for text := range strings.SplitSeq(strings.NewReplacer("PORT", fmt.Sprint(port), "BUNDLE", bundle).Replace(manifests), "\n---\n") {
		object := &unstructured.Unstructured{}
		Ok(yaml.Unmarshal([]byte(text), &object.Object))
		Ok(direct.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("tester"), client.ForceOwnership))
	}
	Within(20*time.Second, "the definition is served", func() bool { return direct.List(ctx, &BoatList{}) == nil })

	manager := Must(ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		WebhookServer:  webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: directory}),
		LeaderElection: true, LeaderElectionID: "operator", LeaderElectionNamespace: ns, LeaderElectionReleaseOnCancel: true,
	}))
	it := operator{manager.GetClient()}
	Ok(ctrl.NewControllerManagedBy(manager).For(&Boat{}).Owns(&corev1.ConfigMap{}).Owns(&corev1.Secret{}).Complete(it))
	Ok(ctrl.NewWebhookManagedBy(manager, &Boat{}).WithDefaulter(it).WithValidator(it).Complete())
	running, cancel := context.WithCancel(context.Background())
	stop = cancel
	go func() {
		ended <- manager.Start(running)
		_ = os.RemoveAll(directory)
	}()
	select {
	case <-manager.Elected():
	case <-ctx.Done():
		Ok(ctx.Err())
	}
	Within(10*time.Second, "the webhooks answer", func() bool { return manager.GetWebhookServer().StartedChecker()(nil) == nil })
}

func main() {
	Run("operator", []One{
		{"it starts, and leads", start},
		{"its webhooks change, warn and refuse", func(ctx context.Context) {
			made := boat("argo", 9)
			Ok(direct.Create(ctx, made))
			Is(made.Spec.Name, "nameless")
			That(slices.Contains(said, "it may rain"), "no warning in %v", said)
			Refused(0, direct.Create(ctx, boat("titanic", 269)))(apierrors.IsForbidden, `admission webhook "validate.operator.example" denied the request: 269 m is too long`)
			Refused(0, direct.Create(ctx, boat("titanic", 269), client.DryRunAll))(apierrors.IsForbidden, "269 m is too long")
			Refused(0, direct.Patch(ctx, boat("argo", 0), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"length":5}}`))))(apierrors.IsBadRequest, `admission webhook "validate.operator.example" denied the request: boats do not shrink`)
		}},
		{"it keeps what it owns and says so", func(ctx context.Context) {
			Within(20*time.Second, "the status is written", func() bool { return berth(ctx, "argo") == "berth of 9 m" })
			found := &Boat{}
			Ok(direct.Get(ctx, key("argo"), found))
			That(controllerutil.ContainsFinalizer(found, finalizer) && found.Generation == 1, "%v", found.ObjectMeta)
			That(meta.IsStatusConditionTrue(found.Status.Conditions, "Ready"), "%v", found.Status)
			object, secret := &corev1.ConfigMap{}, &corev1.Secret{}
			Ok(direct.Get(ctx, key("argo"), secret))
			Ok(direct.Get(ctx, key("argo"), object))
			That(metav1.IsControlledBy(object, found) && metav1.IsControlledBy(secret, found), "owners: %v", object.OwnerReferences)
			object.Data["name"] = "other"
			Ok(direct.Update(ctx, object))
			right := func() bool {
				return direct.Get(ctx, key("argo"), object) == nil && object.Data["name"] == "nameless"
			}
			Within(20*time.Second, "the map is put right", right)
			Ok(direct.Delete(ctx, object))
			Within(20*time.Second, "the map is there again", right)
			found.Spec.Name = "Argo"
			Ok(direct.Patch(ctx, found, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"name":"Argo","length":10}}`))))
			Within(20*time.Second, "the status follows", func() bool { return berth(ctx, "argo") == "berth of 10 m" })
			Ok(direct.Get(ctx, key("argo"), secret))
			Is(string(secret.Data["name"]), "Argo")
		}},
		{"versions are converted", func(ctx context.Context) {
			old := &OldBoat{}
			Ok(direct.Get(ctx, key("argo"), old))
			Is(old.Spec.Size, "10m")
			fresh := &OldBoat{ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: ns}}
			fresh.Spec.Size = "7m"
			Ok(direct.Create(ctx, fresh))
			Within(20*time.Second, "the operator sees it", func() bool { return berth(ctx, "old") == "berth of 7 m" })
			list := &OldBoatList{}
			Ok(direct.List(ctx, list, client.InNamespace(ns)))
			Is(list.Items[0].Spec.Size+list.Items[1].Spec.Size, "10m7m")
			fresh = &OldBoat{ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: ns}}
			fresh.Spec.Size = "long"
			err := direct.Create(ctx, fresh)
			That(err != nil && strings.Contains(err.Error(), "conversion webhook for operator.example/v1, Kind=Boat failed: expected integer"), "%v", err)
			Ok(direct.Delete(ctx, old, client.Preconditions{UID: &old.UID}))
			Within(20*time.Second, "the finalizer has run", func() bool { return apierrors.IsNotFound(direct.Get(ctx, key("argo"), &Boat{})) })
			Ok(direct.Get(ctx, key("left-argo"), &corev1.ConfigMap{}))
			Within(20*time.Second, "what it owned went along", func() bool {
				return apierrors.IsNotFound(direct.Get(ctx, key("argo"), &corev1.Secret{})) && apierrors.IsNotFound(direct.Get(ctx, key("argo"), &corev1.ConfigMap{}))
			})
		}},
		{"it goes on after the server was killed", func(ctx context.Context) {
			Ok(exec.CommandContext(ctx, os.Getenv("CLIENTS_KILL")).Run())
			Within(30*time.Second, "a boat is made", func() bool { return direct.Create(ctx, boat("later", 8)) == nil })
			Within(40*time.Second, "the operator sees it", func() bool { return berth(ctx, "later") == "berth of 8 m" })
		}},
		{"deletions are refused, too", func(ctx context.Context) {
			Ok(direct.Patch(ctx, boat("later", 0), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"moored":"fast"}}}`))))
			Refused(0, direct.Delete(ctx, boat("later", 0)))(apierrors.IsForbidden, "later is moored fast")
			Refused(0, direct.DeleteAllOf(ctx, &Boat{}, client.InNamespace(ns), client.MatchingLabels{"moored": "fast"}))(apierrors.IsForbidden, "later is moored fast")
			Ok(direct.Patch(ctx, boat("later", 0), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`))))
			Ok(direct.DeleteAllOf(ctx, &Boat{}, client.InNamespace(ns)))
			Within(20*time.Second, "all boats are gone", func() bool {
				list := &BoatList{}
				return direct.List(ctx, list) == nil && len(list.Items) == 0
			})
		}},
		{"without it, nothing is admitted", func(ctx context.Context) {
			stop()
			Ok(<-ended)
			Refused(0, direct.Create(ctx, boat("argo", 9)))(apierrors.IsInternalError, `failed calling webhook "mutate.operator.example": failed to call webhook: Post "https://127.0.0.1:`)
			for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
				hooks := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": map[string]any{"name": "operator.example"}}}
				Ok(direct.Delete(ctx, hooks))
			}
			Within(10*time.Second, "a boat is admitted", func() bool { return direct.Create(ctx, boat("argo", 900)) == nil })
			Ok(direct.Delete(ctx, boat("argo", 0)))
		}},
		{"all goes", func(ctx context.Context) {
			definition := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "boats.operator.example"}}}
			Ok(direct.Delete(ctx, definition))
			Ok(direct.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
			Within(30*time.Second, "the namespace is gone", func() bool {
				return apierrors.IsNotFound(direct.Get(ctx, client.ObjectKey{Name: ns}, &corev1.Namespace{}))
			})
		}},
	})
}
