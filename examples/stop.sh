#!/bin/bash
# `make stop`: ends what `make run` started, pods included. The cluster's data stays in /var/lib/sampan-run;
# `examples/stop.sh --purge` removes it too.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
sampan=${SAMPAN:-$here/target/release/sampan}
run=${SAMPAN_RUN_DIR:-/var/lib/sampan-run}
if [ -f "$run/pid" ]; then
  pid=$(cat "$run/pid")
  # The number may be somebody else's by now.
  if [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$(realpath "$sampan")" ]; then
    kill "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  fi
  rm -f "$run/pid"
fi
[ ! -d "$run/data" ] || "$sampan" killall --data-dir "$run/data"
if [ "${1:-}" = --purge ]; then rm -rf "$run"; fi
echo "Stopped."
