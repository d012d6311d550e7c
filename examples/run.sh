#!/bin/bash
# `make run`: a server here, examples/hello on it, and its URL. `make stop` ends all of it.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
sampan=${SAMPAN:-$here/target/release/sampan}
kubectl=${XDG_CACHE_HOME:-$HOME/.cache}/sampan-tests/current/kubectl
run=${SAMPAN_RUN_DIR:-/var/lib/sampan-run}
export KUBECONFIG=$run/kubeconfig.yaml
[ "$(id -u)" = 0 ] || { echo "run: a node makes pods, links and rules: run as root (sudo make run)" >&2; exit 1; }
k() { "$kubectl" "$@"; }
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
waited() { # WHAT SECONDS COMMAND...: a dot each second
  local what=$1 end=$((SECONDS + $2)); shift 2
  printf '%s ' "$what"
  until "$@" >"$run/last" 2>&1; do
    if [ $SECONDS -ge $end ] || ! kill -0 "$(cat "$run/pid")" 2>/dev/null; then
      printf 'no\n\n'; cat "$run/last"; echo "--- $run/log"; tail -n 20 "$run/log"; exit 1
    fi
    printf .; sleep 0.5
  done
  echo ' yes'
}

mkdir -p "$run"
if [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; then
  say "Sampan runs already (process $(cat "$run/pid"))"
else
  say "Starting Sampan: data and log in $run"
  setsid "$sampan" server --data-dir "$run/data" --write-kubeconfig "$KUBECONFIG" >>"$run/log" 2>&1 </dev/null &
  echo $! >"$run/pid"
fi
waited 'The API answers' 60 k get --raw /readyz
waited 'The node is Ready' 120 k wait --for=condition=Ready node --all --timeout=1s

say 'An image, from this machine; nothing is downloaded'
"$here/examples/hello/image.sh" "$run/hello.tar"
"$sampan" images --data-dir "$run/data" import "$run/hello.tar"

say 'kubectl apply -f examples/hello/hello.yaml'
k apply -f "$here/examples/hello/hello.yaml"
k rollout status deployment/hello --timeout=120s
k get pods -o wide

waited 'The service has an address' 60 sh -c "$kubectl get service hello -o 'jsonpath={.status.loadBalancer.ingress[0].ip}' | grep ."
url=http://$(k get service hello -o 'jsonpath={.status.loadBalancer.ingress[0].ip}'):8088/cgi-bin/hello
say "curl $url"
waited 'It answers' 30 curl -sSf --max-time 2 "$url"
curl -sS "$url"

say 'Go on:'
cat <<NEXT
  export KUBECONFIG=$KUBECONFIG
  alias kubectl=$kubectl
  kubectl get all
  kubectl scale deployment hello --replicas=5
  kubectl logs -f deployment/hello
The log: $run/log. The end: make stop
NEXT
