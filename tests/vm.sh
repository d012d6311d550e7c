#!/bin/bash
# A node on a machine of its own (vm/machine.sh): cgroup v2, AppArmor, every capability, logind, reboots, and power that goes
# off at any moment. world.sh says what it stands on. Without hardware's help everything takes some ten times as long.
# CUTS="12 34": seeds of the cuts of power, VM_CUTS=3: how many by chance.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
if [ "$(uname -m)" != x86_64 ]; then
  echo "vm: 0 passed, 0 failed, 1 skipped (the machine is an x86_64 one)"
  exit 0
fi
. "$here/tests/world.sh"
. "$here/tests/vm/machine.sh"

n() { k -n vm "$@"; }
# pod NAME SCRIPT [more of the container, as JSON] [more of the spec]
pod() {
  local container=${3:-} spec=${4:-}
  jq -n --arg name "$1" --arg script "$2" --argjson container "${container:-null}" --argjson spec "${spec:-null}" '{apiVersion: "v1", kind: "Pod",
    metadata: {name: $name, namespace: "vm"}, spec: ({terminationGracePeriodSeconds: 0, containers: [{name: "a", image: "example/hello:1",
    command: ["sh", "-c", $script], securityContext: {runAsUser: 0}} * ($container // {})]} * ($spec // {}))}' | k apply -f -
}
of() { n get pod "$1" -o "jsonpath={.status.$2}"; }
container() { of "$1" "containerStatuses[0].$2"; }
running() { is true container "$1" ready; }
gone() { n delete pod "$@" --now --timeout=120s; }
# The directory of a pod's cgroup; with a second word that of its container.
group() {
  local class
  class=$(of "$1" qosClass | tr '[:upper:]' '[:lower:]')
  [ "$class" != guaranteed ] || class=.
  echo "/sys/fs/cgroup/kubepods/$class/pod$(n get pod "$1" -o 'jsonpath={.metadata.uid}')${2:+/$(container "$1" containerID | sed 's|.*//||')}"
}
# limits DIRECTORY FILE...: what they say, on one line.
limits() { local dir=$1; shift; run "cd $dir && cat $*" | paste -sd ';'; }
# settings FLAGS...: the server starts again with these.
settings() {
  run "echo 'SAMPAN_MORE=$*' >/etc/sampan.env; systemctl restart sampan"
  within 60 k get --raw /readyz
  within 60 k wait --for=condition=Ready node/vm --timeout=1s
}
node_of_this_boot() {
  local boot
  boot=$(run 'cat /proc/sys/kernel/random/boot_id')
  within 120 is "$boot" k get node vm -o 'jsonpath={.status.nodeInfo.bootID}'
}

step_a_machine_boots_and_its_node_is_ready() {
  "$here/examples/hello/image.sh" "$work/hello.tar"
  vm_disk "$work/hello.tar"
  with_disk eval 'echo "SAMPAN_MORE=--kubelet-arg pod-max-pids=512" >"$work/mounted/etc/sampan.env"'
  local started=$EPOCHREALTIME up ready
  vm_boot
  within 120 vm_up
  up=$EPOCHREALTIME
  vm_ready
  ready=$EPOCHREALTIME
  echo "vm: up in $(((${up/./} - ${started/./}) / 1000)) ms, its new node Ready in $(((${ready/./} - ${started/./}) / 1000)) ms" >>"$work/times"
  run 'cat /sys/fs/cgroup/cgroup.controllers' | has memory
  is Y run 'cat /sys/module/apparmor/parameters/enabled'
  k create namespace vm
  within 30 n get serviceaccount default
  within 60 eval "run 'sampan images ls' | has docker.io/example/hello"
}

step_limits_stand_in_the_files_of_version_2() {
  n create deployment burst --image example/hello:1
  n set resources deployment burst --requests cpu=100m,memory=64Mi --limits cpu=250m,memory=128Mi
  n rollout status deployment burst --timeout=120s
  local name
  name=$(n get pods -l app=burst --field-selector status.phase=Running -o 'jsonpath={.items[0].metadata.name}')
  pod whole 'sleep 1000' '{"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}'
  pod none 'sleep 1000'
  within 60 running whole
  within 60 running none
  local files='cpu.max cpu.weight memory.max memory.high memory.swap.max memory.oom.group'
  is '25000 100000;17;134217728;max;0;1' limits "$(group "$name" container)" $files
  is '25000 100000;17;134217728;max;max;0;512' limits "$(group "$name")" $files pids.max
  is '50000 100000;59;67108864;max;0;1' limits "$(group whole container)" $files
  is '50000 100000;59;67108864;max;max;0;512' limits "$(group whole)" $files pids.max
  is 'max 100000;1;max;max;0;1' limits "$(group none container)" $files
  is 'max 100000;1;max;max;max;0;512' limits "$(group none)" $files pids.max
  is 'max 100000;1' limits /sys/fs/cgroup/kubepods/besteffort cpu.max cpu.weight
  # Huge pages are for those who ask for them.
  is '0;0' limits "$(group none container)" hugetlb.2MB.max hugetlb.1GB.max
  # The container sees its own alone.
  n exec whole -- cat /sys/fs/cgroup/memory.max | has 67108864
  n exec whole -- cat /proc/self/cgroup | has '0::/'
  n delete deployment burst
  gone none
}

step_oom_scores_follow_the_class() {
  pod lowest 'sleep 1000'
  pod middle 'sleep 1000' '{"resources": {"requests": {"memory": "200Mi"}}}'
  within 60 running lowest
  within 60 running middle
  is -997 n exec whole -- cat /proc/1/oom_score_adj
  is 1000 n exec lowest -- cat /proc/1/oom_score_adj
  local score
  score=$(n exec middle -- cat /proc/1/oom_score_adj)
  [ "$score" -gt 850 ] && [ "$score" -lt 950 ]
  gone lowest middle
}

step_a_container_out_of_memory_dies_as_a_whole() {
  # Its first process would live on.
  pod hungry 'busybox dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 1000' '{"resources": {"limits": {"memory": "32Mi"}}}' '{"restartPolicy": "Never"}'
  within 60 is OOMKilled container hungry state.terminated.reason
  is 137 container hungry state.terminated.exitCode
  gone hungry
}

step_resources_change_in_place() {
  local before
  before=$(container whole containerID)
  n patch pod whole --subresource resize -p '{"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "300m", "memory": "96Mi"}, "requests": {"cpu": "300m", "memory": "96Mi"}}}]}}'
  within 60 is '30000 100000;100663296' limits "$(group whole container)" cpu.max memory.max
  within 20 is '30000 100000;100663296' limits "$(group whole)" cpu.max memory.max
  within 30 is 300m container whole resources.limits.cpu
  is "$before" container whole containerID
  is 0 container whole restartCount
}

step_statistics_are_of_version_2() {
  k get --raw /api/v1/nodes/vm/proxy/stats/summary >"$work/summary"
  jq -e '.pods[] | select(.podRef.name == "whole") | .memory.workingSetBytes > 10000 and .cpu.usageCoreNanoSeconds > 0 and .containers[0].memory.rssBytes > 0 and .containers[0].memory.availableBytes > 60000000 and .containers[0].swap.swapUsageBytes == 0' "$work/summary" | has true
  jq -e '.node.memory.workingSetBytes > 1000000 and .node.memory.availableBytes > 1000000 and .node.swap.swapUsageBytes == 0 and .node.cpu.psi.some.total > 0' "$work/summary" | has true
  k get --raw /api/v1/nodes/vm/proxy/metrics/cadvisor >"$work/cadvisor"
  local name
  for name in container_cpu_usage_seconds_total container_memory_working_set_bytes container_pressure_cpu_waiting_seconds_total container_pressure_memory_stalled_seconds_total container_cpu_cfs_periods_total; do
    grep "^$name{" "$work/cadvisor" | has 'pod="whole"'
  done
  k get --raw /api/v1/nodes/vm/proxy/metrics/resource | has 'pod_memory_working_set_bytes{namespace="vm",pod="whole"}'
}

step_exec_logs_and_port_forward_work() {
  n run web --image example/hello:1 --env GREETING=hello
  within 60 running web
  is 1000 n exec web -- id -u
  k_bg -n vm port-forward web 18080:8080 >"$work/out" 2>&1 &
  echo $! >"$work/forward.pid"
  within 20 eval 'at "$server" curl -sf http://127.0.0.1:18080/cgi-bin/hello | has "hello from web"'
  at "$server" curl -s http://127.0.0.1:18080/none >"$work/out"
  kill "$(cat "$work/forward.pid")"
  within 10 eval 'n logs web | has "response:404"'
}

step_root_of_a_pod_is_nobody_on_the_node() {
  pod mapped 'cat /proc/self/uid_map; echo x >/scratch/f; sleep 1000' '{"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}], "resources": {"limits": {"memory": "64Mi"}}}' \
    '{"hostUsers": false, "volumes": [{"name": "scratch", "emptyDir": {}}]}'
  within 60 running mapped
  local first
  first=$(n logs mapped | awk 'NR == 1 { print $2 }')
  [ "$first" -ge 65536 ]
  is "$first" run "stat -c %u /proc/\$(head -n 1 $(group mapped container)/cgroup.procs)"
  is 0 n exec mapped -- id -u
  n exec mapped -- cat /proc/1/attr/current | has 'sampan-default (enforce)'
  gone mapped
}

step_apparmor_confines_containers() {
  run 'cat /sys/kernel/security/apparmor/profiles' | has 'sampan-default (enforce)'
  # Nothing said, said, and said not to.
  n exec whole -- cat /proc/1/attr/current | has 'sampan-default (enforce)'
  n exec whole -- cat /proc/self/attr/current | has 'sampan-default (enforce)'
  pod default 'sleep 1000' '{"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}, "capabilities": {"add": ["SYS_ADMIN"]}}}'
  pod unconfined 'sleep 1000' '{"securityContext": {"appArmorProfile": {"type": "Unconfined"}, "capabilities": {"add": ["SYS_ADMIN"]}}}'
  pod privileged 'sleep 1000' '{"securityContext": {"privileged": true}}'
  local name
  for name in default unconfined privileged; do within 60 running $name; done
  n exec default -- cat /proc/1/attr/current | has 'sampan-default (enforce)'
  for name in unconfined privileged; do n exec $name -- cat /proc/1/attr/current | has unconfined; done
  fails n exec default -- mount -t tmpfs none /tmp
  n exec unconfined -- mount -t tmpfs none /tmp
  # A profile of the administrator's, and one that is not loaded.
  run "printf 'profile vm-no-writes flags=(attach_disconnected) { file, deny /tmp/** w, signal, }\n' | apparmor_parser -Kr"
  pod local 'sleep 1000' '{"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "vm-no-writes"}}}'
  within 60 running local
  n exec local -- cat /proc/1/attr/current | has 'vm-no-writes (enforce)'
  fails n exec local -- sh -c 'echo >/tmp/file'
  n exec local -- sh -c 'echo >/file'
  pod missing 'sleep 1000' '{"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "vm-nowhere"}}}'
  within 60 is CreateContainerError container missing state.waiting.reason
  container missing state.waiting.message | has 'failed to generate apparmor spec opts: apparmor profile not found vm-nowhere'
  gone default unconfined privileged local missing
}

step_memory_that_runs_short_evicts() {
  local free
  free=$(run "awk '/MemAvailable/ { print int(\$2 / 1024) }' /proc/meminfo")
  settings "--kubelet-arg pod-max-pids=512 --kubelet-arg eviction-hard=memory.available<$((free - 250))Mi --kubelet-arg eviction-pressure-transition-period=5s"
  is True k get node vm -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
  pod glutton 'busybox dd if=/dev/zero of=/scratch/f bs=1M count=500; sleep 1000' '{"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}' '{"volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]}'
  within 90 is Failed of glutton phase
  is Evicted of glutton reason
  of glutton message | has 'The node was low on resource: memory.'
  running whole
  gone glutton
  within 60 is False k get node vm -o 'jsonpath={.status.conditions[?(@.type=="MemoryPressure")].status}'
}

running_containers() {
  n get pods -o json | jq -c '[.items[] | [.metadata.name, .status.containerStatuses[0].containerID, .status.containerStatuses[0].restartCount]] | sort'
}

step_a_clock_that_jumps_harms_nobody() {
  stand
  pod ticks 'while :; do date; sleep 1; done'
  within 60 running ticks
  local before jump
  before=$(running_containers)
  # Forth over the life of every lease and token, back to before all that it made, and home.
  for jump in '+10 days' '-20 days' '+10 days'; do
    run "date -s \"\$(date -d '$jump')\""
    within 60 k get --raw /readyz
    pod fresh 'sleep 1000'
    within 60 running fresh
    gone fresh
    within 60 is True k get node vm -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    is "$before" running_containers
    within 20 eval 'n logs --tail=1 ticks | has "$(run "date +\"%a %b %e %H:%M\"")"'
  done
  gone ticks
}

step_some_may_swap() {
  run 'dd if=/dev/zero of=/swap bs=1M count=256 status=none && chmod 600 /swap && mkswap -q /swap && swapon /swap'
  run "printf 'apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmemorySwap: {swapBehavior: LimitedSwap}\nshutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n' >/etc/kubelet.yaml"
  settings --kubelet-arg pod-max-pids=512 --kubelet-arg config=/etc/kubelet.yaml
  within 20 eval '[ "$(k get node vm -o "jsonpath={.status.nodeInfo.swap.capacity}")" -gt 260000000 ]'
  pod swaps 'sleep 1000' '{"resources": {"requests": {"memory": "256Mi"}}}'
  pod stays 'sleep 1000' '{"resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}}'
  within 60 running swaps
  within 60 running stays
  is 0 limits "$(group stays container)" memory.swap.max
  local share
  share=$(limits "$(group swaps container)" memory.swap.max)
  [ "$share" -gt 30000000 ] && [ "$share" -lt 40000000 ]
  gone swaps stays
}

stand() {
  n get deployment standing -o name || n create deployment standing --image example/hello:1 --replicas 3
  within 120 is 3 n get deployment standing -o 'jsonpath={.status.availableReplicas}'
}

step_a_machine_that_goes_down_waits_for_its_pods() {
  pod last 'trap "sleep 8; date >/host/said; exit 0" TERM; while :; do sleep 0.2; done' '{"volumeMounts": [{"name": "host", "mountPath": "/host"}]}' \
    '{"terminationGracePeriodSeconds": 20, "restartPolicy": "Never", "volumes": [{"name": "host", "hostPath": {"path": "/srv"}}]}'
  within 60 running last
  run 'systemd-inhibit --list' | has 'Kubelet needs time to handle node shutdown'
  stand
  n get pods -l app=standing -o name >"$work/before"
  run 'systemctl poweroff' || true
  vm_gone 300
  with_disk test -s "$work/mounted/srv/said"
  vm_boot
  vm_ready
  node_of_this_boot
  # The deployment's have ended for good, and others are in their places.
  within 120 is 3 n get deployment standing -o 'jsonpath={.status.availableReplicas}'
  n get pods -l app=standing --field-selector status.phase=Running -o name >"$work/after"
  is 0 eval 'grep -cxFf "$work/before" "$work/after" || true'
  is Terminated of last reason
  of last message | has 'Pod was terminated in response to imminent node shutdown.'
  gone last
}

step_pods_come_back_after_a_reboot() {
  # A kubelet that ends pods in a shutdown ends them for good.
  settings --kubelet-arg pod-max-pids=512
  stand
  pod stays 'sleep 1000'
  within 60 running stays
  run 'systemctl reboot' || true
  vm_gone 300
  vm_boot
  vm_ready
  node_of_this_boot
  # A pod without an owner too, in its place.
  within 90 eval '[ "$(container stays restartCount)" -ge 1 ]'
  within 90 running stays
  within 120 is 3 n get deployment standing -o 'jsonpath={.status.availableReplicas}'
  gone stays
}

step_power_may_go_at_any_moment() {
  stand
  local seed number acknowledged=0 cuts=${CUTS:-}
  [ -n "$cuts" ] || for _ in $(seq "${VM_CUTS:-3}"); do cuts+=" $RANDOM"; done
  for seed in $cuts; do
    RANDOM=$seed
    local wait=$((RANDOM % 9000)) size=$((2 + RANDOM % 4)) before=$acknowledged
    echo "seed $seed: cut after $wait ms, $size replicas"
    (
      while :; do
        number=$((acknowledged + 1))
        k --request-timeout=10s -n vm create configmap "cut-$number" --from-literal=number=$number || exit 0
        acknowledged=$number
        echo "$acknowledged" | tee "$work/begun" >"$work/acknowledged"
        [ $((number % 4)) != 1 ] || k --request-timeout=10s -n vm scale deployment standing --replicas $((size + number % 2)) || exit 0
        [ $((number % 5)) != 2 ] || k --request-timeout=10s -n vm rollout restart deployment standing || exit 0
      done
    ) >"$work/writer" 2>&1 &
    local writer=$!
    within 60 test -e "$work/begun"
    rm "$work/begun"
    sleep "$((wait / 1000)).$(printf %03d $((wait % 1000)))"
    vm_cut
    wait $writer || true
    acknowledged=$(cat "$work/acknowledged" 2>/dev/null || echo 0)
    echo "seed $seed: $((acknowledged - before)) objects acknowledged"
    vm_boot
    vm_ready
    node_of_this_boot
    n get configmaps -o name >"$work/kept"
    for number in $(seq "$acknowledged"); do grep -qx "configmap/cut-$number" "$work/kept" || { echo "seed $seed: cut-$number was acknowledged"; return 1; }; done
    # One that was written but not acknowledged may be there too.
    acknowledged=$(sed -n 's|configmap/cut-||p' "$work/kept" | sort -n | tail -1)
    : "${acknowledged:=0}"
    within 180 settled || { n get pods -o wide; n get events | tail -20; return 1; }
    # Images are looked at again, and are whole.
    pod fresh 'busybox wc -c /bin/busybox; sleep 1000'
    within 90 running fresh
    gone fresh
  done
}
settled() {
  n get deployment standing -o json | jq -e '.status.observedGeneration == .metadata.generation and .status.updatedReplicas == .spec.replicas and .status.availableReplicas == .spec.replicas and .status.replicas == .spec.replicas'
  local pods cgroups
  pods=$(n get pods -o json | jq '[.items[] | select(.status.phase == "Running")] | length')
  # None doubled, none left.
  cgroups=$(run 'ls -d /sys/fs/cgroup/kubepods/{,burstable/,besteffort/}pod* 2>/dev/null | wc -l')
  [ "$pods" = "$cgroups" ] || { echo "$pods pods and $cgroups cgroups"; return 1; }
}

step_nothing_has_panicked() {
  run 'cat /var/log/sampan.log' >"$work/log/sampan"
  fails grep -n -e 'panicked at' -e 'stack backtrace' "$work/log/sampan"
}

ip netns add "$server"
ip -n "$server" link set lo up
trap 'cat "$work/times" 2>/dev/null; cleanup' EXIT
walk_all
