#!/bin/bash
# What goes wrong on a node that runs: containers that take too much, probes and execs that never end, kills of the server
# and of keepers at bad moments, a database that is lost, a disk that is full, fails, or loses its power. After each, what
# should run does. world.sh says what it stands on; faults/cutdisk.py is the disk. SEEDS="1 2" are the cuts of the power.
#
# The clock does not jump here: a time namespace leaves the wall clock alone, and the machine's is everybody's. The crates'
# tests hold the node's clock and move it.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"
images() { at "$server" "$sampan" images --data-dir "$work/server" "$@"; }
n() { k -n faults "$@"; }
# pod NAME SCRIPT [more of the container, as JSON] [more of the spec]
pod() {
  local container=${3:-} spec=${4:-}
  jq -n --arg name "$1" --arg script "$2" --argjson container "${container:-null}" --argjson spec "${spec:-null}" '{apiVersion: "v1", kind: "Pod",
    metadata: {name: $name, namespace: "faults"}, spec: ({terminationGracePeriodSeconds: 0, containers: [{name: "a", image: "example/hello:1",
    command: ["sh", "-c", $script]} + $container]} + $spec)}' | k apply -f -
}
of() { n get pod "$1" -o "jsonpath={.status.$2}"; }
container() { of "$1" "containerStatuses[0].$2"; }
running() { is true container "$1" ready; }
gone() { n delete pod "$@" --now --timeout=60s; }
ended() { kill -0 "$(cat "$work/server.pid")" 2>/dev/null && kill "-$1" "$(cat "$work/server.pid")"; within 20 fails kill -0 "$(cat "$work/server.pid")"; }
ready() { within 60 k get --raw /readyz && within 60 k wait --for=condition=Ready node/one --timeout=1s; }
# Neither restarted nor replaced, and its log counts without a gap.
unharmed() {
  is "$(cat "$work/witness")" container witness containerID
  is 0 container witness restartCount
  n logs witness | awk 'NR > 1 && $1 != last + 1 { print "gap: " last " " $1; bad = 1 } { last = $1 } END { exit bad }'
}

step_a_node_stands() {
  "$here/examples/hello/image.sh" "$work/hello.tar"
  ready
  images import "$work/hello.tar" | has 'example/hello:1'
  k create namespace faults
  within 10 n get serviceaccount default
  local of
  for of in certificate-authority:ca client-certificate:crt client-key:key; do
    grep "${of%:*}-data" "$KUBECONFIG" | awk '{print $2}' | base64 -d >"$work/admin.${of#*:}"
  done
  pod witness 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.2; done'
  within 60 running witness
  container witness containerID >"$work/witness"
}

step_root_of_a_pod_may_be_nobody_on_the_node() {
  pod mapped 'id -u; cat /proc/self/uid_map; busybox wc -c </var/run/secrets/kubernetes.io/serviceaccount/token; echo x >/scratch/f && busybox stat -c %u:%g /scratch/f; sleep 1000' \
    '{"securityContext": {"runAsUser": 0}, "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}' \
    '{"hostUsers": false, "securityContext": {"fsGroup": 2000}, "volumes": [{"name": "scratch", "emptyDir": {}}]}'
  within 60 running mapped
  is true k get node one -o 'jsonpath={.status.runtimeHandlers[0].features.userNamespaces}'
  local uid first
  uid=$(n get pod mapped -o 'jsonpath={.metadata.uid}')
  first=$(jq '.uidMappings[0].hostId' "$work/server/agent/kubelet/pods/$uid/userns")
  [ "$first" -ge 65536 ]
  n logs mapped >"$work/out"
  is 0 sed -n 1p "$work/out"
  is "0 $first 65536" awk 'NR == 2 { print $1, $2, $3 }' "$work/out"
  [ "$(sed -n 3p "$work/out")" -gt 500 ]
  is 0:2000 sed -n 4p "$work/out"
  is 0:2000 stat -c %u:%g "$work/server/agent/kubelet/pods/$uid/volumes/kubernetes.io~empty-dir/scratch/f"
  # On the wire as any other.
  [ -n "$(of mapped podIP)" ]
  n exec mapped -- id -u | has 0
  gone mapped
}

step_a_fork_bomb_stays_in_its_pod() {
  pod bomb 'echo up; bomb() { bomb | bomb & }; bomb; sleep 1000'
  within 60 is Running of bomb phase
  sleep 3
  is ok k get --raw /readyz
  n exec witness -- echo here | has here
  # Its own: more cannot start, and it can be removed.
  gone bomb
  unharmed
}

step_a_log_without_end_is_rotated() {
  pod talker 'busybox yes 01234567890123456789012345678901234567890123456789 | head -c 80000000; echo said; sleep 1000'
  within 120 eval 'n logs talker --tail=1 | grep -q said'
  local dir
  dir=$(echo "$work"/server/*/pods/faults_talker_*/a "$work"/server/pods/faults_talker_*/a /var/log/pods/faults_talker_*/a | tr ' ' '\n' | grep -v '\*' | head -1)
  [ -d "$dir" ]
  [ "$(du -sm "$dir" | cut -f1)" -le 56 ]
  [ "$(find "$dir" -name '0.log*' | wc -l)" -le 5 ]
  gone talker
}

step_a_container_out_of_memory_is_killed_for_it() {
  pod hungry 'busybox dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 1000' '{"command": ["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"], "resources": {"limits": {"memory": "32Mi"}}}' '{"restartPolicy": "Never"}'
  within 60 is OOMKilled container hungry state.terminated.reason
  is 137 container hungry state.terminated.exitCode
  gone hungry
}

step_probes_that_never_answer_end_what_they_probe() {
  pod silent 'busybox nc -ll -p 8080 -e sleep 1000 & sleep 1000' '{"livenessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}}'
  pod asleep 'sleep 1000' '{"livenessProbe": {"exec": {"command": ["sleep", "1000"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}}'
  local name
  for name in silent asleep; do
    within 60 eval '[ "$(container '$name' restartCount)" -ge 1 ]'
    within 10 eval "n get events --field-selector involvedObject.name=$name | grep -q 'Liveness probe failed'"
  done
  # None of the probes' processes is left.
  gone silent asleep
  unharmed
}

step_two_hundred_execs_at_once_are_answered() {
  at "$server" python3 "$here/tests/faults/execs.py" 127.0.0.1:6443 "$work/admin.ca" "$work/admin.crt" "$work/admin.key" \
    '/api/v1/namespaces/faults/pods/witness/exec?command=sh&command=-c&command=sleep+1;echo+here&stdout=1' 200 >"$work/execs" 2>"$work/out" &
  local flood=$!
  sleep 1
  is ok k get --raw /readyz
  wait $flood
  is 200 cat "$work/execs" || { tail -5 "$work/out"; return 1; }
  unharmed
}

step_a_dead_keeper_is_noticed_and_its_pod_made_anew() {
  pod orphan 'sleep 1000'
  within 60 running orphan
  local before keeper
  before=$(container orphan containerID)
  keeper=$(pgrep -f "hold dir=$work/server.* hostname=orphan( |$)")
  kill -9 "$keeper"
  within 60 eval "[ \"\$(container orphan containerID)\" != $before ] && running orphan"
  is 1 container orphan restartCount
  unharmed
  gone orphan
}

step_ends_that_nobody_saw_are_told_as_they_were() {
  local never='{"restartPolicy": "Never"}' name killed back at
  pod seven 'sleep 4; exit 7' '' "$never"
  pod killed 'sleep 4; sh -c "kill -11 \$\$"; exit $?' '' "$never"
  pod done 'sleep 4; echo bye' '' "$never"
  for name in seven killed done; do within 60 is Running of $name phase; done
  k_bg -n faults exec witness -- sleep 1000 >"$work/out" 2>&1 &
  local session=$!
  sleep 1
  killed=$(date +%s)
  ended KILL
  sleep 6
  back=$(date +%s)
  start_server
  ready
  within 30 is 7 container seven state.terminated.exitCode
  is Error container seven state.terminated.reason
  within 30 is Completed container done state.terminated.reason
  within 30 is 139 container killed state.terminated.exitCode
  for name in seven done killed; do
    at=$(date -d "$(container $name state.terminated.finishedAt)" +%s)
    [ "$at" -ge "$killed" ] && [ "$at" -le "$back" ] || { echo "$name ended at $at, not between $killed and $back"; return 1; }
  done
  n logs done | has bye
  kill $session 2>/dev/null || true
  unharmed
  gone seven killed done
}

step_a_lost_database_leaves_no_doubles() {
  local before
  before=$(sed 's|.*//||' "$work/witness")
  ended KILL
  rm -rf "$work/server/server/db"
  start_server
  ready
  # What ran for a cluster that is forgotten ends, and nothing of it is left.
  within 90 eval "[ ! -e $work/server/agent/containers/containers/$before ]"
  within 30 eval "! pgrep -f 'hold dir=$work/server.* hostname=witness( |\$)'"
  k create namespace faults
  within 30 n get serviceaccount default
  pod witness 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.2; done'
  within 60 running witness
  container witness containerID >"$work/witness"
  is 1 eval "pgrep -fc 'hold dir=$work/server.* hostname=witness( |\$)'"
}

# ---- disks of its own: a second server in the other namespace, with its data on a file system of its own

small=$work/small
c() { at "$agent" "$kubectl" --kubeconfig "$work/second.yaml" "$@"; }
second() {
  at_bg "$agent" "$sampan" server --data-dir "$small" --config /dev/null --node-name two --write-kubeconfig "$work/second.yaml" --log "${SUITE_LOG:-info}" >>"$work/log/second" 2>&1 &
  echo $! >"$work/second.pid"
  disown
}
second_ends() { kill -9 "$(cat "$work/second.pid")"; within 20 fails kill -0 "$(cat "$work/second.pid")"; }
second_ready() { within 60 c get --raw /readyz && within 60 c wait --for=condition=Ready node/two --timeout=1s; }
# As a machine that has stopped: nothing of it runs.
second_is_off() {
  local keeper
  second_ends
  # Without a disk it does not know what to end.
  if ! at "$agent" "$sampan" killall --data-dir "$small" >>"$work/log/killall" 2>&1; then
    for keeper in $(pgrep -f "hold dir=$small/"); do kill -9 $(pgrep -P "$keeper") "$keeper"; done
  fi
  grep " $small" /proc/self/mountinfo | awk '{print $5}' | tac | while read -r point; do umount "$point" 2>/dev/null || umount -l "$point"; done
  # The file system goes with the last process that was on it.
  within 20 eval "! losetup -l -O BACK-FILE | grep -q '^$work/'"
}
mounted() { mkdir -p "$small" && mount -o loop "$1" "$small"; }
deployed() { is "$1" c get deployment standing -o 'jsonpath={.status.availableReplicas}'; }
deploy() {
  at "$agent" "$sampan" images --data-dir "$small" import "$work/hello.tar"
  c create deployment standing --image example/hello:1 --replicas 2
  within 60 deployed 2
}

step_a_full_disk_stops_nothing_that_runs() {
  truncate -s 500M "$work/full.img" && mkfs.ext4 -qF "$work/full.img" && mounted "$work/full.img"
  second && second_ready && deploy
  # Even root's share.
  dd if=/dev/zero of="$small/filler" bs=1M 2>/dev/null || true
  local number
  for number in 1 2 3 4 5 6; do c create configmap "full-$number" --from-literal=a="$(head -c 30000 /dev/zero | tr '\0' a)" || true; done
  kill -0 "$(cat "$work/second.pid")"
  deployed 2
  # And it starts on one.
  second_ends
  second
  sleep 5
  rm "$small/filler"
  kill -0 "$(cat "$work/second.pid")" 2>/dev/null || second
  second_ready
  within 60 deployed 2
  within 30 c create configmap after
  c scale deployment standing --replicas 3
  within 60 deployed 3
}

step_a_disk_that_fails_is_repaired_and_gone_on_with() {
  c create configmap before-failure
  # As the kernel leaves it when the disk does not answer (EXT4_IOC_SHUTDOWN without the journal).
  python3 -c 'import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", 2))' "$small"
  fails c create configmap during 2>"$work/out"
  sleep 2
  second_is_off
  e2fsck -fy "$work/full.img" >"$work/out" 2>&1 || [ $? -le 2 ] || { cat "$work/out"; return 1; }
  mounted "$work/full.img"
  second && second_ready
  c get configmap before-failure after
  within 90 deployed 3
  second_is_off
}

step_cut_power_loses_nothing_that_was_acknowledged() {
  local seed cut acknowledged missing name at from
  truncate -s 600M "$work/cut.base" && mkfs.ext4 -qF "$work/cut.base"
  mkdir -p "$work/fuse"
  python3 "$here/tests/faults/cutdisk.py" serve "$work/fuse" "$work/cut.base" >"$work/log/cutdisk" 2>&1 &
  echo $! >"$work/cutdisk.pid"
  within 10 test -e "$work/fuse/disk"
  mounted "$work/fuse/disk"
  second && second_ready && deploy
  from=$(cat "$work/cut.base.seq")
  : >"$work/acknowledged"
  for number in $(seq 40); do
    c create configmap "cut-$number" --from-literal=number="$number"
    echo "cut-$number $(cat "$work/cut.base.seq")" >>"$work/acknowledged"
    [ $((number % 10)) != 0 ] || c rollout restart deployment standing
  done
  second_is_off
  umount -l "$work/fuse"
  for seed in ${SEEDS:-$RANDOM $RANDOM $RANDOM}; do
    read -r cut acknowledged missing < <(python3 "$here/tests/faults/cutdisk.py" replay "$work/cut.base" "$work/cut.base.log" "$work/cut.img" "$seed" $from)
    echo "seed $seed: cut after $cut of $acknowledged writes and flushes, $missing pieces lost"
    mounted "$work/cut.img"
    # After a cut the machine boots; this one has not.
    [ ! -s "$small/agent/images/state" ] || sed -i 's/"boot":"[^"]*"/"boot":"before"/' "$small/agent/images/state"
    second && second_ready
    while read -r name at; do
      [ "$at" -gt "$cut" ] || c get configmap "$name" >/dev/null || { echo "seed $seed: $name was acknowledged at $at of $cut"; return 1; }
    done <"$work/acknowledged"
    within 90 deployed 2 || { c get pods; c get events; return 1; }
    within 60 eval "[ \$(c get pods --field-selector status.phase=Running -o name | wc -l) = 2 ]"
    second_is_off
  done
}

step_nothing_has_panicked() {
  fails grep -rn -e 'panicked at' -e 'stack backtrace' "$work/log/server" "$work/log/second"
  unharmed
}

node_args=(--kubelet-arg pod-max-pids=512)
network
start_server
walk_all
