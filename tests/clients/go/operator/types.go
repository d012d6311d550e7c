package main

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

var (
	v1 = schema.GroupVersion{Group: "operator.example", Version: "v1"}
	v2 = schema.GroupVersion{Group: "operator.example", Version: "v2"}
)

// Boat is v2, the stored version.
type Boat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Length int    `json:"length"`
		Name   string `json:"name,omitempty"`
	} `json:"spec"`
	Status struct {
		Berth      string             `json:"berth,omitempty"`
		Conditions []metav1.Condition `json:"conditions,omitempty"`
	} `json:"status,omitzero"`
}

// OldBoat is v1, whose length is a text.
type OldBoat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Size string `json:"size"`
		Name string `json:"name,omitempty"`
	} `json:"spec"`
}

type BoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Boat `json:"items"`
}

type OldBoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []OldBoat `json:"items"`
}

func copied[T any](from *T) *T {
	text, err := json.Marshal(from)
	to := new(T)
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	if err != nil {
		panic(err)
	}
	return to
}

func (b *Boat) DeepCopyObject() runtime.Object        { return copied(b) }
func (b *OldBoat) DeepCopyObject() runtime.Object     { return copied(b) }
func (b *BoatList) DeepCopyObject() runtime.Object    { return copied(b) }
func (b *OldBoatList) DeepCopyObject() runtime.Object { return copied(b) }

func (b *Boat) Hub() {}

func (b *OldBoat) ConvertTo(hub conversion.Hub) error {
	to := hub.(*Boat)
	to.ObjectMeta, to.Spec.Name = b.ObjectMeta, b.Spec.Name
	_, err := fmt.Sscanf(b.Spec.Size, "%dm", &to.Spec.Length)
	return err
}

func (b *OldBoat) ConvertFrom(hub conversion.Hub) error {
	from := hub.(*Boat)
	b.ObjectMeta, b.Spec.Name = from.ObjectMeta, from.Spec.Name
	b.Spec.Size = fmt.Sprintf("%dm", from.Spec.Length)
	return nil
}

func register(scheme *runtime.Scheme) {
	scheme.AddKnownTypeWithName(v1.WithKind("Boat"), &OldBoat{})
	scheme.AddKnownTypeWithName(v1.WithKind("BoatList"), &OldBoatList{})
	scheme.AddKnownTypeWithName(v2.WithKind("Boat"), &Boat{})
	scheme.AddKnownTypeWithName(v2.WithKind("BoatList"), &BoatList{})
	metav1.AddToGroupVersion(scheme, v1)
	metav1.AddToGroupVersion(scheme, v2)
}

// What the operator wants there; the port and the authority of its webhooks are filled in.
const manifests = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.operator.example}
spec:
  group: operator.example
  scope: Namespaced
  names: {kind: Boat, plural: boats}
  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {url: "https://127.0.0.1:PORT/convert", caBundle: BUNDLE}}
  versions:
  - name: v1
    served: true
    storage: false
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, required: [size], properties: {size: {type: string}, name: {type: string}}}
  - name: v2
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {length: {type: integer}, name: {type: string}}}
          status: {type: object, properties: {berth: {type: string}, conditions: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: operator.example}
webhooks:
- name: mutate.operator.example
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: "https://127.0.0.1:PORT/mutate-operator-example-v2-boat", caBundle: BUNDLE}
  rules: [{apiGroups: [operator.example], apiVersions: [v2], resources: [boats], operations: [CREATE, UPDATE]}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: operator.example}
webhooks:
- name: validate.operator.example
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: "https://127.0.0.1:PORT/validate-operator-example-v2-boat", caBundle: BUNDLE}
  rules: [{apiGroups: [operator.example], apiVersions: [v2], resources: [boats], operations: [CREATE, UPDATE, DELETE]}]
`
