#!/bin/bash
# Measures pods beside kubelet + containerd + runc, in a network namespace of its own: pods.sh DIR TOOLS [PODS]
# Leaves pods-{sampan,kine}.json (kload's phase `pods`), burst-*.json (20 at once), latency-*.json
# (exec, and create to exit) and node-*.json (memory) in DIR.
# Both keep their data on a fresh file system (a file in DIR): an old and full one can take a millisecond to find a free inode.
# Every pod is the same static program that sleeps until SIGTERM, or ends at once if it has an argument; what the pod itself holds is not counted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 tools=$2 pods=${3:-50}
sampan=$(realpath "${SAMPAN:-$here/../target/release/sampan}")
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-peers}
kload=$peers/bin/kload
net=spb$$
disk=$work/disk
export R=$disk/peers IP=10.98.0.1
# In the background nsenter stands for itself: $! is then the program.
at() { nsenter "--net=/run/netns/$net" "$@"; }
kubepods="/sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods"
for group in $kubepods; do
  [ ! -d "$group" ] || { echo "bench: $group is there: another kubelet runs here" >&2; exit 1; }
done
pid=
cleanup() {
  set +e
  if [ -n "$pid" ]; then
    kill -9 "$pid" 2>/dev/null; wait "$pid" 2>/dev/null
    at "$sampan" killall --data-dir "$disk/node" >/dev/null 2>&1
  fi
  if [ -d "$R/pids" ]; then
    at "$tools/peers/down.sh" >/dev/null 2>&1
    # What is left of upstream's pods, each with its shim, if something failed.
    cat /sys/fs/cgroup/pids/kubepods/*/pod*/*/cgroup.procs 2>/dev/null | xargs -r kill -9
    for process in /proc/[0-9]*; do
      [[ "$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")" != *containerd-shim*"$R/containerd/containerd.sock"* ]] || kill -9 "${process#/proc/}"
    done
  fi
  grep " $disk/" /proc/self/mountinfo | awk '{print $5}' | tac | while read -r point; do umount -l "$point"; done
  umount "$disk" && rm -f "$disk.img"; rmdir "$disk"
  # The kubelet leaves its cgroups, in every hierarchy there is.
  for group in $kubepods; do [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +; done
  ip netns del "$net" 2>/dev/null
}
trap cleanup EXIT
mkdir -p "$disk"
truncate -s 8G "$disk.img"
mkfs.ext4 -q -F "$disk.img"
mount -o loop "$disk.img" "$disk"
ip netns add "$net"
ip -n "$net" link set lo up
ip -n "$net" link add eth0 type bridge
ip -n "$net" addr add "$IP/24" dev eth0
ip -n "$net" link set eth0 up
ip -n "$net" route add default via 10.98.0.254

cat >"$work/tiny.c" <<'C'
#include <unistd.h>
#include <signal.h>
static void leave(int signal) { _exit(0); }
int main(int count, char **arguments) {
  if (count > 1) return 0;
  signal(SIGTERM, leave); signal(SIGINT, leave);
  for (;;) pause();
}
C
for name in tiny pause; do
  mkdir -p "$work/root-$name"
  cc -Os -static -s -o "$work/root-$name/$name" "$work/tiny.c"
  "$here/../examples/pack.sh" "$work/root-$name" "{\"Entrypoint\":[\"/$name\"]}" "localhost/$name:1" "$work/$name.tar"
done

# Proportional memory, KiB, of all processes whose command line matches.
pss() {
  local process
  for process in /proc/[0-9]*; do
    # A process may be gone by now.
    if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qE -- "$1"; then cat "$process/smaps_rollup" 2>/dev/null || true; fi
  done | awk '/^Pss:/{sum += $2} END{print sum + 0}'
}
measure() { # NAME KUBECONFIG PROCESSES
  local name=$1 config=$2 processes=$3 empty before full
  pods_() { at "$kload" --kubeconfig "$config" --phases pods --settle 5s "$@" 2>>"$work/pods-$name.log"; }
  sleep 5
  empty=$(pss "$processes")
  pods_ --pods "$pods" --prefix one >"$work/pods-$name.json"
  pods_ --pods 20 --prefix burst >"$work/burst-$name.json"
  "$peers/bin/kubectl" --kubeconfig "$config" config view --raw -o json >"$work/config.json"
  at python3 "$here/latency.py" "$work/config.json" localhost/tiny:1 /tiny and-end "$pods" >"$work/latency-$name.json"
  sleep 5
  before=$(pss "$processes")
  pods_ --pods "$pods" --prefix held --keep >/dev/null
  full=$(pss "$processes")
  jq -n --argjson empty "$empty" --argjson before "$before" --argjson full "$full" --argjson pods "$pods" \
    '{empty_pss_mib: ($empty / 1024), per_pod_pss_mib: (($full - $before) / 1024 / $pods)}' >"$work/node-$name.json"
}

started=$(date +%s%N)
nsenter "--net=/run/netns/$net" "$sampan" server --data-dir "$disk/node" --config /dev/null --node-name one --write-kubeconfig "$work/pods.yaml" >"$work/pods-server.log" 2>&1 &
pid=$!
until grep -q 'the node is Ready' "$work/pods-server.log"; do
  kill -0 "$pid" 2>/dev/null || { cat "$work/pods-server.log" >&2; exit 1; }
  sleep 0.005
done
ready=$((($(date +%s%N) - started) / 1000000))
at "$sampan" images --data-dir "$disk/node" import "$work/tiny.tar" >/dev/null
measure sampan "$work/pods.yaml" "(sampan server|hold dir=).*$disk/node"
jq --argjson ready "$ready" '. + {first_node_ready_ms: $ready}' "$work/node-sampan.json" >"$work/node.json" && mv "$work/node.json" "$work/node-sampan.json"
kill "$pid"; wait "$pid" 2>/dev/null || true
at "$sampan" killall --data-dir "$disk/node" >/dev/null; pid=

[ -x "$peers/bin/kubelet" ] || { echo "bench: no kubelet in $peers: nothing to compare pods with" >&2; exit 0; }
at "$tools/peers/up.sh" kine >"$work/pods-up.log" 2>&1
IMGS="$work/pause.tar $work/tiny.tar" KUBELET_ARGS=--address=$IP at "$tools/peers/node.sh" up >>"$work/pods-up.log" 2>&1
measure kine "$R/admin.kubeconfig" "^$peers/bin/(kubelet|containerd)|^/pause"
kubectl=("$peers/bin/kubectl" --kubeconfig "$R/admin.kubeconfig")
at "${kubectl[@]}" get namespaces -o name | grep /held | at xargs -r "${kubectl[@]}" delete --timeout=120s >/dev/null
