package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "clients/internal/check"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

var discoveries = []One{
	{"discovery takes two requests", func(ctx context.Context) {
		mark := asked.mark()
		groups, resources, err := kube.Discovery().ServerGroupsAndResources()
		Ok(err)
		Is(len(asked.since(mark, "")), 2)
		That(len(groups) > 20 && len(resources) > 20, "%d groups, %d lists", len(groups), len(resources))
		// The old way says the same.
		old, olds, err := kube.DiscoveryClient.WithLegacy().ServerGroupsAndResources()
		Ok(err)
		Is(len(old), len(groups))
		names := func(lists []*metav1.APIResourceList) (all []string) {
			for _, list := range lists {
				for _, r := range list.APIResources {
					if strings.Contains(r.Name, "/") {
						r.SingularName = "" // only the new way has it
					}
					slices.Sort(r.Verbs)
					slices.Sort(r.ShortNames)
					slices.Sort(r.Categories)
					all = append(all, fmt.Sprint(list.GroupVersion, r.Name, r.SingularName, r.Namespaced, r.Kind, r.Verbs, r.ShortNames, r.Categories))
				}
			}
			slices.Sort(all)
			return
		}
		left, right := names(resources), names(olds)
		for i := range left {
			Is(left[i], right[i])
		}
		Is(Must(kube.Discovery().ServerVersion()).Minor, "37")
	}},
	{"schemas are published", func(ctx context.Context) {
		document := Must(kube.Discovery().OpenAPISchema())
		That(len(document.Definitions.AdditionalProperties) > 500, "%d definitions", len(document.Definitions.AdditionalProperties))
		paths := Must(kube.Discovery().OpenAPIV3().Paths())
		That(len(Must(paths["apis/apps/v1"].Schema("application/json"))) > 10_000, "apps/v1 is short")
	}},
	{"kinds, resources and short names are mapped", func(ctx context.Context) {
		cached := memory.NewMemCacheClient(kube.Discovery())
		mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
		Is(Must(mapper.KindFor(schema.GroupVersionResource{Resource: "deployment"})).String(), "apps/v1, Kind=Deployment")
		Is(Must(mapper.RESTMapping(schema.GroupKind{Group: "networking.k8s.io", Kind: "Ingress"})).Resource.String(), "networking.k8s.io/v1, Resource=ingresses")
		short := restmapper.NewShortcutExpander(mapper, cached, nil)
		for _, row := range [][2]string{{"po", "/v1, Resource=pods"}, {"sts", "apps/v1, Resource=statefulsets"}, {"hpa", "autoscaling/v2, Resource=horizontalpodautoscalers"}, {"netpol", "networking.k8s.io/v1, Resource=networkpolicies"}} {
			Is(Must(short.ResourceFor(schema.GroupVersionResource{Resource: row[0]})).String(), row[1])
		}
		_, err := mapper.KindFor(schema.GroupVersionResource{Resource: "nothings"})
		That(err != nil, "a kind of nothings")
	}},
	{"metadata alone", func(ctx context.Context) {
		client := Must(metadata.NewForConfig(config))
		cm := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(ns)
		list := Must(cm.List(ctx, metav1.ListOptions{LabelSelector: "page=1"}))
		Is(len(list.Items), 12)
		w := Must(cm.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion}))
		defer w.Stop()
		got := Must(cm.Patch(ctx, "page-01", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}},"data":{"x":"y"}}`), metav1.PatchOptions{}))
		Is(got.Annotations["a"], "b")
		event := <-w.ResultChan()
		Is(event.Object.(*metav1.PartialObjectMetadata).Annotations["a"], "b")
		Is(Must(cm.Get(ctx, "page-01", metav1.GetOptions{})).UID, list.Items[0].UID)
		Ok(cm.Delete(ctx, "page-01", metav1.DeleteOptions{}))
		Ok(cm.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page"}))
		Is(len(Must(cm.List(ctx, metav1.ListOptions{LabelSelector: "page"})).Items), 0)
	}},
	{"scales", func(ctx context.Context) {
		scaled(ctx, schema.GroupResource{Group: "apps", Resource: "deployments"}, "d", 0)
	}},
	{"tables", func(ctx context.Context) {
		table := tableOf(ctx, "/api/v1/namespaces/"+ns+"/pods")
		Says("Name Ready Status 9", table.ColumnDefinitions[0].Name, table.ColumnDefinitions[1].Name, table.ColumnDefinitions[2].Name, len(table.ColumnDefinitions))
		Says("[apart 0/1 Pending 0]", table.Rows[0].Cells[:4])
		That(table.ResourceVersion != "" && len(table.Rows[0].Object.Raw) > 0, "%v", table.ListMeta)
	}},
}

func tableOf(ctx context.Context, path string) (table metav1.Table) {
	Ok(kube.RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Into(&table))
	return
}

// scaled gets, updates and patches a scale by the client that autoscalers use.
func scaled(ctx context.Context, resource schema.GroupResource, name string, now int32) {
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))
	client := Must(scale.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(kube.Discovery()))).Scales(ns)
	got := Must(client.Get(ctx, resource, name, metav1.GetOptions{}))
	Is(got.Spec.Replicas, now)
	got.Spec.Replicas = 2
	got = Must(client.Update(ctx, resource, got, metav1.UpdateOptions{}))
	Is(got.Spec.Replicas, 2)
	got.ResourceVersion = "1"
	Refused(client.Update(ctx, resource, got, metav1.UpdateOptions{}))(apierrors.IsConflict, "the object has been modified")
	mapping := Must(mapper.ResourceFor(resource.WithVersion("")))
	got = Must(client.Patch(ctx, mapping, name, types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}))
	Is(got.Spec.Replicas, 1)
}

var boats = schema.GroupVersionResource{Group: "go.example", Version: "v1", Resource: "boats"}

func boat(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "go.example/v1", "kind": "Boat", "metadata": map[string]any{"name": name}, "spec": spec}}
}

func field(object *unstructured.Unstructured, path ...string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(object.Object, path...)
	return value
}

var customs = []One{
	{"a custom resource is defined", func(ctx context.Context) {
		number, text := apiextensionsv1.JSONSchemaProps{Type: "integer"}, apiextensionsv1.JSONSchemaProps{Type: "string"}
		length := number
		length.Minimum, length.Default = new(float64), &apiextensionsv1.JSON{Raw: []byte("3")}
		object := func(properties map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
			return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties}
		}
		top := object(map[string]apiextensionsv1.JSONSchemaProps{
			"spec":   object(map[string]apiextensionsv1.JSONSchemaProps{"length": length, "crew": number, "name": text}),
			"status": object(map[string]apiextensionsv1.JSONSchemaProps{"crew": number, "phase": text}),
		})
		selector := ".status.phase"
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "boats.go.example"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "go.example", Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Kind: "Boat", ShortNames: []string{"bt"}, Categories: []string{"all"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &top},
				Subresources:             &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}, Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.crew", StatusReplicasPath: ".status.crew", LabelSelectorPath: &selector}},
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Length", Type: "integer", JSONPath: ".spec.length"}, {Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"}}}},
		}}
		definitions := crds.ApiextensionsV1().CustomResourceDefinitions()
		_ = definitions.Delete(ctx, crd.Name, metav1.DeleteOptions{})
		Within(20*time.Second, "it is created", func() bool { _, err := definitions.Create(ctx, crd, metav1.CreateOptions{}); return err == nil })
		Within(20*time.Second, "it is established", func() bool {
			return slices.ContainsFunc(Must(definitions.Get(ctx, crd.Name, metav1.GetOptions{})).Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
				return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
			})
		})
		Within(20*time.Second, "it is discovered", func() bool {
			found, err := kube.Discovery().ServerResourcesForGroupVersion("go.example/v1")
			return err == nil && len(found.APIResources) == 3
		})
	}},
	{"custom objects are defaulted, pruned and validated", func(ctx context.Context) {
		client := dyn.Resource(boats).Namespace(ns)
		got := Must(client.Create(ctx, boat("a", map[string]any{"crew": int64(1), "sail": "red"}), metav1.CreateOptions{FieldValidation: "Ignore"}))
		Says("map[crew:1 length:3]", field(got, "spec"))
		Refused(client.Create(ctx, boat("b", map[string]any{"sail": "red"}), metav1.CreateOptions{FieldValidation: "Strict"}))(apierrors.IsBadRequest, `strict decoding error: unknown field "spec.sail"`)
		Refused(client.Create(ctx, boat("b", map[string]any{"length": int64(-1)}), metav1.CreateOptions{}))(apierrors.IsInvalid, `spec.length: Invalid value: -1: spec.length in body should be greater than or equal to 0`)
		Refused(client.Create(ctx, boat("b", map[string]any{"length": "long"}), metav1.CreateOptions{}))(apierrors.IsInvalid, `spec.length: Invalid value: "string": spec.length in body must be of type integer: "string"`)
		Is(got.GetGeneration(), 1)
	}},
	{"custom objects are updated, patched and applied", func(ctx context.Context) {
		client := dyn.Resource(boats).Namespace(ns)
		got := Must(client.Get(ctx, "a", metav1.GetOptions{}))
		old := got.DeepCopy()
		Ok(unstructured.SetNestedField(got.Object, "Argo", "spec", "name"))
		Ok(unstructured.SetNestedField(got.Object, "not-taken", "status", "phase"))
		got = Must(client.Update(ctx, got, metav1.UpdateOptions{}))
		Says("2 <nil> Argo", got.GetGeneration(), field(got, "status", "phase"), field(got, "spec", "name"))
		Refused(client.Update(ctx, old, metav1.UpdateOptions{}))(apierrors.IsConflict, "the object has been modified")
		Ok(unstructured.SetNestedField(got.Object, "afloat", "status", "phase"))
		Ok(unstructured.SetNestedField(got.Object, "not-taken", "spec", "name"))
		got = Must(client.UpdateStatus(ctx, got, metav1.UpdateOptions{}))
		Says("2 afloat Argo", got.GetGeneration(), field(got, "status", "phase"), field(got, "spec", "name"))
		got = Must(client.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"crew":5}}`), metav1.PatchOptions{}))
		Says("3 5", got.GetGeneration(), field(got, "spec", "crew"))
		got = Must(client.Patch(ctx, "a", types.JSONPatchType, []byte(`[{"op":"replace","path":"/status/phase","value":"sunk"}]`), metav1.PatchOptions{}, "status"))
		Says("sunk", field(got, "status", "phase"))
		Refused(client.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}))(apierrors.IsUnsupportedMediaType, "accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")
		got = Must(client.Apply(ctx, "c", boat("c", map[string]any{"length": int64(9)}), metav1.ApplyOptions{FieldManager: "one"}))
		Is(got.GetGeneration(), 1)
		_, err := client.Apply(ctx, "c", boat("c", map[string]any{"length": int64(8)}), metav1.ApplyOptions{FieldManager: "two"})
		That(apierrors.IsConflict(err) && err.Error() == `Apply failed with 1 conflict: conflict with "one": .spec.length`, "%v", err)
		got = Must(client.Apply(ctx, "c", boat("c", map[string]any{"length": int64(8)}), metav1.ApplyOptions{FieldManager: "two", Force: true}))
		Says("8", field(got, "spec", "length"))
		scaled(ctx, boats.GroupResource(), "a", 5)
	}},
	{"custom objects are listed, watched and printed", func(ctx context.Context) {
		client := dyn.Resource(boats).Namespace(ns)
		list := Must(client.List(ctx, metav1.ListOptions{Limit: 1}))
		That(len(list.Items) == 1 && list.GetContinue() != "" && *list.GetRemainingItemCount() == 1, "%v", list.Object)
		w := Must(client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}))
		defer w.Stop()
		Ok(client.Delete(ctx, "c", metav1.DeleteOptions{}))
		event := <-w.ResultChan()
		Is(event.Type, watch.Deleted)
		table := tableOf(ctx, "/apis/go.example/v1/namespaces/"+ns+"/boats")
		Says("1 Length [a 3]", len(table.Rows), table.ColumnDefinitions[1].Name, table.Rows[0].Cells[:2])
	}},
	{"the definition takes its objects along", func(ctx context.Context) {
		definitions := crds.ApiextensionsV1().CustomResourceDefinitions()
		Ok(definitions.Delete(ctx, "boats.go.example", metav1.DeleteOptions{}))
		Within(20*time.Second, "it is gone", func() bool {
			_, err := definitions.Get(ctx, "boats.go.example", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		Within(20*time.Second, "its path is gone", func() bool {
			_, err := dyn.Resource(boats).Namespace(ns).List(ctx, metav1.ListOptions{})
			return apierrors.IsNotFound(err)
		})
	}},
}
