#!/bin/bash
# Measures Sampan beside upstream's components in one run: bench/run.sh [--quick]
# Prints a table and writes bench/out/<time>.json. As root: pods are real. Peers (kube-apiserver on kine/SQLite and on etcd) and the load
# generator kload come from the tools in $BENCH_TOOLS; without them only Sampan is measured, and the table says so.
# BENCH_PARTS='growth pods' says what is measured besides starts, idle figures and the common load.
# CPU time per operation and memory are the figures to trust; rates and latencies only as a ratio within one run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=${BENCH_TOOLS:-$here/../../shared/tools}
sampan=${SAMPAN:-$here/../target/release/sampan}
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-peers}
kload=$peers/bin/kload
out=$here/out
mkdir -p "$out"
work=$(mktemp -d)
size=(--seq 1000 --par 5000 --get-seconds 10 --upd 5000 --list 5000 --list-reps 11 --watchers 50 --updates 500)
idle=${IDLE_SECONDS:-60}
parts=${BENCH_PARTS-growth pods}
pods=50
[ "${1:-}" = --quick ] && { size=(--seq 200 --par 1000 --get-seconds 3 --upd 1000 --list 1000 --list-reps 5 --watchers 20 --updates 100); idle=10; pods=20; parts=${BENCH_PARTS-pods}; }
pid=
cleanup() {
  [ -n "$pid" ] && kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
  [ -d "$work/peers/pids" ] && R=$work/peers "$tools/peers/down.sh" >/dev/null 2>&1
  rm -rf "$work"
}
trap cleanup EXIT

. "$here/servers.sh"
rss_kib() { awk '/^Rss:/{r+=$2} END{print r}' /proc/"$1"/smaps_rollup; }
written() { awk '/^write_bytes/{print $2}' /proc/"$1"/io; }
ticks() { awk '{print $14 + $15}' /proc/"$1"/stat; }

[ -x "$sampan" ] || { echo "bench: no $sampan: make build" >&2; exit 1; }
first=$(start_sampan 2>&1 | tail -1); pid=$(cat "$work/pid")
sleep 2; kill -9 "$pid"; wait "$pid" 2>/dev/null || true
again=$(start_sampan | tail -1); pid=$(cat "$work/pid")
sleep 5
c0=$(ticks "$pid"); w0=$(written "$pid"); sleep "$idle"; c1=$(ticks "$pid"); w1=$(written "$pid")
jq -n --argjson first "$first" --argjson again "$again" --argjson rss "$(rss_kib "$pid")" --argjson ticks $((c1 - c0)) \
  --argjson bytes $((w1 - w0)) --argjson seconds "$idle" --argjson binary "$(stat -c %s "$sampan")" \
  '{first_ready_ms: $first, restart_ready_ms: $again, idle_rss_mib: ($rss / 1024), idle_cpu_percent: ($ticks / $seconds),
    idle_bytes_written: $bytes, idle_seconds: $seconds, binary_mib: ($binary / 1048576)}' >"$work/sampan-idle.json"
phases=seq,par,get,update,list,watch,delete
run_load() { "$kload" --kubeconfig "$1" --pids "$2" --phases $phases "${size[@]}" "${@:4}" >"$3" 2>"$3.log" || { tail -5 "$3.log" >&2; echo '{}' >"$3"; }; }
if [ -x "$kload" ]; then
  run_load "$work/kubeconfig" "server=$pid" "$work/load-sampan.json"
  run_load "$work/kubeconfig" "server=$pid" "$work/load-sampan-json.json" --proto=false --prefix kloadj
else
  echo "bench: no load generator in $peers: only starts and idle figures" >&2
fi
kill "$pid"; wait "$pid" 2>/dev/null || true; pid=
if [ -x "$kload" ] && [ -x "$tools/peers/up.sh" ] && [ -x "$peers/bin/kube-apiserver" ]; then
  for store in kine etcd; do
    R=$work/peers "$tools/peers/up.sh" "$store" >"$work/up-$store.json" 2>"$work/up-$store.log" || { tail -3 "$work/up-$store.log" >&2; continue; }
    sleep 5
    R=$work/peers "$tools/peers/mem.sh" "$idle" >"$work/mem-$store.txt" 2>/dev/null || true
    run_load "$work/peers/admin.kubeconfig" "$(R=$work/peers "$tools/peers/pids.sh")" "$work/load-$store.json"
    run_load "$work/peers/admin.kubeconfig" "$(R=$work/peers "$tools/peers/pids.sh")" "$work/load-$store-json.json" --proto=false --prefix kloadj
    R=$work/peers "$tools/peers/down.sh" >/dev/null 2>&1 || true
  done
else
  echo "bench: no peers in $peers: nothing to compare with" >&2
fi
if [ -x "$kload" ] && [[ $parts = *growth* ]]; then "$here/growth.sh" "$work" "$tools"; fi
if [ -x "$kload" ] && [[ $parts = *pods* ]]; then "$here/pods.sh" "$work" "$tools" "$pods"; fi
python3 "$here/table.py" "$work" "$out/$(date +%Y%m%dT%H%M%S).json"
