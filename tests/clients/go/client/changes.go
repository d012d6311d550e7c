package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	. "clients/internal/check"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/ptr"
)

func patched(ctx context.Context, kind types.PatchType, patch string) (*corev1.ConfigMap, error) {
	return kube.CoreV1().ConfigMaps(ns).Patch(ctx, "patched", kind, []byte(patch), metav1.PatchOptions{})
}

func data(object *corev1.ConfigMap) string { return string(Must(json.Marshal(object.Data))) }

var patches = []One{
	{"JSON patches", func(ctx context.Context) {
		Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap("patched", map[string]string{"a": "1", "b": "2"}), metav1.CreateOptions{}))
		Is(data(Must(patched(ctx, types.JSONPatchType, `[{"op":"test","path":"/data/a","value":"1"},{"op":"move","from":"/data/a","path":"/data/c"},{"op":"add","path":"/data/d","value":"4"},
			{"op":"copy","from":"/data/d","path":"/data/e"},{"op":"remove","path":"/data/b"},{"op":"replace","path":"/data/d","value":"5"}]`))), `{"c":"1","d":"5","e":"4"}`)
		Refused(patched(ctx, types.JSONPatchType, `[{"op":"test","path":"/data/c","value":"9"}]`))(apierrors.IsInvalid, "the server rejected our request due to an error in our request")
		Refused(patched(ctx, types.JSONPatchType, `[{"op":"remove","path":"/data/none"}]`))(apierrors.IsInvalid, "the server rejected our request due to an error in our request")
		Refused(patched(ctx, types.JSONPatchType, `{"op":"remove"}`))(apierrors.IsBadRequest, "error decoding patch")
	}},
	{"merge patches", func(ctx context.Context) {
		Is(data(Must(patched(ctx, types.MergePatchType, `{"data":{"c":null,"d":"6"}}`))), `{"d":"6","e":"4"}`)
		Refused(patched(ctx, types.MergePatchType, `{"metadata":{"resourceVersion":"1"}}`))(apierrors.IsConflict, "the object has been modified")
		Refused(patched(ctx, types.MergePatchType, `{"metadata":{"name":"other"}}`))(apierrors.IsBadRequest, "the name of the object (other) does not match the name on the URL (patched)")
		Refused(patched(ctx, types.MergePatchType, `{"data":`))(apierrors.IsBadRequest, "")
		Refused(kube.CoreV1().ConfigMaps(ns).Patch(ctx, "nothing", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}))(apierrors.IsNotFound, `configmaps "nothing" not found`)
		Refused(patched(ctx, "text/plain", `{}`))(apierrors.IsUnsupportedMediaType, "")
		before := Must(kube.CoreV1().ConfigMaps(ns).Get(ctx, "patched", metav1.GetOptions{}))
		Is(Must(patched(ctx, types.MergePatchType, `{}`)).ResourceVersion, before.ResourceVersion)
	}},
	{"strategic merge patches", func(ctx context.Context) {
		for i, row := range [][2]string{
			{`{"containers":[{"name":"b","image":"b","env":[{"name":"E","value":"1"}]}]}`, "b=b,a=a,"},
			{`{"containers":[{"name":"a","image":"c"}],"$setElementOrder/containers":[{"name":"a"},{"name":"b"}]}`, "a=c,b=b,"},
			{`{"containers":[{"name":"a","$patch":"delete"}]}`, "b=b,"},
			{`{"containers":[{"name":"b","env":[{"$patch":"replace"},{"name":"F","value":"2"}]}]}`, "b=b,F"},
			{`{"$retainKeys":["containers"],"containers":[{"$patch":"replace"},{"name":"z","image":"z"}]}`, "z=z,"},
		} {
			got := Must(kube.AppsV1().Deployments(ns).Patch(ctx, "d", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":`+row[0]+`}}}`), metav1.PatchOptions{}))
			said := ""
			for _, container := range got.Spec.Template.Spec.Containers {
				said += container.Name + "=" + container.Image + ","
				if i == 3 {
					for _, env := range container.Env {
						said += env.Name
					}
				}
			}
			Is(said, row[1])
		}
	}},
}

func applied(manager string, force bool) metav1.ApplyOptions {
	return metav1.ApplyOptions{FieldManager: manager, Force: force}
}

var applies = []One{
	{"apply creates, is shared, conflicts and is forced", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		object := func(a string) *applycore.ConfigMapApplyConfiguration {
			return applycore.ConfigMap("applied", ns).WithData(map[string]string{"a": a})
		}
		made := Must(cm.Apply(ctx, object("1").WithLabels(map[string]string{"l": "1"}), applied("one", false)))
		Is(made.ManagedFields[0].Manager+" "+string(made.ManagedFields[0].Operation), "one Apply")
		Is(string(made.ManagedFields[0].FieldsV1.Raw), `{"f:data":{"f:a":{}},"f:metadata":{"f:labels":{"f:l":{}}}}`)
		Is(Must(cm.Apply(ctx, object("1").WithLabels(map[string]string{"l": "1"}), applied("one", false))).ResourceVersion, made.ResourceVersion)
		Is(len(Must(cm.Apply(ctx, object("1"), applied("two", false))).ManagedFields), 2)
		_, err := cm.Apply(ctx, object("2"), applied("two", false))
		That(apierrors.IsConflict(err) && err.Error() == `Apply failed with 1 conflict: conflict with "one": .data.a`, "%v", err)
		cause := err.(apierrors.APIStatus).Status().Details.Causes[0]
		Is(string(cause.Type)+" "+cause.Message+" "+cause.Field, `FieldManagerConflict conflict with "one" .data.a`)
		Is(data(Must(cm.Apply(ctx, object("2"), applied("two", true)))), `{"a":"2"}`)
		_, err = cm.Apply(ctx, object("3"), metav1.ApplyOptions{})
		That(err != nil, "applied without a manager")
		// An update's owner is said with its version, and gives way to none.
		Must(cm.Patch(ctx, "applied", types.MergePatchType, []byte(`{"data":{"a":"4"}}`), metav1.PatchOptions{FieldManager: "three"}))
		_, err = cm.Apply(ctx, object("5"), applied("two", false))
		That(err != nil && err.Error() == `Apply failed with 1 conflict: conflict with "three" using v1: .data.a`, "%v", err)
	}},
	{"what is no longer applied goes", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		Must(cm.Apply(ctx, applycore.ConfigMap("dropped", ns).WithData(map[string]string{"a": "1", "b": "2"}), applied("one", false)))
		Must(cm.Apply(ctx, applycore.ConfigMap("dropped", ns).WithData(map[string]string{"b": "2", "c": "3"}), applied("two", false)))
		Is(data(Must(cm.Apply(ctx, applycore.ConfigMap("dropped", ns), applied("one", false)))), `{"b":"2","c":"3"}`)
		Is(data(Must(cm.Apply(ctx, applycore.ConfigMap("dropped", ns), applied("two", false)))), `null`)
	}},
	{"what was applied is extracted, changed and applied", func(ctx context.Context) {
		deployments := kube.AppsV1().Deployments(ns)
		spec := func(image string) *applyapps.DeploymentApplyConfiguration {
			labels := map[string]string{"app": "x"}
			return applyapps.Deployment("extracted", ns).WithSpec(applyapps.DeploymentSpec().WithReplicas(0).
				WithSelector(applymeta.LabelSelector().WithMatchLabels(labels)).
				WithTemplate(applycore.PodTemplateSpec().WithLabels(labels).WithSpec(applycore.PodSpec().WithContainers(
					applycore.Container().WithName("a").WithImage(image).WithPorts(applycore.ContainerPort().WithContainerPort(80))))))
		}
		Must(deployments.Apply(ctx, spec("a"), applied("one", false)))
		Must(deployments.Patch(ctx, "extracted", types.JSONPatchType, []byte(`[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"other","image":"o"}}]`), metav1.PatchOptions{}))
		extracted := Must(applyapps.ExtractDeployment(Must(deployments.Get(ctx, "extracted", metav1.GetOptions{})), "one"))
		Is(len(extracted.Spec.Template.Spec.Containers), 1)
		Is(*extracted.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort, 80)
		That(extracted.Spec.Template.Spec.Containers[0].ImagePullPolicy == nil, "a default was extracted")
		extracted.Spec.Template.Spec.Containers[0].WithImage("b")
		got := Must(deployments.Apply(ctx, extracted, applied("one", false)))
		Is(got.Spec.Template.Spec.Containers[0].Image+got.Spec.Template.Spec.Containers[1].Image, "bo")
		_, err := deployments.Apply(ctx, spec("b").WithSpec(applyapps.DeploymentSpec().WithReplicas(-1)), applied("one", false))
		That(apierrors.IsInvalid(err), "%v", err)
	}},
	{"status and scale are applied apart", func(ctx context.Context) {
		pods := kube.CoreV1().Pods(ns)
		status := func(value corev1.ConditionStatus) *applycore.PodApplyConfiguration {
			return applycore.Pod("apart", ns).WithStatus(applycore.PodStatus().WithConditions(applycore.PodCondition().WithType("Applied").WithStatus(value)))
		}
		got := Must(pods.ApplyStatus(ctx, status("True"), applied("one", false)))
		Is(len(got.Status.Conditions), 2)
		_, err := pods.ApplyStatus(ctx, status("False"), applied("two", false))
		That(err != nil && err.Error() == `Apply failed with 1 conflict: conflict with "one" with subresource "status": .status.conditions[type="Applied"].status`, "%v", err)
		entry := got.ManagedFields[len(got.ManagedFields)-1]
		for _, some := range got.ManagedFields {
			if some.Manager == "one" {
				entry = some
			}
		}
		Is(entry.Subresource+" "+string(entry.Operation), "status Apply")
		got = Must(pods.ApplyStatus(ctx, applycore.Pod("apart", ns), applied("one", false)))
		Is(len(got.Status.Conditions), 1)
	}},
}

func owned(name string, owner *corev1.ConfigMap, block bool) *corev1.ConfigMap {
	object := configMap(name, nil)
	object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &block}}
	return object
}

func gone(ctx context.Context, name string) bool {
	_, err := kube.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

var deletions = []One{
	{"deletions have preconditions", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		object := Must(cm.Create(ctx, configMap("precious", nil), metav1.CreateOptions{}))
		remove := func(uid types.UID, version string) error {
			return cm.Delete(ctx, "precious", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
		}
		Refused(0, remove("other", object.ResourceVersion))(apierrors.IsConflict, fmt.Sprintf(`Operation cannot be fulfilled on ConfigMap "precious": the UID in the precondition (other) does not match the UID in record (%s)`, object.UID))
		Refused(0, remove(object.UID, "1"))(apierrors.IsConflict, fmt.Sprintf(`Operation cannot be fulfilled on ConfigMap "precious": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (%s)`, object.ResourceVersion))
		Ok(remove(object.UID, object.ResourceVersion))
		Refused(0, remove(object.UID, object.ResourceVersion))(apierrors.IsNotFound, `configmaps "precious" not found`)
	}},
	{"finalizers hold", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		object := configMap("held", nil)
		object.Finalizers = []string{"example.com/hold"}
		Must(cm.Create(ctx, object, metav1.CreateOptions{}))
		Ok(cm.Delete(ctx, "held", metav1.DeleteOptions{}))
		object = Must(cm.Get(ctx, "held", metav1.GetOptions{}))
		That(object.DeletionTimestamp != nil && *object.DeletionGracePeriodSeconds == 0, "%v", object.ObjectMeta)
		object.Finalizers = append(object.Finalizers, "example.com/more")
		Refused(cm.Update(ctx, object, metav1.UpdateOptions{}))(apierrors.IsInvalid, "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"example.com/more\"}")
		object.Finalizers = nil
		Must(cm.Update(ctx, object, metav1.UpdateOptions{}))
		That(gone(ctx, "held"), "it is still there")
	}},
	{"deletions propagate", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
			owner := Must(cm.Create(ctx, configMap("owner", nil), metav1.CreateOptions{}))
			child := owned("child", owner, true)
			child.Finalizers = []string{"example.com/hold"}
			Must(cm.Create(ctx, child, metav1.CreateOptions{}))
			Ok(cm.Delete(ctx, "owner", metav1.DeleteOptions{PropagationPolicy: &how}))
			deleting := func() bool { return Must(cm.Get(ctx, "child", metav1.GetOptions{})).DeletionTimestamp != nil }
			switch how {
			case metav1.DeletePropagationBackground:
				That(gone(ctx, "owner"), "the owner waits")
				Within(20*time.Second, "the child is being deleted", deleting)
			case metav1.DeletePropagationForeground:
				Within(20*time.Second, "the child is being deleted", deleting)
				Is(Must(cm.Get(ctx, "owner", metav1.GetOptions{})).Finalizers[0], "foregroundDeletion")
			case metav1.DeletePropagationOrphan:
				Within(20*time.Second, "the owner is gone", func() bool { return gone(ctx, "owner") })
				child = Must(cm.Get(ctx, "child", metav1.GetOptions{}))
				That(child.DeletionTimestamp == nil && len(child.OwnerReferences) == 0, "%v", child.ObjectMeta)
				Ok(cm.Delete(ctx, "child", metav1.DeleteOptions{}))
			}
			Must(cm.Patch(ctx, "child", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
			Within(20*time.Second, "both are gone", func() bool { return gone(ctx, "owner") && gone(ctx, "child") })
		}
		background := metav1.DeletePropagationBackground
		Refused(0, cm.Delete(ctx, "made", metav1.DeleteOptions{OrphanDependents: ptr.To(true), PropagationPolicy: &background}))(apierrors.IsInvalid, "orphanDependents and deletionPropagation cannot be both set")
	}},
	{"what has no owner left is collected", func(ctx context.Context) {
		Must(kube.CoreV1().ConfigMaps(ns).Create(ctx, owned("stray", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "never", UID: "no-such"}}, false), metav1.CreateOptions{}))
		Within(20*time.Second, "it is gone", func() bool { return gone(ctx, "stray") })
	}},
	{"collections are deleted by selector", func(ctx context.Context) {
		cm := kube.CoreV1().ConfigMaps(ns)
		Ok(cm.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page=0"}))
		Is(len(Must(cm.List(ctx, metav1.ListOptions{LabelSelector: "page"})).Items), 12)
		Ok(cm.DeleteCollection(ctx, metav1.DeleteOptions{DryRun: []string{"All"}}, metav1.ListOptions{LabelSelector: "page"}))
		Is(len(Must(cm.List(ctx, metav1.ListOptions{LabelSelector: "page"})).Items), 12)
	}},
}

var pods = []One{
	{"pods are bound, resized and given ephemeral containers", func(ctx context.Context) {
		pods := kube.CoreV1().Pods(ns)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bound", Labels: map[string]string{"app": "bound"}}, Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
		Must(pods.Create(ctx, pod, metav1.CreateOptions{}))
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "far"}}
		Ok(pods.Bind(ctx, binding, metav1.CreateOptions{}))
		Refused(0, pods.Bind(ctx, binding, metav1.CreateOptions{}))(apierrors.IsConflict, "pod bound is already assigned to node \"far\"")
		pod = Must(pods.Get(ctx, "bound", metav1.GetOptions{}))
		Is(pod.Spec.NodeName+" "+string(pod.Status.Conditions[0].Type), "far PodScheduled")
		Is(len(Must(pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=far,status.phase=Pending"})).Items), 1)
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "e"}}}
		pod = Must(pods.UpdateEphemeralContainers(ctx, "bound", pod, metav1.UpdateOptions{}))
		Is(pod.Spec.EphemeralContainers[0].ImagePullPolicy, corev1.PullAlways)
		pod.Spec.Containers[0].Command = []string{"other"}
		Refused(pods.Update(ctx, pod, metav1.UpdateOptions{}))(apierrors.IsInvalid, "pod updates may not change fields other than `spec.containers[*].image`")
	}},
	{"evictions ask the disruption budget", func(ctx context.Context) {
		one := intstr.FromInt32(1)
		Must(kube.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "bound"}}}}, metav1.CreateOptions{}))
		pods := kube.CoreV1().Pods(ns)
		pod := Must(pods.Get(ctx, "bound", metav1.GetOptions{}))
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		Must(pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
		Within(10*time.Second, "the budget counts it", func() bool {
			return Must(kube.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "bound", metav1.GetOptions{})).Status.CurrentHealthy == 1
		})
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}
		err := pods.EvictV1(ctx, eviction)
		That(apierrors.IsTooManyRequests(err) && apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), "%v", err)
		Is(err.Error(), "Cannot evict pod as it would violate the pod's disruption budget.")
		Ok(kube.PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "bound", metav1.DeleteOptions{}))
		Ok(pods.EvictV1(ctx, eviction))
		pod = Must(pods.Get(ctx, "bound", metav1.GetOptions{}))
		Is(*pod.DeletionGracePeriodSeconds, 30)
		Ok(pods.Delete(ctx, "bound", *metav1.NewDeleteOptions(0)))
		Refused(pods.Get(ctx, "bound", metav1.GetOptions{}))(apierrors.IsNotFound, `pods "bound" not found`)
	}},
}
