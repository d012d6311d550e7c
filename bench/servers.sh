# The servers that the benches measure. Sourced; wants $work and $sampan.
# shellcheck shell=bash disable=SC2154 # they are the caller's
# Starts $sampan with what is in $work/data, as process $(cat $work/pid); prints the milliseconds until it answers.
start_sampan() {
  started=$(date +%s%N)
  "$sampan" server --data-dir "$work/data" --bind-address 127.0.0.1 --https-listen-port 26443 \
    --write-kubeconfig "$work/kubeconfig" --disable-agent >"$work/sampan.log" 2>&1 &
  pid=$!; echo "$pid" >"$work/pid"
  local tries=0
  until [ -s "$work/kubeconfig" ] && curl -ks -o /dev/null https://127.0.0.1:26443/readyz; do
    kill -0 "$pid" 2>/dev/null || { cat "$work/sampan.log" >&2; exit 1; }
    tries=$((tries + 1)); [ "$tries" -lt 3000 ] || { echo "bench: sampan does not become ready" >&2; exit 1; }
    sleep 0.005
  done
  echo $((($(date +%s%N) - started) / 1000000))
}
