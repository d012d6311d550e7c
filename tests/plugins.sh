#!/bin/bash
# Plugins of a node, from outside: a CSI driver, a device plugin and a DRA driver (crates/rpc/examples/mock) beside a real
# server, and pods that use what they bring; and nodes with another container runtime: `sampan cri`, and containerd where
# its binaries are at hand ($SAMPAN_CRI_PEERS, or ~/.cache/sampan-peers/bin). world.sh says what it stands on; MOCK=target/debug/examples/mock is another
# binary of the plugins.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"
peers=${SAMPAN_CRI_PEERS:-${XDG_CACHE_HOME:-/root/.cache}/sampan-peers/bin}
mock=$(realpath "${MOCK:-$(dirname "$sampan")/examples/mock}")
root=$work/server/agent/kubelet
cdi=/var/run/cdi/$suite-$id.yaml
loop=

gone() {
  set +e
  rm -f "$cdi"
  [ -z "$made_cdi" ] || rmdir /var/run/cdi 2>/dev/null
  [ ! -f "$work/loop" ] || loop=$(cat "$work/loop")
  stop_runtime
  cleanup
  [ -z "$loop" ] || losetup -d "$loop"
}
made_cdi=
[ -d /var/run/cdi ] || made_cdi=yes
trap gone EXIT

said() { has "$1" "$work/log/mock"; }
start_mock() {
  "$mock" "$root" "$work/log/mock" >>"$work/log/mock.out" 2>&1 &
  echo $! >"$work/mock.pid"
  disown
}
# pod NAME SPEC...: one that does what its command says, on node one.
pod() {
  local name=$1 command=$2 more=$3 of=${4:-}
  k apply -f - <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $name}
spec:
  nodeName: one
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: app
    image: example/hello:1
    securityContext: {runAsUser: 0}
    command: [sh, -c, '$command']
$of
$more
YAML
}
runs() { k wait --for=condition=Ready "pod/$1" --timeout=30s; }
ended() { k delete pod "$1" --wait --timeout=30s; }
# volume NAME MODE SOURCE: and a claim of the same name that is bound to it.
volume() {
  k apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: mock
  volumeMode: $2
  claimRef: {namespace: default, name: $1}
$3
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1}
spec: {accessModes: [ReadWriteOnce], storageClassName: mock, volumeMode: $2, volumeName: $1, resources: {requests: {storage: 1Gi}}}
YAML
  within 10 is Bound k get pvc "$1" -o 'jsonpath={.status.phase}'
}
# As the driver's attacher: what is asked for is attached, with this metadata.
attach() {
  within 20 bash -c "nsenter --net=/run/netns/$server $kubectl get volumeattachment -o name | grep ."
  k patch "$(k get volumeattachment -o name)" --subresource=status --type merge -p "{\"status\":{\"attached\":true,\"attachmentMetadata\":$1}}"
}
claims() { printf '  volumes: [{name: v, persistentVolumeClaim: {claimName: %s}}]' "$1"; }
mounts='    volumeMounts: [{name: v, mountPath: /data}]'

step_the_server_answers() {
  within 60 k get --raw /readyz
  within 20 k get csinode one
  "$here/examples/hello/image.sh" "$work/hello.tar"
  at "$server" "$sampan" images --data-dir "$work/server" import "$work/hello.tar"
  within 10 k get serviceaccount default
  k apply -f - <<'YAML'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: mock}
provisioner: mock.example.com
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: mock.example.com}
spec: {attachRequired: true, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}
YAML
}

step_plugins_register_and_the_node_says_so() {
  start_mock
  within 20 is 'mock.example.com mock-node 5' k get csinode one -o 'jsonpath={.spec.drivers[0].name} {.spec.drivers[0].nodeID} {.spec.drivers[0].allocatable.count}'
  is a k get node one -o 'jsonpath={.metadata.labels.topology\.mock\.example\.com/zone}'
  within 10 is '2 2' k get node one -o 'jsonpath={.status.capacity.mock\.example\.com/widget} {.status.allocatable.mock\.example\.com/widget}'
  within 10 is 3 grep -c 'registered true' "$work/log/mock"
}

step_a_claimed_volume_is_attached_staged_and_published() {
  volume disk Filesystem '  csi: {driver: mock.example.com, volumeHandle: disk, fsType: ext4}'
  pod writer 'echo written >/data/file; exec sleep 1000' "$(claims disk)" "$mounts"
  fails said stage
  attach '{"path":"/dev/x"}'
  runs writer
  is written cat "$root/plugins/mock.example.com/data/disk/file"
  said 'stage disk path=/dev/x'
  said 'publish disk SINGLE_NODE_MULTI_WRITER csi.storage.k8s.io/ephemeral=false'
  is 'kubernetes.io/csi/mock.example.com^disk' k get node one -o 'jsonpath={.status.volumesInUse[0]}'
  is 'kubernetes.io/csi/mock.example.com^disk' k get node one -o 'jsonpath={.status.volumesAttached[0].name}'
  k get events | has SuccessfulAttachVolume
  k get --raw /api/v1/nodes/one/proxy/stats/summary | jq -e '.pods[] | select(.podRef.name == "writer").volume[] | select(.pvcRef.name == "disk" and .capacityBytes == 100 and .usedBytes == 40)'
  k get --raw /api/v1/nodes/one/proxy/metrics | has 'kubelet_volume_stats_used_bytes{namespace="default",persistentvolumeclaim="disk"} 40'
}

step_a_killed_server_finds_the_volume_and_gives_it_back() {
  local before
  before=$(wc -l <"$work/log/mock")
  kill -9 "$(cat "$work/server.pid")"
  start_server
  within 60 k get --raw /readyz
  # The plugins stand still: they are asked to register again.
  within 30 is 6 grep -c 'registered true' "$work/log/mock"
  within 20 k exec writer -- sh -c 'echo again >/data/file'
  is again cat "$root/plugins/mock.example.com/data/disk/file"
  is 0 k get pod writer -o 'jsonpath={.status.containerStatuses[0].restartCount}'
  is $((before + 3)) wc -l <"$work/log/mock"
  ended writer
  within 10 said 'unpublish disk'
  within 10 said 'unstage disk'
  within 20 is '' k get volumeattachment -o name
  within 10 is '' k get node one -o 'jsonpath={.status.volumesInUse}{.status.volumesAttached}'
  fails grep "$root/pods" /proc/self/mountinfo
  fails grep globalmount /proc/self/mountinfo
}

step_an_inline_volume_is_told_of_its_pod() {
  pod inline 'echo inside >/data/file; exec sleep 1000' '  volumes: [{name: v, csi: {driver: mock.example.com, volumeAttributes: {colour: blue}}}]' "$mounts"
  runs inline
  said 'colour=blue csi.storage.k8s.io/ephemeral=true csi.storage.k8s.io/pod.name=inline csi.storage.k8s.io/pod.namespace=default'
  ended inline
  within 10 said 'unpublish csi-'
}

step_devices_are_volumes_raw_or_with_a_file_system() {
  truncate -s 64M "$work/disk.img"
  loop=$(losetup --find --show "$work/disk.img")
  echo "$loop" >"$work/loop"
  k patch csidriver mock.example.com --type merge -p '{"spec":{"podInfoOnMount":false}}'
  volume raw Block "  csi: {driver: mock.example.com, volumeHandle: raw, volumeAttributes: {device: $loop}}"
  pod raw 'echo raw >/dev/disk; exec sleep 1000' "$(claims raw)" '    volumeDevices: [{name: v, devicePath: /dev/disk}]'
  attach '{}'
  runs raw
  within 10 is raw head -c 3 "$loop"
  ended raw
  within 10 said 'unstage raw'
  wipefs -aq "$loop"; head -c 1M /dev/zero >"$loop"
  volume local Filesystem "  local: {path: $loop, fsType: ext4}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [one]}]}]}}"
  pod local 'echo kept >/data/file; exec sleep 1000' "$(claims local)" "$mounts"
  runs local
  is ext4 blkid -p -s TYPE -o value "$loop"
  ended local
  pod local 'cat /data/file; exec sleep 1000' "$(claims local)" "$mounts"
  runs local
  within 10 is kept k logs local
  ended local
}

step_a_container_gets_its_devices() {
  pod widget 'echo have $MOCK_DEVICES; ls /dev/mock; exec sleep 1000' '' '    resources: {limits: {mock.example.com/widget: 1}}'
  runs widget
  within 10 is 'have two
/dev/mock' k logs widget
  is two k get pod widget -o 'jsonpath={.status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].resourceID}'
  pod greedy 'exec sleep 1000' '' '    resources: {limits: {mock.example.com/widget: 2}}'
  within 10 is UnexpectedAdmissionError k get pod greedy -o 'jsonpath={.status.reason}'
  k delete pod greedy widget --timeout=30s
}

step_a_container_gets_its_claim() {
  mkdir -p /var/run/cdi
  printf 'cdiVersion: 0.6.0\nkind: mock.example.com/device\ndevices:\n- name: claimed\n  containerEdits: {env: [CLAIMED=yes]}\n' >"$cdi"
  k apply -f - <<'YAML'
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: claim}
spec: {devices: {requests: [{name: one, exactly: {deviceClassName: mock.example.com}}]}}
YAML
  pod claimer 'echo claimed $CLAIMED; exec sleep 1000' '  resourceClaims: [{name: device, resourceClaimName: claim}]' '    resources: {claims: [{name: device}]}'
  local uid
  uid=$(k get pod claimer -o 'jsonpath={.metadata.uid}')
  k patch resourceclaim claim --subresource=status --type merge -p "{\"status\":{\"allocation\":{\"devices\":{\"results\":[
    {\"request\":\"one\",\"driver\":\"mock.example.com\",\"pool\":\"pool\",\"device\":\"a\"}]}},\"reservedFor\":[{\"resource\":\"pods\",\"name\":\"claimer\",\"uid\":\"$uid\"}]}}"
  runs claimer
  within 10 is 'claimed yes' k logs claimer
  said 'prepare claim'
  ended claimer
  within 10 said 'unprepare claim'
}

step_a_credential_provider_is_told_of_the_service_account() {
  k apply -f - <<'YAML'
apiVersion: v1
kind: ServiceAccount
metadata: {name: puller, annotations: {example.com/role: team}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pulls}
rules: [{apiGroups: [''], resources: [registry.example.com], verbs: [request-serviceaccounts-token-audience]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pulls}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pulls}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:nodes'}]
YAML
  k run pulls --image=127.0.0.1:9/team/app:1 --overrides='{"spec":{"nodeName":"one","serviceAccountName":"puller"}}'
  within 20 test -s "$work/log/provider"
  is '127.0.0.1:9/team/app team' jq -rs '.[0] | .image + " " + .serviceAccountAnnotations["example.com/role"]' "$work/log/provider"
  is 'registry.example.com pulls puller' jq -rs '.[0].serviceAccountToken | split(".")[1] | gsub("-"; "+") | gsub("_"; "/") | @base64d | fromjson |
    .aud[0] + " " + (."kubernetes.io" | .pod.name + " " + .serviceaccount.name)' "$work/log/provider"
  within 20 bash -c "nsenter --net=/run/netns/$server $kubectl get events --field-selector involvedObject.name=pulls | grep -q 'Failed to pull image'"
  ended pulls
}

step_plugins_that_go_are_forgotten() {
  kill -9 "$(cat "$work/mock.pid")"
  rm "$root"/plugins_registry/*.sock
  within 20 is '' k get csinode one -o 'jsonpath={.spec.drivers[*].name}'
  within 10 is 0 k get node one -o 'jsonpath={.status.allocatable.mock\.example\.com/widget}'
  pod orphan 'true' '  volumes: [{name: v, csi: {driver: mock.example.com}}]' "$mounts"
  within 10 bash -c "nsenter --net=/run/netns/$server $kubectl describe pod orphan | grep -q 'driver name mock.example.com not found in the list of registered CSI drivers'"
  ended orphan
  start_mock
  within 20 is mock.example.com k get csinode one -o 'jsonpath={.spec.drivers[0].name}'
}

# start_runtime COMMAND...: another runtime at the second node.
start_runtime() {
  rm -f "$work/runtime/cri.sock"
  at_bg "$agent" "$@" >>"$work/log/runtime" 2>&1 &
  echo $! >"$work/runtime.pid"
  disown
  within 30 test -S "$work/runtime/cri.sock"
}
agent_args=(--container-runtime-endpoint "unix://$work/runtime/cri.sock")
# Ends what runs in it with it.
stop_runtime() {
  set +e
  local pid
  [ -d "$work/runtime" ] || return 0
  for pid in agent runtime; do
    [ ! -f "$work/$pid.pid" ] || kill -9 "$(cat "$work/$pid.pid")" 2>/dev/null
    rm -f "$work/$pid.pid"
  done
  pgrep -f "containerd-shim.* $work/runtime/" | xargs -r kill -9
  at "$agent" "$sampan" killall --data-dir "$work/runtime" >>"$work/log/killall" 2>&1
  at "$agent" "$sampan" killall --data-dir "$work/agent" >>"$work/log/killall" 2>&1
  grep " $work/runtime/" /proc/self/mountinfo | awk '{print $5}' | tac | xargs -r umount -l
  at "$agent" ip link del cni0 2>/dev/null
  # runc makes them in hierarchies, too, of which the kubelet knows nothing.
  find /sys/fs/cgroup -depth -type d -path "*/sampan${work//[^a-zA-Z0-9]/-}-agent*" -exec rmdir {} + 2>/dev/null
  rm -rf "$work/runtime"
}

of_pod() { k get pod "$1" -o "jsonpath={.status.containerStatuses[0].$2}"; }
# pods_live_on NAME COMMAND...: what pods do they do on a runtime of that name, which runs already.
pods_live_on() {
  start_agent
  within 30 k get node two
  k wait --for=condition=Ready node/two --timeout=60s
  k get node two -o 'jsonpath={.status.nodeInfo.containerRuntimeVersion}' | has "$1://"
  k apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: lives}
spec:
  nodeName: two
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: example/hello:1
    securityContext: {runAsUser: 0}
    command: [sh, -c, 'if [ -e /data/ran ]; then echo second; exec sleep 1000; fi; echo first; echo >/data/ran; exit 3']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  nodeName: two
  restartPolicy: Never
  initContainers:
  - name: before
    image: example/hello:1
    command: [sh, -c, '[ -x /all/bin/busybox ] && ! echo >/all/tmp/new && head -n 1 /part/hello']
    volumeMounts: [{name: image, mountPath: /all}, {name: image, mountPath: /part, subPath: www/cgi-bin}]
  containers:
  - {name: app, image: 'example/hello:1', command: [echo, finished]}
  volumes: [{name: image, image: {reference: 'example/hello:1'}}]
YAML
  within 60 is "1 true" k get pod lives -o 'jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}'
  of_pod lives containerID | grep -q "^$1://."
  of_pod lives lastState.terminated.containerID | grep -q "^$1://."
  is 3 of_pod lives lastState.terminated.exitCode
  logs_of_both
  k exec lives -- sh -c 'echo spoken; exit 4' >"$work/out" || [ $? = 4 ]
  has spoken "$work/out"
  echo heard | k exec -i lives -- cat | has heard
  local id
  id=$(of_pod lives containerID)
  # The node goes and comes, then its runtime does; pods do not notice.
  kill -9 "$(cat "$work/agent.pid")"
  start_agent
  sleep 3
  within 30 k exec lives -- true
  logs_of_both
  kill -9 "$(cat "$work/runtime.pid")"
  start_runtime "${@:2}"
  within 30 k exec lives -- true
  is "$id 1" k get pod lives -o 'jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}'
  logs_of_both
  k delete pod lives ends --timeout=30s
  within 10 is '' ls "$work/agent/agent/kubelet/pods"
  k delete node two
}
logs_of_both() {
  within 10 is second k logs lives
  is first k logs lives --previous
  within 10 is Succeeded k get pod ends -o 'jsonpath={.status.phase}'
  is finished k logs ends
  is finished k logs --follow ends
  k logs ends -c before | has '#!/bin/sh'
}

step_a_node_on_our_own_cri_runs_pods() {
  local run=("$sampan" cri --data-dir "$work/runtime" --address "unix://$work/runtime/cri.sock" --cluster-cidr 10.77.0.0/24)
  mkdir "$work/runtime"
  trap stop_runtime EXIT
  start_runtime "${run[@]}"
  at "$agent" "$sampan" images --data-dir "$work/runtime" import "$work/hello.tar"
  pods_live_on sampan "${run[@]}"
}

[ -x "$peers/containerd" ] || skip[a_node_on_containerd_runs_pods]="no $peers/containerd"
step_a_node_on_containerd_runs_pods() {
  local run=(env "PATH=$peers:$PATH" "$peers/containerd" --config "$work/runtime/config.toml") cri="plugins.'io.containerd.cri.v1"
  mkdir -p "$work/runtime/cni"
  cat >"$work/runtime/config.toml" <<TOML
version = 3
root = '$work/runtime/root'
state = '$work/runtime/state'
[grpc]
address = '$work/runtime/cri.sock'
[$cri.images'.pinned_images]
sandbox = 'docker.io/example/hello:1'
[$cri.runtime']
restrict_oom_score_adj = true
[$cri.runtime'.cni]
bin_dirs = ['${peers%/bin}/cni/bin']
conf_dir = '$work/runtime/cni'
[$cri.runtime'.containerd]
default_runtime_name = 'runc'
[$cri.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[$cri.runtime'.containerd.runtimes.runc.options]
BinaryName = '$peers/runc'
TOML
  echo '{"cniVersion": "1.0.0", "name": "suite", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
    "ipam": {"type": "host-local", "dataDir": "'"$work"'/runtime/leases", "ranges": [[{"subnet": "10.78.0.0/24"}]]}}]}' >"$work/runtime/cni/10.conflist"
  trap stop_runtime EXIT
  start_runtime "${run[@]}"
  within 30 "$peers/ctr" -a "$work/runtime/cri.sock" version
  "$peers/ctr" -a "$work/runtime/cri.sock" -n k8s.io images import "$work/hello.tar"
  pods_live_on containerd "${run[@]}"
}

network
mkdir "$work/providers"
cat >"$work/providers/plugin" <<SH
#!/bin/sh
cat >>$work/log/provider
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"127.0.0.1:9":{"username":"a","password":"b"}}}'
SH
chmod +x "$work/providers/plugin"
cat >"$work/providers.yaml" <<'YAML'
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['127.0.0.1:9']
  defaultCacheDuration: 1h
  tokenAttributes:
    serviceAccountTokenAudience: registry.example.com
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [example.com/role]
    cacheType: Token
YAML
node_args=(--image-credential-provider-config "$work/providers.yaml" --image-credential-provider-bin-dir "$work/providers")
start_server
walk_all
