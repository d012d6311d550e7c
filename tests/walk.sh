#!/bin/bash
# The walk of a user through the program, from outside: a server in one network namespace, a second node in another, a
# client in a third, and upstream's kubectl. Each step asserts what a user would see. world.sh says what it stands on.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"

# ---- the API

step_server_answers() {
  within 60 k get --raw /readyz
  is 600 stat -c %a "$KUBECONFIG"
  is ok k get --raw /livez
  k version | has 'Server Version: v1.37.2'
  within 10 k get serviceaccount default
  is 10.43.0.1 k get service kubernetes -o 'jsonpath={.spec.clusterIP}'
}

step_resources_are_discovered_and_explained() {
  k api-resources >"$work/out"
  has deployments "$work/out"
  has networkpolicies "$work/out"
  k explain deployment.spec.replicas | has 'FIELD: replicas <integer>'
  k api-versions | has apps/v1
}

step_objects_are_made_and_shown() {
  k create namespace walk
  k -n walk create configmap colours --from-literal=sky=blue --from-literal=grass=green
  k -n walk get configmap colours | has '2'
  is blue k -n walk get configmap colours -o 'jsonpath={.data.sky}'
  k -n walk get cm colours -o yaml | has 'grass: green'
  is green jq -r .data.grass <(k -n walk get cm colours -o json)
  k -n walk get cm -o 'custom-columns=N:.metadata.name,SKY:.data.sky' | has blue
  k -n walk create secret generic key --from-literal=word=sesame
  is sesame base64 -d <(k -n walk get secret key -o 'jsonpath={.data.word}')
  k -n walk describe cm colours | has 'sky:'
  fails k -n walk get configmap nothing 2>"$work/out"
  has 'Error from server (NotFound): configmaps "nothing" not found' "$work/out"
}

step_objects_are_changed_by_edit_patch_label() {
  k -n walk label cm colours kind=natural
  is natural k -n walk get cm -l kind=natural -o 'jsonpath={.items[0].metadata.labels.kind}'
  k -n walk annotate cm colours note=hello
  k -n walk patch cm colours --type merge -p '{"data":{"sea":"grey"}}'
  k -n walk patch cm colours --type json -p '[{"op":"replace","path":"/data/sky","value":"red"}]'
  k -n walk patch cm colours --type strategic -p '{"metadata":{"labels":{"more":"yes"}}}'
  is 'grey red yes' k -n walk get cm colours -o 'jsonpath={.data.sea} {.data.sky} {.metadata.labels.more}'
  KUBE_EDITOR='sed -i s/grey/teal/' k -n walk edit cm colours
  is teal k -n walk get cm colours -o 'jsonpath={.data.sea}'
  k -n walk label cm colours kind-
  is '' k -n walk get cm -l kind=natural -o name
}

manifest() {
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: walk}\ndata: {%s}\n' "$1"
}

step_objects_are_applied_by_client_and_server() {
  manifest 'a: "1", b: "1"' | k apply -f - | has created
  manifest 'a: "2"' | k apply -f - | has configured
  is '{"a":"2"}' k -n walk get cm applied -o 'jsonpath={.data}'
  manifest 'a: "2"' | k apply -f - | has unchanged
  k -n walk delete cm applied
  manifest 'a: "1"' | k apply --server-side --field-manager one -f - | has serverside-applied
  if manifest 'a: "2"' | k apply --server-side --field-manager two -f - 2>"$work/out"; then echo 'no conflict'; return 1; fi
  has 'conflict with "one"' "$work/out"
  manifest 'a: "2"' | k apply --server-side --field-manager two --force-conflicts -f -
  is two k -n walk get cm applied --show-managed-fields -o 'jsonpath={.metadata.managedFields[0].manager}'
  if manifest 'a: "3"' | k diff --server-side --field-manager two --force-conflicts -f - >"$work/out"; then echo 'no difference'; return 1; fi
  has 'a: "3"' "$work/out"
}

step_wrong_objects_are_refused() {
  fails k -n walk create deployment Wrong_Name --image=a 2>"$work/out"
  has 'RFC 1123' "$work/out"
  if printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: walk}\ndatum: {}\n' | k apply -f - 2>"$work/out"; then return 1; fi
  has 'unknown field "datum"' "$work/out"
  fails k -n walk run x --image=a --overrides='{"spec":{"restartPolicy":"Perhaps"}}' 2>"$work/out"
  has 'Unsupported value: "Perhaps"' "$work/out"
}

step_changes_are_watched() {
  k_bg -n walk get cm applied -w -o 'jsonpath={.data.a}{"\n"}' >"$work/watch" &
  local pid=$!
  within 10 has 2 "$work/watch"
  k -n walk patch cm applied --type merge -p '{"data":{"a":"watched"}}'
  within 10 has watched "$work/watch"
  kill $pid
}

step_custom_resources_are_served() {
  cat >"$work/crd.yaml" <<'CRD'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.walk.example}
spec:
  group: walk.example
  names: {kind: Boat, plural: boats, singular: boat, shortNames: [bt]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Length, type: integer, jsonPath: .spec.length}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [length]
            x-kubernetes-validations:
            - {rule: self.crew <= self.length * 2, messageExpression: "'too many: %d'.format([self.crew])"}
            properties: {length: {type: integer, minimum: 1}, crew: {type: integer, default: 2}}
    selectableFields: [{jsonPath: .spec.length}]
CRD
  k apply -f "$work/crd.yaml"
  k wait --for=condition=Established crd/boats.walk.example --timeout=30s
  local boat='apiVersion: walk.example/v1\nkind: Boat\nmetadata: {name: junk, namespace: walk}\nspec: {length: %s}\n'
  # shellcheck disable=SC2059
  within 10 bash -c "printf '$boat' 12 | nsenter --net=/run/netns/$server $kubectl apply -f -"
  k -n walk get bt | has 12
  is 2 k -n walk get boat junk -o 'jsonpath={.spec.crew}'
  fails k -n walk patch boat junk --type merge -p '{"spec":{"crew":99}}' 2>"$work/out"
  has 'too many: 99' "$work/out"
  is boat.walk.example/junk k -n walk get boats --field-selector spec.length=12 -o name
  is '' k -n walk get boats --field-selector spec.length=13 -o name
  # shellcheck disable=SC2059
  if printf "$boat" 0 | k apply -f - 2>"$work/out"; then return 1; fi
  has 'should be greater than or equal to 1' "$work/out"
  k delete crd boats.walk.example
}

step_policies_admit_and_change() {
  cat >"$work/policy.yaml" <<'POLICY'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: short-names}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  variables: [{name: most, expression: int(params.data.most)}]
  paramKind: {apiVersion: v1, kind: ConfigMap}
  validations:
  - {expression: size(object.metadata.name) <= variables.most, messageExpression: "'longer than ' + params.data.most", reason: Invalid}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: short-names}
spec:
  policyName: short-names
  paramRef: {name: limits, namespace: walk, parameterNotFoundAction: Deny}
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: walk}}}
  validationActions: [Deny]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: owners}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{annotations: {'owner': request.userInfo.username}}}"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: owners}
spec: {policyName: owners}
POLICY
  k -n walk create configmap limits --from-literal=most=12
  k apply -f "$work/policy.yaml"
  refused_by_policy() { fails k -n walk create configmap thirteen-long --dry-run=server 2>"$work/out" && has 'longer than 12' "$work/out"; }
  within 10 refused_by_policy
  k -n walk create configmap twelve-longs --dry-run=server
  k -n default create configmap thirteen-long --dry-run=server
  owned() { k -n walk create secret generic owned --dry-run=server -o 'jsonpath={.metadata.annotations.owner}' | has system:admin; }
  within 10 owned
  sed 's/size(object/sise(object/' "$work/policy.yaml" | fails k apply -f - 2>"$work/out"
  has 'undeclared reference to '"'sise'" "$work/out"
  k delete -f "$work/policy.yaml"
  k -n walk delete configmap limits
}

step_permissions_are_asked_and_kept() {
  is yes k auth can-i create pods
  k -n walk create serviceaccount reader
  k -n walk create role reader --verb=get,list --resource=configmaps
  k -n walk create rolebinding reader --role=reader --serviceaccount=walk:reader
  is yes k -n walk auth can-i list configmaps --as=system:serviceaccount:walk:reader
  { k -n walk auth can-i delete configmaps --as=system:serviceaccount:walk:reader || true; } | has no
  local token
  token=$(k -n walk create token reader)
  at "$server" "$kubectl" --kubeconfig /dev/null --server https://127.0.0.1:6443 --insecure-skip-tls-verify --token "$token" -n walk get cm | has applied
  if at "$server" "$kubectl" --kubeconfig /dev/null --server https://127.0.0.1:6443 --insecure-skip-tls-verify --token "$token" -n walk get secrets 2>"$work/out"; then return 1; fi
  has 'User "system:serviceaccount:walk:reader" cannot list resource "secrets"' "$work/out"
  k auth whoami | has system:admin
}

step_namespaces_go_with_what_is_in_them() {
  k delete namespace walk --timeout=60s
  fails k -n walk get cm applied 2>/dev/null
}

step_manifests_directory_is_applied() {
  mkdir -p "$work/server/manifests"
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dropped}\ndata: {a: "1"}\n' >"$work/server/manifests/dropped.yaml"
  within 20 k get cm dropped
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n' >"$work/server/manifests/dropped.yaml"
  within 20 k get cm other
  within 20 fails k get cm dropped
}

step_this_machine_is_checked() {
  at "$net" "$sampan" check --data-dir "$work/check" | tee "$work/out"
  has overlayfs "$work/out"
  fails has MISSING "$work/out"
}

# ---- a node and its pods

hello() { k get pods -l app=hello --field-selector status.phase=Running "$@"; }
ready_pods() { hello -o json | jq '[.items[] | select(any(.status.conditions[]?; .type == "Ready" and .status == "True")) | select(.metadata.deletionTimestamp == null)] | length'; }

step_node_is_ready() {
  k wait --for=condition=Ready node/one --timeout=60s
  k get nodes -o wide >"$work/out"
  has 10.99.0.1 "$work/out"
  has v1.37.2 "$work/out"
  k describe node one | has 'KubeletReady'
}

step_images_are_imported_and_listed() {
  "$here/examples/hello/image.sh" "$work/hello.tar"
  at "$server" "$sampan" images --data-dir "$work/server" import "$work/hello.tar" | has 'example/hello:1'
  mkdir "$work/second" && tar -C "$work/second" -xf "$work/hello.tar"
  sed -i 's/hello:1/hello:2/' "$work/second/manifest.json"
  tar -C "$work/second" -c . | at "$server" "$sampan" images --data-dir "$work/server" import - | has 'example/hello:2'
  at "$server" "$sampan" images --data-dir "$work/server" ls >"$work/out"
  grep -qE 'example/hello +1 ' "$work/out"
  at "$server" "$sampan" images --data-dir "$work/server" export "$work/out.tar" docker.io/example/hello:1
  tar -tf "$work/out.tar" | has manifest.json
  # An archive that is dropped is imported too.
  sed -i 's/hello:2/hello:3/' "$work/second/manifest.json"
  tar -C "$work/second" -cf "$work/server/images/third.tar" .
  within 20 bash -c "nsenter --net=/run/netns/$server $sampan images --data-dir $work/server ls | grep -qE 'example/hello +3 '"
  at "$server" "$sampan" images --data-dir "$work/server" rm docker.io/example/hello:3
}

step_a_deployment_gets_ready() {
  k apply -f "$here/examples/hello/hello.yaml"
  k rollout status deployment/hello --timeout=60s
  is 3 ready_pods
  k get pods -o wide | has 10.42.
  k get deployment hello | has '3/3'
}

step_its_url_answers_from_outside() {
  within 20 is 10.99.0.1 k get service hello -o 'jsonpath={.status.loadBalancer.ingress[0].ip}'
  within 10 bash -c "nsenter --net=/run/netns/$net curl -sS --max-time 2 http://10.99.0.1:8088/cgi-bin/hello"
  curl_ http://10.99.0.1:8088/cgi-bin/hello | has 'Hello from hello-'
}

box() {
  cat <<BOX
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 1
  ${2:-}
  containers:
  - name: box
    image: example/hello:1
    command: [sh, -c, 'trap "exit 0" TERM; i=0; while true; do i=\$((i+1)); echo tick \$i; sleep 0.5; done']
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
BOX
}

step_names_and_services_work_in_pods() {
  box box | k apply -f -
  k wait --for=condition=Ready pod/box --timeout=60s
  within 10 k exec box -- nslookup hello.default.svc.cluster.local
  k exec box -- nslookup kubernetes.default.svc.cluster.local | has 10.43.0.1
  k exec box -- wget -qO- http://hello:8088/cgi-bin/hello | has 'Hello from'
  k exec box -- cat /var/run/secrets/kubernetes.io/serviceaccount/namespace | has default
  k exec box -- cat /etc/resolv.conf | has 'nameserver 10.43.0.10'
}

step_pods_and_deployments_are_described() {
  k describe pod box >"$work/out"
  has 'Started' "$work/out"
  has 'Successfully assigned default/box to one' "$work/out"
  k describe deployment hello | has 'NewReplicaSet:'
  k events --for pod/box | has Started
  k get events | has ScalingReplicaSet
}

step_logs_are_read_and_followed() {
  within 10 bash -c "nsenter --net=/run/netns/$server $kubectl logs box | grep -q 'tick 2'"
  is 1 wc -l < <(k logs box --tail=1)
  k logs box --timestamps --tail=1 | grep -qE '^20[0-9]{2}-[0-9-]+T'
  (at "$server" timeout 4 "$kubectl" logs -f --tail=1 box || true) >"$work/follow"
  [ "$(wc -l <"$work/follow")" -ge 4 ]
  k run crash --image=example/hello:1 --restart=Always --command -- sh -c 'echo first life; exit 3'
  within 30 bash -c "[ \"\$(nsenter --net=/run/netns/$server $kubectl get pod crash -o 'jsonpath={.status.containerStatuses[0].restartCount}')\" -ge 1 ]"
  k logs crash --previous | has 'first life'
  k get pod crash -o 'jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}' | has 3
  k delete pod crash --wait=false
}

step_commands_are_run_in_containers() {
  local status=0
  k exec box -- sh -c 'exit 42' || status=$?
  is 42 echo $status
  is 'from outside' k exec -i box -- cat <<<'from outside'
  script -qec "nsenter --net=/run/netns/$server $kubectl exec -it box -- sh -c 'test -t 0 && echo really-a-tty'" /dev/null | has really-a-tty
  head -c 3000000 /dev/urandom >"$work/big"
  is "$(sha256sum <"$work/big")" sha256sum < <(k exec -i box -- cat <"$work/big")
}

step_files_are_copied() {
  mkdir -p "$work/copy/deep" && echo content >"$work/copy/deep/file"
  k cp "$work/copy" box:/data/copy
  is content k exec box -- cat /data/copy/deep/file
  k cp box:/data/copy "$work/back"
  is content cat "$work/back/deep/file"
}

step_ports_are_forwarded() {
  k_bg port-forward deployment/hello 18080:8080 >"$work/out" 2>&1 &
  local pid=$!
  within 10 has Forwarding "$work/out"
  at "$server" curl -sS --max-time 5 http://127.0.0.1:18080/cgi-bin/hello | has 'Hello from'
  kill $pid
}

step_deployments_are_scaled_and_rolled() {
  k scale deployment/hello --replicas=5
  within 30 is 5 ready_pods
  k scale deployment/hello --replicas=2
  within 30 is 2 ready_pods
  k set image deployment/hello hello=example/hello:2
  k rollout status deployment/hello --timeout=60s
  # Old pods may still be ending.
  within 20 is 'example/hello:2 example/hello:2 ' k get pods -l app=hello -o 'jsonpath={range .items[*]}{.spec.containers[0].image} {end}'
  k rollout history deployment/hello | has 2
  k rollout undo deployment/hello
  k rollout status deployment/hello --timeout=60s
  within 20 is example/hello:1 k get deployment hello -o 'jsonpath={.spec.template.spec.containers[0].image}'
  k rollout restart deployment/hello
  k rollout status deployment/hello --timeout=60s
}

step_containers_are_attached_to() {
  echo hello | k run talk --image=example/hello:1 --restart=Never -i --quiet --command -- sh -c 'read word; echo "heard $word"' >"$work/out"
  has 'heard hello' "$work/out"
  within 10 is 0 k get pod talk -o 'jsonpath={.status.containerStatuses[0].state.terminated.exitCode}'
  k delete pod talk
}

step_old_clients_work_too() {
  old() { at "$server" "$old_kubectl" "$@"; }
  old version --short | has 'Client Version: v1.20'
  old get pods -o wide | has box
  old get deployment hello | has '2/2'
  local status=0
  is 'from outside' old exec -i box -- cat <<<'from outside'
  old exec box -- sh -c 'exit 42' || status=$?
  is 42 echo $status
  old logs box --tail=1 | has tick
  old cp "$here/README.md" box:/data/README.md
  k exec box -- cat /data/README.md | has '# Sampan'
  at_bg "$server" "$old_kubectl" port-forward deployment/hello 18081:8080 >"$work/out" 2>&1 &
  local pid=$!
  within 10 has Forwarding "$work/out"
  at "$server" curl -sS --max-time 5 http://127.0.0.1:18081/cgi-bin/hello | has 'Hello from'
  kill $pid
  manifest 'old: "yes"' | sed 's/namespace: walk/namespace: default/' | old apply -f - | has created
  old delete cm applied
}

step_deletions_wait_for_finalizers_and_grace() {
  k create cm held --from-literal=a=1
  k patch cm held --type merge -p '{"metadata":{"finalizers":["walk.example/hold"]}}'
  k delete cm held --wait=false
  k get cm held -o 'jsonpath={.metadata.deletionTimestamp}' | has 20
  k patch cm held --type merge -p '{"metadata":{"finalizers":null}}'
  within 10 fails k get cm held
  # One that does not heed SIGTERM goes at once when forced, and its container with it.
  k run stubborn --image=example/hello:1 --restart=Never --command -- sh -c 'trap "" TERM; touch /tmp/ready; sleep 1000'
  k wait --for=condition=Ready pod/stubborn --timeout=30s
  k delete pod stubborn --grace-period=0 --force
  fails k get pod stubborn
  within 30 fails pgrep -f "touch /tmp/ready; sleep 1000"
}

# A registry inside of the server's namespace, with images that were pushed to it in gzip and in zstd.
step_images_are_pulled_from_a_registry() {
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: 127.0.0.1:5000}\n' "$work" >"$work/registry.yml"
  at_bg "$server" docker-registry serve "$work/registry.yml" >>"$work/log/registry" 2>&1 &
  echo $! >"$work/registry.pid"
  disown
  within 10 at "$server" curl -sSf http://127.0.0.1:5000/v2/
  local form
  for form in gzip zstd; do
    at "$server" skopeo copy -q --dest-tls-verify=false --format oci --dest-compress-format $form \
      "docker-archive:$work/hello.tar" "docker://127.0.0.1:5000/team/$form:1"
  done
  # An index with this machine's platform in it, and one without.
  local digest arch
  digest=$(at "$server" skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://127.0.0.1:5000/team/gzip:1)
  arch=$(at "$server" skopeo inspect --tls-verify=false --format '{{.Architecture}}' docker://127.0.0.1:5000/team/gzip:1)
  index gzip many "$digest" "$arch" s390x
  index gzip foreign "$digest" s390x ppc64le
  local image
  # By digest first: a tag of what is there under its digest is pulled, the reverse is not.
  for image in "gzip@$digest" gzip:1 zstd:1 many:1; do
    k run pulled --image="registry.example/team/$image" --restart=Never --command -- true
    within 30 is Succeeded k get pod pulled -o 'jsonpath={.status.phase}'
    k get events --field-selector involvedObject.name=pulled | has 'Successfully pulled image'
    k delete pod pulled
    k delete events --field-selector involvedObject.name=pulled
  done
  k run foreign --image=registry.example/team/foreign:1 --restart=Never
  within 30 bash -c "nsenter --net=/run/netns/$server $kubectl get pod foreign -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason}' | grep -E 'ErrImagePull|ImagePullBackOff'"
  k get events --field-selector involvedObject.name=foreign >"$work/out"
  has 's390x' "$work/out"
  has "linux/$arch" "$work/out"
  k delete pod foreign
}

# index FROM TO DIGEST ARCHITECTURE...: an index of one image under several architectures' names.
index() {
  local from=$1 to=$2 digest=$3 architecture entries=() size; shift 3
  # The registry wants what an index names in the same repository.
  at "$server" skopeo copy -q --src-tls-verify=false --dest-tls-verify=false --preserve-digests \
    "docker://127.0.0.1:5000/team/$from@$digest" "docker://127.0.0.1:5000/team/$to:only"
  size=$(at "$server" curl -sS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://127.0.0.1:5000/v2/team/$to/manifests/$digest" | wc -c)
  for architecture; do
    entries+=("{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$digest\",\"size\":$size,\"platform\":{\"os\":\"linux\",\"architecture\":\"$architecture\"}}")
  done
  at "$server" curl -sSf -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' "http://127.0.0.1:5000/v2/team/$to/manifests/1" \
    --data "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[$(IFS=,; echo "${entries[*]}")]}"
}

step_jobs_complete() {
  k create job sum --image=example/hello:1 -- sh -c 'echo $((40 + 2))'
  k wait --for=condition=complete job/sum --timeout=60s || { k get job sum -o yaml; k describe pods -l job-name=sum; return 1; }
  k logs job/sum | has 42
  k delete job sum
  within 20 is '' k get pods -l job-name=sum -o name
}

step_stateful_sets_keep_names() {
  cat <<'SET' | k apply -f -
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: db, image: 'example/hello:1'}]
SET
  k rollout status statefulset/db --timeout=60s
  is 'pod/db-0 pod/db-1 ' k get pods -l app=db -o 'jsonpath={range .items[*]}pod/{.metadata.name} {end}'
  within 10 k exec box -- nslookup db-1.db.default.svc.cluster.local
  k delete statefulset/db service/db --timeout=60s
}

step_daemon_sets_run_on_the_node() {
  cat <<'SET' | k apply -f -
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: a, image: 'example/hello:1'}]
SET
  k rollout status daemonset/everywhere --timeout=60s
  k delete daemonset everywhere --timeout=60s
}

# Whether box gets an answer within two seconds (busybox's `wget -T` crashes).
box_asks() {
  k exec box -- sh -c 'rm -f /tmp/answer /tmp/done; (wget -qO /tmp/answer http://hello:8088/cgi-bin/hello && touch /tmp/done) >/dev/null 2>&1 </dev/null & p=$!
    for i in 1 2 3 4 5 6 7 8; do sleep 0.25; [ ! -e /tmp/done ] || exit 0; done; kill $p; exit 1'
}

step_policies_keep_traffic_away() {
  box_asks
  cat <<'POLICY' | k apply -f -
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: hello}
spec:
  podSelector: {matchLabels: {app: hello}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {may: 'yes'}}}]}]
POLICY
  # shellcheck disable=SC2064
  trap 'k delete networkpolicy hello' EXIT
  within 20 fails box_asks
  k label pod box may=yes
  within 20 box_asks
  k label pod box may-
  within 20 fails box_asks
  trap - EXIT
  k delete networkpolicy hello
  within 20 box_asks
}

step_changes_reach_volumes_and_probes() {
  k patch secret hello -p '{"stringData":{"password":"open barley"}}'
  local pod
  pod=$(hello -o 'jsonpath={.items[0].metadata.name}')
  is 'open barley' k get secret hello -o 'go-template={{.data.password | base64decode}}'
  within 100 is 'open barley' k exec "$pod" -- cat /secret/password
}

step_deletions_cascade() {
  k create deployment orphans --image=example/hello:1 --dry-run=client -o json |
    jq '.spec.template.spec.terminationGracePeriodSeconds = 1' | k apply -f -
  k wait --for=condition=Available deployment/orphans --timeout=60s
  k delete deployment orphans --cascade=orphan
  k get rs -l app=orphans -o name | has replicaset
  k delete rs -l app=orphans --cascade=foreground --timeout=60s
  within 30 is '' k get pods -l app=orphans -o name
}

step_the_node_is_cordoned_and_drained() {
  k cordon one
  k get node one | has SchedulingDisabled
  k drain one --force --ignore-daemonsets --delete-emptydir-data --timeout=90s
  within 20 is 0 ready_pods
  k uncordon one
  within 60 is 2 ready_pods
  box box | k apply -f -
  k wait --for=condition=Ready pod/box --timeout=60s
}

acknowledged() { while read -r name; do k get cm "$name" -o name >/dev/null || return 1; done <"$work/acknowledged"; }

step_a_killed_server_loses_nothing() {
  local version before after
  version=$(k get cm -o 'jsonpath={.metadata.resourceVersion}')
  before=$(k get pods -l app=hello -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {end}')
  : >"$work/acknowledged"
  (for i in $(seq 200); do k create cm "kept-$i" --from-literal=a="$i" >/dev/null 2>&1 && echo "kept-$i" >>"$work/acknowledged"; done) &
  local writer=$!
  within 20 grep -q kept-10 "$work/acknowledged"
  kill -9 "$(cat "$work/server.pid")"
  within 5 fails kill -0 "$(cat "$work/server.pid")"
  kill $writer 2>/dev/null || true
  # Later steps need a server whatever this one finds.
  trap 'kill -0 "$(cat "$work/server.pid")" 2>/dev/null || start_server' EXIT
  # Containers go on and serve without it.
  for _ in 1 2 3; do curl_ http://10.99.0.1:8088/cgi-bin/hello | has 'Hello from hello-'; done
  start_server
  within 60 k get --raw /readyz
  acknowledged
  k get --raw "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=$version&timeoutSeconds=3" >"$work/out"
  has '"name":"kept-1"' "$work/out"
  fails has '"code":410' "$work/out"
  within 30 is 2 ready_pods
  after=$(k get pods -l app=hello -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {end}')
  [ "$before" = "$after" ] || { echo "other containers: $before / $after"; return 1; }
  k exec box -- echo still here | has 'still here'
  within 20 bash -c "nsenter --net=/run/netns/$server $kubectl logs box --tail=1 | grep -q tick"
}

step_a_second_node_joins_by_token() {
  mkdir -p "$work/agent/images"
  cp "$work/hello.tar" "$work/agent/images/"
  start_agent
  within 60 k get node two
  k wait --for=condition=Ready node/two --timeout=60s
  k get nodes -o wide | has 10.99.0.2
}

step_pods_of_both_nodes_reach_each_other() {
  box far 'nodeName: two' | k apply -f -
  k wait --for=condition=Ready pod/far --timeout=60s
  k exec far -- wget -qO- http://hello:8088/cgi-bin/hello | has 'Hello from'
  k logs far --tail=1 | has tick
  local ip
  k exec far -- sh -c 'busybox httpd -p 9000 -h /www'
  ip=$(k get pod far -o 'jsonpath={.status.podIP}')
  within 10 k exec box -- wget -qO- "http://$ip:9000/cgi-bin/hello"
  curl_ http://10.99.0.2:8088/cgi-bin/hello | has 'Hello from'
}

step_a_killed_agent_finds_its_pods_again() {
  kill -9 "$(cat "$work/agent.pid")"
  start_agent # at once: it waits for what its predecessor still holds
  within 30 k exec far -- true || { tail -n 5 "$work/log/agent"; return 1; }
  is 0 k get pod far -o 'jsonpath={.status.containerStatuses[0].restartCount}'
}

# As after a power cut of a node: processes, mounts, links and rules are gone, what lies on the disk is there.
cut_agent() {
  local groups link
  groups=$(find /sys/fs/cgroup -path "*/sampan${work//[^a-zA-Z0-9]/-}-agent/*" -name cgroup.procs)
  # Keepers first: they would note how their containers end.
  kill -9 "$(cat "$work/agent.pid")" $(pgrep -f "hold dir=$work/agent/")
  # shellcheck disable=SC2086
  kill -9 $(cat $groups | sort -u) 2>/dev/null || true
  within 10 fails pgrep -f "$work/agent[/ ]"
  grep " $work/agent/" /proc/self/mountinfo | awk '{print $5}' | tac | xargs -r umount -l
  rm -rf "$work/agent/run"
  for link in $(at "$agent" ip -o link | grep -o 'spn[^@: ]*' | sort -u); do at "$agent" ip link del "$link"; done
  at "$agent" nft flush ruleset
}

# The process in the pod `far`, where there is no server to ask.
far_pid() { cat "/sys/fs/cgroup/"{,memory/,unified/}"sampan${work//[^a-zA-Z0-9]/-}-agent/kubepods/besteffort/pod$1"/*/cgroup.procs 2>/dev/null | sort -un | head -n 1 | grep . || [ ${PIPESTATUS[3]} = 0 ]; }

# A StatefulSet on the second node's disk, which notes at every start what it was given.
stateful() {
  mkdir -p "$work/disk"
  cat <<STATEFUL
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  local: {path: $work/disk}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [two]}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sky}
data: {sky: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: word}
stringData: {word: sesame}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kept}
spec:
  serviceName: kept
  selector: {matchLabels: {app: kept}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, resources: {requests: {storage: 1Gi}}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: kept
        image: example/hello:1
        command:
        - sh
        - -c
        - 'echo "\$(cat /etc/sky/sky) \$WORD \$HELLO_SERVICE_HOST \$(head -c 2 /etc/sky/token) \$(cat /etc/sky/name)" >>/data/starts; exec sleep 3600'
        env: [{name: WORD, valueFrom: {secretKeyRef: {name: word, key: word}}}]
        securityContext: {runAsUser: 0}
        volumeMounts: [{name: data, mountPath: /data}, {name: sky, mountPath: /etc/sky}]
      volumes:
      - name: sky
        projected:
          sources:
          - configMap: {name: sky}
          - serviceAccountToken: {path: token, audience: vault}
          - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
STATEFUL
}

step_a_node_that_boots_without_its_server_runs_its_pods() {
  local uid pid line kept
  stateful | k apply -f -
  k rollout status statefulset/kept --timeout=60s
  line="blue sesame $(k get service hello -o 'jsonpath={.spec.clusterIP}') ey kept-0"
  is "$line" cat "$work/disk/starts"
  kept=$(k get pod kept-0 -o 'jsonpath={.metadata.uid}')
  uid=$(k get pod far -o 'jsonpath={.metadata.uid}')
  kill -9 "$(cat "$work/server.pid")"
  trap 'kill -0 "$(cat "$work/server.pid")" 2>/dev/null || start_server; kill -0 "$(cat "$work/agent.pid")" 2>/dev/null || start_agent' EXIT
  cut_agent
  fails far_pid "$uid"
  start_agent
  within 30 far_pid "$uid" || { tail -n 8 "$work/log/agent"; return 1; }
  pid=$(far_pid "$uid")
  within 30 is "$line"$'\n'"$line" cat "$work/disk/starts"
  start_server
  within 60 k get --raw /readyz
  within 60 k exec far -- true
  within 30 k wait --for=condition=Ready node/two pod/far --timeout=1s
  is "$uid" k get pod far -o 'jsonpath={.metadata.uid}'
  # It is told as a restart, and what was started without the server goes on.
  within 20 is 1 k get pod far -o 'jsonpath={.status.containerStatuses[0].restartCount}'
  is "$pid" far_pid "$uid"
  k wait --for=condition=Ready pod/kept-0 --timeout=30s
  is "$kept 1" k get pod kept-0 -o 'jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}'
  is 2 grep -c . "$work/disk/starts"
  k delete statefulset/kept pod/far pod/box pvc/data-kept-0 pv/disk configmap/sky secret/word --timeout=60s
  within 20 [ ! -e "$work/agent/agent/kubelet/pods/$kept" ]
}

step_killall_leaves_nothing() {
  local pid
  for pid in "$(cat "$work/server.pid")" "$(cat "$work/agent.pid" || echo 0)"; do
    [ "$pid" = 0 ] || ! kill "$pid" 2>/dev/null || within 20 fails kill -0 "$pid"
  done
  at "$server" "$sampan" killall --data-dir "$work/server"
  [ ! -d "$work/agent/agent" ] || at "$agent" "$sampan" killall --data-dir "$work/agent"
  fails grep -q " $work/[^ ]*/" /proc/self/mountinfo
  at "$server" ip -o link | fails has spn
  at "$server" nft list tables | fails has sampan
  fails pgrep -af "$work/(server|agent)/"
  [ -f "$work/server/server/db/state.db" ]
}

# registry.example is a name of the registry that a step starts.
cat >"$work/registries.yaml" <<'REGISTRIES'
mirrors:
  registry.example: {endpoint: [http://127.0.0.1:5000]}
REGISTRIES
node_args=(--private-registry "$work/registries.yaml")
network
start_server
walk_all
