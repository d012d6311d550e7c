#!/bin/bash
# Upstream's conformance suite against two nodes in network namespaces. $E2E is the folder of a runner with `build.sh`,
# `images.py` and `run.sh`; arguments go to its run.sh: tests/conformance.sh --group sig-node --focus Probe
# With VM=1 the cluster is one node, a machine of its own on cgroup v2 (vm/machine.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
e2e=${E2E:-$here/../shared/tools/e2e}
export E2E_CACHE=${E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-e2e}
"$e2e/build.sh" && "$e2e/images.py" >/dev/null
. "$here/tests/world.sh"

# Some tests pull although the image is there.
registry=10.99.0.1:5000
mirrored=$registry
[ -z "${VM:-}" ] || registry=127.0.0.1:5000 mirrored=10.0.2.2:5000
printf 'mirrors: {registry.k8s.io: {endpoint: ["http://%s"]}}\n' "$mirrored" >"$work/registries.yaml"
network
start_registry "$registry"
"$e2e/images.py" --list | while IFS=$'\t' read -r name tar; do
  at "$server" skopeo copy -q --dest-tls-verify=false "oci-archive:$E2E_CACHE/images/$tar:$name" "docker://$registry/${name#*/}"
done
if [ -n "${VM:-}" ]; then
  . "$here/tests/vm/machine.sh"
  vm_disk "$E2E_CACHE"/images/*.tar
  with_disk cp "$work/registries.yaml" "$work/mounted/etc/sampan/registries.yaml"
  # Names from outside fail at once: there is no resolver to wait for.
  with_disk truncate -s 0 "$work/mounted/etc/resolv.conf"
  vm_boot
  vm_ready
else
  : >"$work/resolv.conf"
  node_args=(--resolv-conf "$work/resolv.conf" --private-registry "$work/registries.yaml")
  for node in server agent; do
    mkdir -p "$work/$node/images"
    cp "$E2E_CACHE"/images/*.tar "$work/$node/images/"
  done
  start_server
  within 60 k get --raw /readyz
  [ -n "${ONE_NODE:-}" ] || start_agent
  within 120 k wait --for=condition=Ready node/one $([ -n "${ONE_NODE:-}" ] || echo node/two)
fi
echo "conformance: the cluster is ready; logs in $work/log"
at "$server" "$e2e/run.sh" --kubeconfig "$KUBECONFIG" "$@"
