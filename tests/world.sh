# The world of a suite from outside, to be sourced with `here` set: two nodes' network namespaces and a client's,
# upstream's kubectl, and words to ask and assert with. Nothing is left behind. Environment:
#   SAMPAN=target/debug/sampan    another binary
#   SUITE_ONLY='server|node'      steps whose names match
#   SUITE_KEEP=DIR SUITE_LOG=debug    keep the logs there; what they say
# shellcheck shell=bash disable=SC2034,SC2154
suite=$(basename "$0" .sh)
sampan=$(realpath "${SAMPAN:-$here/target/release/sampan}")
kubectl=${XDG_CACHE_HOME:-$HOME/.cache}/sampan-tests/current/kubectl
old_kubectl=${kubectl%/current/kubectl}/old/kubectl
[ "$(id -u)" = 0 ] || { echo "$suite: containers and networks are real here: run as root" >&2; exit 1; }
[ -x "$sampan" ] || { echo "$suite: no $sampan: make build" >&2; exit 1; }
[ -x "$kubectl" ] && [ -x "$old_kubectl" ] || "$here/tests/tools.sh"

# What is known not to be there yet: the step's name and why. Listed loudly, counted, and named in README.md.
declare -A skip=()

id=$$
net=spw$id-net server=spw$id-server agent=spw$id-agent
work=$(mktemp -d "/tmp/sampan-$suite.XXXXXX")
# Containers' writable layers cannot lie on an overlay, which /tmp may be.
mount -t tmpfs -o mode=0755,size=4g "$suite" "$work"
mkdir "$work"/{log,server,agent,home}
export HOME=$work/home KUBECONFIG=$work/kubeconfig.yaml

cleanup() {
  set +e
  trap - EXIT INT TERM
  for pid in $(jobs -p) $(cat "$work"/*.pid 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
  wait 2>/dev/null
  # What is dying still answers, and killall would take it for running.
  for pid in $(cat "$work"/*.pid 2>/dev/null); do timeout 10 tail --pid="$pid" -s 0.1 -f /dev/null; done
  for node in server agent; do
    [ -d "$work/$node/agent" ] && at "${!node}" "$sampan" killall --data-dir "$work/$node" >>"$work/log/killall" 2>&1
  done
  for ns in "$net" "$server" "$agent"; do ip netns del "$ns" 2>/dev/null; done
  if [ -n "${SUITE_KEEP:-}" ]; then
    mkdir -p "$SUITE_KEEP" && cp -a "$work"/log/. "$SUITE_KEEP"/ && echo "$suite: logs are in $SUITE_KEEP"
  fi
  grep " $work/" /proc/self/mountinfo | awk '{print $5}' | tac | while read -r point; do umount -l "$point"; done
  umount -l "$work" && rmdir "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# ---- the places and the tools

at() { local ns=$1; shift; nsenter "--net=/run/netns/$ns" "$@"; }
k() { at "$server" "$kubectl" "$@"; }
# As `at` and `k`, for the background: $! is the program itself.
at_bg() { local ns=$1; shift; exec nsenter "--net=/run/netns/$ns" "$@"; }
k_bg() { at_bg "$server" "$kubectl" "$@"; }
curl_() { at "$net" curl -sS --max-time 5 "$@"; }
fails() { if "$@"; then echo "should have failed: $*"; return 1; fi; }
# A file or standard input has this text.
has() {
  local found
  # Counted, so that all of the input is read: who writes it would die of a closed pipe.
  found=$(grep -cF -- "$1" "${2:-/dev/stdin}" || true)
  [ "${found:-0}" -gt 0 ] || { echo "no '$1' in ${2:-the output}"; [ -z "${2:-}" ] || cat "$2"; return 1; }
}
# Tries a command until it succeeds, at most that many seconds, which a slow machine's suite may count more than once.
within() {
  local end=$((SECONDS + $1 * ${SUITE_PATIENCE:-1})); shift
  until "$@" >"$work/within" 2>&1; do
    [ $SECONDS -lt $end ] || { echo "still not: $*"; cat "$work/within"; return 1; }
    sleep 0.2
  done
}
is() { local wanted=$1 got; shift; got=$("$@") || return 1; [ "$got" = "$wanted" ] || { echo "'$got' is not '$wanted': $*"; return 1; }; }

network() {
  for ns in "$net" "$server" "$agent"; do
    ip netns add "$ns"
    ip -n "$ns" link set lo up
  done
  ip -n "$net" link add br0 type bridge
  ip -n "$net" addr add 10.99.0.254/24 dev br0
  ip -n "$net" link set br0 up
  local number=1
  for ns in "$server" "$agent"; do
    ip -n "$ns" link add eth0 type veth peer name "eth$number" netns "$net"
    ip -n "$net" link set "eth$number" master br0 up
    ip -n "$ns" addr add "10.99.0.$number/24" dev eth0
    ip -n "$ns" link set eth0 up
    ip -n "$ns" route add default via 10.99.0.254
    number=$((number + 1))
  done
}

# More flags for both nodes, and for the second one alone.
node_args=() agent_args=()
start_server() {
  at_bg "$server" "$sampan" server --data-dir "$work/server" --config /dev/null --node-name one --write-kubeconfig "$KUBECONFIG" \
    --log "${SUITE_LOG:-info}" "${node_args[@]}" >>"$work/log/server" 2>&1 &
  echo $! >"$work/server.pid"
  disown # it is killed on purpose
}

start_agent() {
  at_bg "$agent" "$sampan" agent --data-dir "$work/agent" --config /dev/null --node-name two --server https://10.99.0.1:6443 \
    --token "$("$sampan" token --data-dir "$work/server" --agent)" --log "${SUITE_LOG:-info}" "${node_args[@]}" "${agent_args[@]}" >>"$work/log/agent" 2>&1 &
  echo $! >"$work/agent.pid"
  disown
}

# start_registry ADDRESS: an empty image registry in the server's network.
start_registry() {
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: "%s"}\n' "$work" "$1" >"$work/registry.yaml"
  at_bg "$server" docker-registry serve "$work/registry.yaml" >"$work/log/registry" 2>&1 &
  echo $! >"$work/registry.pid"
  disown
  within 20 at "$server" curl -sf -o "$work/out" "http://$1/v2/"
}

passed=0 failed=0 skipped=0
# walk NAME: runs step_NAME; its output is shown if it fails.
walk() {
  local name=$1 step started=$EPOCHREALTIME
  step=$((passed + failed + skipped + 1))
  if [ -n "${SUITE_ONLY:-}" ] && ! [[ $name =~ $SUITE_ONLY ]]; then return; fi
  if [ -n "${skip[$name]:-}" ]; then
    skipped=$((skipped + 1))
    printf 'ok %d %s # SKIP %s\n' $step "${name//_/ }" "${skip[$name]}"
    return
  fi
  set +e
  (set -e; "step_$name") >"$work/log/step-$name" 2>&1
  local status=$?
  set -e
  local ms=$(((${EPOCHREALTIME/./} - ${started/./}) / 1000))
  if [ $status = 0 ]; then
    passed=$((passed + 1))
    printf 'ok %d %s (%d ms)\n' $step "${name//_/ }" $ms
  else
    failed=$((failed + 1))
    printf 'not ok %d %s (%d ms)\n' $step "${name//_/ }" $ms
    tail -n 25 "$work/log/step-$name" | sed 's/^/  # /'
  fi
}

# Runs every step_NAME of the suite in the order in which they stand in it, and says how many passed.
walk_all() {
  local steps name
  mapfile -t steps < <(sed -n 's/^step_\([a-z0-9_]*\)().*/\1/p' "$0")
  for name in "${steps[@]}"; do walk "$name" </dev/null; done
  echo "$suite: $passed passed, $failed failed, $skipped skipped"
  [ $failed = 0 ]
}
