// server-gen asks upstream's own server code what it makes of objects: its defaults, its problems with them, and the row
// it prints. Our tests compare.
//
//	go run . GIVEN WANT      GIVEN has a JSON object a line; WANT gets, with tabs between: the object, the object with its
//	                         defaults, the problems as a JSON list, the cells as a JSON list; zipped
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
)

// strategies validate what a creator sent, by kind.
var strategies = map[string]rest.RESTCreateStrategy{
	"CSIDriver":                  csidriver.Strategy,
	"CSINode":                    csinode.Strategy,
	"CertificateSigningRequest":  certificates.Strategy,
	"ClusterRole":                clusterrole.Strategy,
	"ClusterRoleBinding":         clusterrolebinding.Strategy,
	"ConfigMap":                  configmap.Strategy,
	"ControllerRevision":         controllerrevision.Strategy,
	"CronJob":                    cronjob.Strategy,
	"DaemonSet":                  daemonset.Strategy,
	"Deployment":                 deployment.Strategy,
	"EndpointSlice":              endpointslice.Strategy,
	"Endpoints":                  endpoint.Strategy,
	"Event":                      event.Strategy,
	"FlowSchema":                 flowschema.Strategy,
	"HorizontalPodAutoscaler":    horizontalpodautoscaler.Strategy,
	"Ingress":                    ingress.Strategy,
	"IngressClass":               ingressclass.Strategy,
	"Job":                        job.Strategy,
	"Lease":                      lease.Strategy,
	"LimitRange":                 limitrange.Strategy,
	"Namespace":                  namespace.Strategy,
	"NetworkPolicy":              networkpolicy.Strategy,
	"Node":                       node.Strategy,
	"PersistentVolume":           persistentvolume.Strategy,
	"PersistentVolumeClaim":      persistentvolumeclaim.Strategy,
	"Pod":                        pod.Strategy,
	"PodDisruptionBudget":        poddisruptionbudget.Strategy,
	"PodTemplate":                podtemplate.Strategy,
	"PriorityClass":              priorityclass.Strategy,
	"PriorityLevelConfiguration": prioritylevelconfiguration.Strategy,
	"ReplicaSet":                 replicaset.Strategy,
	"ReplicationController":      replicationcontroller.Strategy,
	"ResourceQuota":              resourcequota.Strategy,
	"Role":                       role.Strategy,
	"RoleBinding":                rolebinding.Strategy,
	"RuntimeClass":               runtimeclass.Strategy,
	"Secret":                     secret.Strategy,
	"Service":                    service.Strategy,
	"ServiceAccount":             serviceaccount.Strategy,
	"StatefulSet":                statefulset.Strategy,
	"StorageClass":               storageclass.Strategy,
	"VolumeAttachment":           volumeattachment.Strategy,
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: server-gen GIVEN WANT")
	}
	given, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	// As with --allow-privileged.
	capabilities.Setup(true, 0)
	var out bytes.Buffer
	for _, line := range strings.Split(string(given), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		defaulted, problems, cells, err := ask(line)
		if err != nil {
			log.Printf("left out: %s: %v", line, err)
			continue
		}
		fmt.Fprintf(&out, "%s\t%s\t%s\t%s\n", line, defaulted, list(problems), cells)
	}
	file, err := os.Create(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	zip, _ := gzip.NewWriterLevel(file, gzip.BestCompression)
	if _, err := zip.Write(out.Bytes()); err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(zip.Close(), file.Close()); err != nil {
		log.Fatal(err)
	}
}

func list(v []string) string {
	if v == nil {
		v = []string{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return strings.TrimSpace(b.String())
}

func ask(line string) (string, []string, string, error) {
	object, gvk, err := legacyscheme.Codecs.UniversalDeserializer().Decode([]byte(line), nil, nil)
	if err != nil {
		return "", nil, "", err
	}
	legacyscheme.Scheme.Default(object)
	defaulted, err := json.Marshal(object)
	if err != nil {
		return "", nil, "", err
	}
	internal, err := legacyscheme.Scheme.ConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return "", nil, "", err
	}
	cells := ""
	generator := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	if table, err := generator.GenerateTable(internal, printers.GenerateOptions{Wide: true}); err == nil {
		text, _ := json.Marshal(table.Rows[0].Cells)
		cells = string(text)
	}
	var problems []string
	if strategy := strategies[gvk.Kind]; strategy != nil {
		ctx := genericapirequest.NewContext()
		accessor, _ := meta.Accessor(internal)
		if strategy.NamespaceScoped() {
			ctx = genericapirequest.WithNamespace(ctx, accessor.GetNamespace())
		}
		ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{APIGroup: gvk.Group, APIVersion: gvk.Version})
		// As rest.BeforeCreate does it, every problem kept.
		rest.FillObjectMetaSystemFields(accessor)
		accessor.SetUID("")
		accessor.SetCreationTimestamp(metav1.Time{})
		strategy.PrepareForCreate(ctx, internal)
		for _, e := range strategy.Validate(ctx, internal) {
			problems = append(problems, e.Error())
		}
		// Maps are walked in no order.
		slices.Sort(problems)
	}
	return string(defaulted), problems, cells, nil
}
