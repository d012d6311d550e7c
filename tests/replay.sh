#!/bin/bash
# The API from a client's view: sends the requests of tests/replay to the program, and compares the answers with those
# that upstream's kube-apiserver gave. Only the API runs: no controllers, no node. Nothing is left behind. Environment:
#   SAMPAN=target/debug/sampan    another binary
#   REPLAY_RECORD=1               ask upstream's programs instead (tests/replay/upstream.sh) and record its answers
#   REPLAY_WHAT=todo              write what differs to tests/replay/todo.txt, to be mended later
#   REPLAY_KEEP=DIR               keep every answer there as it came
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
sampan=$(realpath -m "${SAMPAN:-$here/target/release/sampan}")
work=$(mktemp -d /tmp/sampan-replay.XXXXXX)
pid=
cleanup() {
  exec 5>&-
  [ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -n "${REPLAY_RECORD:-}" ]; then
  mkfifo "$work/stop" "$work/url"
  "$here/tests/replay/upstream.sh" "$work" <"$work/stop" >"$work/url" &
  pid=$!
  exec 5>"$work/stop"
  read -r url <"$work/url"
  what=record ca=$work/ca.crt cert=$work/admin.crt key=$work/admin.key
else
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  url=https://127.0.0.1:$port
  "$sampan" server --data-dir "$work/server" --config /dev/null --node-name one --node-ip 127.0.0.1 --bind-address 127.0.0.1 \
    --https-listen-port "$port" --advertise-address 10.99.0.1 --write-kubeconfig "$work/kubeconfig" --disable-agent \
    --disable-controller-manager --disable-scheduler --disable servicelb,dns >"$work/log" 2>&1 5>&- &
  pid=$!
  what=${REPLAY_WHAT:-compare} ca=$work/ca cert=$work/cert key=$work/key
  part() { sed -n "s/^ *$1: *\"\{0,1\}\([A-Za-z0-9+\/=]*\).*/\1/p" "$work/kubeconfig" | base64 -d; }
  for _ in $(seq 200); do
    curl -sk -o /dev/null "$url/readyz" && [ -s "$work/kubeconfig" ] && break
    kill -0 "$pid" || { cat "$work/log"; exit 1; }
    sleep 0.1
  done
  part certificate-authority-data >"$ca"
  part client-certificate-data >"$cert"
  part client-key-data >"$key"
fi
if ! python3 "$here/tests/replay/replay.py" $what --url "$url" --ca "$ca" --cert "$cert" --key "$key" ${REPLAY_KEEP:+--keep "$REPLAY_KEEP"} "$@"; then
  [ "$what" = compare ] && [ -z "${REPLAY_AGAIN:-}" ] || exit 1
  # What servers do in their own time may come late on a busy machine: it is tried once more, and said aloud.
  echo "replay: once more"
  cleanup
  trap - EXIT
  REPLAY_AGAIN=1 "$0" "$@"
  echo "replay: FLAKY: passed at its second try"
fi
