package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "clients/internal/check"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}},
	}}
}

var objects = []One{
	{"create answers with the object", func(ctx context.Context) {
		made := Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("made", map[string]string{"a": "1"}), metav1.CreateOptions{FieldManager: "me"}))
		That(made.UID != "" && made.ResourceVersion != "" && !made.CreationTimestamp.IsZero(), "metadata: %v", made.ObjectMeta)
		Is(made.ManagedFields[0].Manager+" "+string(made.ManagedFields[0].Operation), "me Update")
		got := Must(kube.CoreV1().ConfigMaps(ns).Get(ctx, "made", metav1.GetOptions{}))
		Is(got.String(), made.String())
		made = Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("by-agent", nil), metav1.CreateOptions{}))
		Is(made.ManagedFields == nil || made.ManagedFields[0].Manager == "clients", true)
	}},
	{"create with generateName", func(ctx context.Context) {
		object := configMap("", nil)
		object.GenerateName = "some-"
		made := Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, object, metav1.CreateOptions{}))
		That(strings.HasPrefix(made.Name, "some-") && len(made.Name) == 10, "its name: %s", made.Name)
	}},
	{"create is refused in the right words", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		Refused(cm.Create(ctx, configMap("made", nil), metav1.CreateOptions{}))(apierrors.IsAlreadyExists, `configmaps "made" already exists`)
		Refused(cm.Create(ctx, configMap("Made", nil), metav1.CreateOptions{}))(apierrors.IsInvalid, `ConfigMap "Made" is invalid: metadata.name: Invalid value: "Made": a lowercase RFC 1123 subdomain`)
		Refused(cm.Create(ctx, configMap("", nil), metav1.CreateOptions{}))(apierrors.IsInvalid, "name or generateName is required")
		elsewhere := configMap("x", nil)
		elsewhere.Namespace = "other"
		Refused(cm.Create(ctx, elsewhere, metav1.CreateOptions{}))(apierrors.IsBadRequest, "the namespace of the provided object does not match the namespace sent on the request")
		elsewhere.Namespace = ""
		Refused(kube.CoreV1().ConfigMaps("nowhere").Create(ctx, elsewhere, metav1.CreateOptions{}))(apierrors.IsNotFound, `namespaces "nowhere" not found`)
		versioned := configMap("x", nil)
		versioned.ResourceVersion = "1"
		_, err := cm.Create(ctx, versioned, metav1.CreateOptions{})
		That(err != nil && strings.Contains(err.Error(), "resourceVersion should not be set on objects to be created"), "%v", err)
		_, err = kube.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
		status, _ := err.(apierrors.APIStatus)
		That(status != nil && len(status.Status().Details.Causes) == 3, "causes of %v", err)
	}},
	{"a dry run leaves nothing", func(ctx context.Context) {
		made := Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("dry", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))
		That(made.UID != "" && made.ResourceVersion == "", "metadata: %v", made.ObjectMeta)
		Refused(kube.CoreV1().ConfigMaps(ns).Get(ctx, "dry", metav1.GetOptions{}))(apierrors.IsNotFound, `configmaps "dry" not found`)
	}},
	{"lists come in pages of one revision", func(ctx context.Context) {
		for i := range 25 {
			object := configMap(fmt.Sprintf("page-%02d", i), nil)
			object.Labels = map[string]string{"page": strconv.Itoa(i % 2)}
			Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, object, metav1.CreateOptions{}))
		}
		cm := kube.CoreV1().ConfigMaps(ns)
		total := len(Must(cm.List(ctx, metav1.ListOptions{})).Items)
		options, seen, version := metav1.ListOptions{Limit: 10}, 0, ""
		for {
			page := Must(cm.List(ctx, options))
			seen += len(page.Items)
			if version == "" {
				version = page.ResourceVersion
			}
			Is(page.ResourceVersion, version)
			if page.Continue == "" {
				That(page.RemainingItemCount == nil, "remaining on the last page")
				break
			}
			Is(len(page.Items), 10)
			Is(*page.RemainingItemCount, int64(total-seen))
			// What is made meanwhile is not of this revision.
			Must(cm.Create(ctx, configMap(fmt.Sprintf("page-99-%d", seen), nil), metav1.CreateOptions{}))
			options.Continue = page.Continue
		}
		Is(seen, total)
		page := Must(cm.List(ctx, metav1.ListOptions{Limit: 5, LabelSelector: "page=1"}))
		That(len(page.Items) == 5 && page.Continue != "" && page.RemainingItemCount == nil, "%v", page.ListMeta)
		Refused(cm.List(ctx, metav1.ListOptions{Limit: 5, Continue: "nonsense"}))(apierrors.IsBadRequest, "continue key is not valid")
		Refused(cm.List(ctx, metav1.ListOptions{Limit: 5, Continue: options.Continue, ResourceVersion: version}))(apierrors.IsBadRequest, "specifying resource version is not allowed when using continue")
	}},
	{"the pager reads all pages", func(ctx context.Context) {
		p := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return kube.CoreV1().ConfigMaps(ns).List(ctx, options)
		})
		p.PageSize = 4
		seen := 0
		Ok(p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "page"}, func(runtime.Object) error { seen++; return nil }))
		Is(seen, 25)
	}},
	{"lists are selected", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		for _, row := range []struct {
			labels, fields string
			count          int
		}{
			{"page=1", "", 12}, {"page!=1,page", "", 13}, {"page in (0,1)", "", 25}, {"page notin (0),page", "", 12}, {"!page", "metadata.name=made", 1},
			{"", "metadata.name=page-03", 1}, {"page=1", "metadata.name!=page-03", 11}, {"page=1", "metadata.namespace=elsewhere", 0}, {"page>0", "", 12},
		} {
			Is(fmt.Sprint(row, len(Must(cm.List(ctx, metav1.ListOptions{LabelSelector: row.labels, FieldSelector: row.fields})).Items)), fmt.Sprint(row, row.count))
		}
		Refused(cm.List(ctx, metav1.ListOptions{LabelSelector: "a in b"}))(apierrors.IsBadRequest, "unable to parse requirement")
		Refused(cm.List(ctx, metav1.ListOptions{FieldSelector: "data.a=b"}))(apierrors.IsBadRequest, `"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"`)
	}},
	{"lists of a version", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		before := Must(cm.List(ctx, metav1.ListOptions{}))
		Must(cm.Create(ctx, configMap("later", nil), metav1.CreateOptions{}))
		exact := Must(cm.List(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}))
		Is(len(exact.Items), len(before.Items))
		Is(exact.ResourceVersion, before.ResourceVersion)
		newer := Must(cm.List(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}))
		That(len(newer.Items) >= len(before.Items), "older than asked for")
		Must(cm.List(ctx, metav1.ListOptions{ResourceVersion: "0"}))
		Refused(cm.List(ctx, metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact}))(apierrors.IsInvalid, "resourceVersionMatch is forbidden unless resourceVersion is provided")
		// The library would ask ten times.
		err := kube.CoreV1().RESTClient().Get().MaxRetries(0).Namespace(ns).Resource("configmaps").Param("resourceVersion", "999999999").Do(ctx).Error()
		That(apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge), "%v", err)
	}},
	{"updates conflict and are tried again", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		old := Must(cm.Get(ctx, "made", metav1.GetOptions{}))
		Must(cm.Update(ctx, configMap("made", map[string]string{"n": "0"}), metav1.UpdateOptions{}))
		Refused(cm.Update(ctx, old, metav1.UpdateOptions{}))(apierrors.IsConflict, `Operation cannot be fulfilled on configmaps "made": the object has been modified; please apply your changes to the latest version and try again`)
		var writers sync.WaitGroup
		errors := make(chan error, 8)
		for range 8 {
			writers.Go(func() {
				for range 5 {
					errors <- retry.RetryOnConflict(patient, func() error {
						object, err := cm.Get(ctx, "made", metav1.GetOptions{})
						if err != nil {
							return err
						}
						n, _ := strconv.Atoi(object.Data["n"])
						object.Data["n"] = strconv.Itoa(n + 1)
						_, err = cm.Update(ctx, object, metav1.UpdateOptions{})
						return err
					})
				}
			})
		}
		go func() { writers.Wait(); close(errors) }()
		for err := range errors {
			Ok(err)
		}
		Is(Must(cm.Get(ctx, "made", metav1.GetOptions{})).Data["n"], "40")
	}},
	{"updates are refused in the right words", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		Refused(cm.Update(ctx, configMap("nothing", nil), metav1.UpdateOptions{}))(apierrors.IsNotFound, `configmaps "nothing" not found`)
		other := configMap("made", nil)
		other.UID = "11111111-2222-3333-4444-555555555555"
		Refused(cm.Update(ctx, other, metav1.UpdateOptions{}))(apierrors.IsConflict, "Precondition failed: UID in precondition: 11111111-2222-3333-4444-555555555555, UID in object meta: ")
		fixed := configMap("fixed", map[string]string{"a": "1"})
		fixed.Immutable = ptr.To(true)
		fixed = Must(cm.Create(ctx, fixed, metav1.CreateOptions{}))
		fixed.Data["a"] = "2"
		Refused(cm.Update(ctx, fixed, metav1.UpdateOptions{}))(apierrors.IsInvalid, "data: Forbidden: field is immutable when `immutable` is set")
		d := Must(kube.AppsV1().Deployments(ns).Create(ctx, deployment("d", 0), metav1.CreateOptions{}))
		d.Spec.Selector.MatchLabels["app"] = "other"
		d.ResourceVersion = ""
		Refused(kube.AppsV1().Deployments(ns).Update(ctx, d, metav1.UpdateOptions{}))(apierrors.IsInvalid, "field is immutable")
	}},
	{"status and spec are written apart", func(ctx context.Context) {
		// Nobody else writes the status of this one.
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "apart"}, Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
		pod.Status.Message = "not taken"
		pod = Must(kube.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}))
		Is(string(pod.Status.Phase)+pod.Status.Message, "Pending")
		pod.Status.Message = "taken"
		pod.Spec.Containers[0].Image = "not-taken"
		pod = Must(kube.CoreV1().Pods(ns).UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
		Is(pod.Status.Message+" "+pod.Spec.Containers[0].Image, "taken a")
		pod.Status.Message = "not taken"
		pod.Spec.Containers[0].Image = "b"
		pod = Must(kube.CoreV1().Pods(ns).Update(ctx, pod, metav1.UpdateOptions{}))
		Is(pod.Status.Message+" "+pod.Spec.Containers[0].Image, "taken b")
		pod = Must(kube.CoreV1().Pods(ns).Patch(ctx, "apart", types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"Mine","status":"True"}]}}`), metav1.PatchOptions{}, "status"))
		That(slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == "Mine" }), "%v", pod.Status)
	}},
	{"services and secrets are completed", func(ctx context.Context) {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
		service = Must(kube.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{}))
		That(service.Spec.ClusterIP != "" && service.Spec.Ports[0].NodePort >= 30000 && service.Spec.Ports[0].TargetPort.IntVal == 80, "%v", service.Spec)
		again := service.DeepCopy()
		again.ObjectMeta, again.Spec.Ports[0].NodePort = metav1.ObjectMeta{Name: "t"}, 0
		Refused(kube.CoreV1().Services(ns).Create(ctx, again, metav1.CreateOptions{}))(apierrors.IsInvalid, "failed to allocate IP "+service.Spec.ClusterIP+": provided IP is already allocated")
		secret := Must(kube.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{}))
		Is(string(secret.Type)+" "+string(secret.Data["a"])+strconv.Itoa(len(secret.StringData)), "Opaque b0")
	}},
	{"warnings arrive", func(ctx context.Context) {
		var said warnings
		mine := rest.CopyConfig(config)
		mine.WarningHandler = &said
		client := Must(rest.HTTPClientFor(mine))
		mine.APIPath, mine.GroupVersion, mine.NegotiatedSerializer = "/api", &corev1.SchemeGroupVersion, scheme.Codecs.WithoutConversion()
		raw := Must(rest.RESTClientForConfigAndClient(mine, client))
		Ok(raw.Post().Namespace(ns).Resource("configmaps").Param("fieldValidation", "Warn").SetHeader("Content-Type", "application/json").
			Body([]byte(`{"metadata":{"name":"warned"},"datum":{}}`)).Do(ctx).Error())
		That(slices.Contains(said, `unknown field "datum"`), "%v", said)
	}},
	{"a large list is the same compressed", func(ctx context.Context) {
		large := strings.Repeat("0123456789abcdef", 50_000)
		Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("large", map[string]string{"a": large}), metav1.CreateOptions{}))
		Is(Must(kube.CoreV1().ConfigMaps(ns).Get(ctx, "large", metav1.GetOptions{})).Data["a"], large)
		_, err := kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("larger", map[string]string{"a": large, "b": large}), metav1.CreateOptions{})
		That(apierrors.IsInvalid(err) && strings.Contains(err.Error(), "Too long: may not be more than 1048576 bytes"), "%.300v", err)
		_, err = kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("largest", map[string]string{"a": large + large + large + large}), metav1.CreateOptions{})
		That(apierrors.IsRequestEntityTooLargeError(err), "%.300v", err)
		Ok(kube.CoreV1().ConfigMaps(ns).Delete(ctx, "large", metav1.DeleteOptions{}))
	}},
}

// Eight writers of one object need more patience than the default.
var patient = wait.Backoff{Steps: 500, Duration: 5 * time.Millisecond, Factor: 1, Jitter: 1}
