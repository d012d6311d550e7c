#!/bin/bash
# Measures what more objects, more history and more watchers cost, beside kube-apiserver on etcd: growth.sh DIR TOOLS
# Leaves growth-NAME-STEP.json in DIR: after 1,000, 10,000 and 100,000 objects of 1 KiB, after 100,000 more writes
# (Sampan only), a LIST of 50,000 objects of 4 KiB, 1,000 watchers, and the memory that 10,000 objects of 4 KiB take.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1/growth tools=$2 out=$1
sampan=${SAMPAN:-$here/../target/release/sampan}
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-peers}
kload=$peers/bin/kload
mkdir -p "$work"
pid=
stop() {
  if [ -n "$pid" ]; then kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true; pid=; fi
  if [ -d "$work/peers/pids" ]; then R=$work/peers "$tools/peers/down.sh" >/dev/null 2>&1 || true; fi
  rm -rf "$work/data" "$work/kubeconfig"
}
trap stop EXIT
. "$here/servers.sh"

load() { # STEP PHASES ARGUMENTS...
  "$kload" --kubeconfig "$kubeconfig" --pids "$pids" --phases "$2" --prefix "$1" "${@:3}" >"$out/growth-$name-$1.json" 2>"$work/log" ||
    { tail -3 "$work/log" >&2; echo '{}' >"$out/growth-$name-$1.json"; }
}
measure() { load "$1" seq,get,update,delete,list --seq 500 --get-seconds 3 --upd 2000 --list 500 --list-reps 5; }
fresh() { # NAME
  stop
  case $name in
    sampan) start_sampan >/dev/null; pid=$(cat "$work/pid") kubeconfig=$work/kubeconfig pids=server=$pid ;;
    etcd) R=$work/peers "$tools/peers/up.sh" etcd >/dev/null 2>"$work/up.log" || { tail -3 "$work/up.log" >&2; return 1; }
      kubeconfig=$work/peers/admin.kubeconfig pids=$(R=$work/peers "$tools/peers/pids.sh") ;;
  esac
  sleep 3
}
names=(sampan)
if [ -x "$tools/peers/up.sh" ] && [ -x "$peers/bin/kube-apiserver" ]; then names+=(etcd); fi
for name in "${names[@]}"; do
  fresh "$name" || continue
  load hold hold --hold 10000
  load wide list,watch --list 50000 --list-reps 3 --watchers 1000 --updates 50
  fresh "$name" || continue
  have=0
  for size in 1000 10000 100000; do
    load "fill-$size" par --par $((size - have)) --keep
    have=$size
    measure "$size"
  done
  if [ "$name" = sampan ]; then
    load history update --upd 100000
    measure later
  fi
done
