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
# Kernels and clocks are real here, and machines are shared: what failed is tried once more, alone, and said aloud.
if [ "$status" -ne 0 ]; then
  mapfile -t targets < <(sed -n 's/^    `\(-p .*\)`$/\1/p; s/^error: test failed, to rerun pass `\(-p .*\)`$/\1/p' "$log" | sort -u)
  [ ${#targets[@]} -gt 0 ] || exit "$status"
  for target in "${targets[@]}"; do
    echo "unit: once more, alone: $target"
    # shellcheck disable=SC2086 # the words of cargo's own advice
    cargo test --locked $target 2>&1 | grep -v -e ' \.\.\. ok$' -e '^$' -e '^running '
    [ "${PIPESTATUS[0]}" -eq 0 ] || exit 1
    echo "unit: FLAKY: $target passed at its second try"
  done
fi
exit 0
