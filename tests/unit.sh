#!/bin/bash
# All rooms' own tests, and their totals. As root, since containers and networks are real; each test makes its own
# namespaces. Arguments go to `cargo test`: tests/unit.sh -p net
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
[ "$(id -u)" = 0 ] || { echo "unit: containers and networks are real here: run as root" >&2; exit 1; }
[ $# -gt 0 ] || set -- --workspace
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS
cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" | grep -v -e ' \.\.\. ok$' -e '^$' -e '^running '
status=${PIPESTATUS[0]}
awk -v seconds=$((SECONDS - started)) '
  /^test result:/ { passed += $4; failed += $6; ignored += $8 }
  / \.\.\. FAILED$/ { print "failed: " $2 }
  END { printf "unit: %d passed, %d failed, %d ignored in %d s\n", passed, failed, ignored, seconds }' "$log"
exit "$status"
