#!/bin/bash
# Installs what building and testing need and this machine lacks: Debian packages only.
set -euo pipefail
need=()
want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
want cc gcc
want ip iproute2
want nft nftables
want docker-registry docker-registry
want skopeo skopeo
want zstd zstd
want jq jq
want curl curl
want openssl openssl
[ -x /bin/busybox ] && file -L /bin/busybox 2>/dev/null | grep -q static || [ -e /usr/share/doc/busybox-static ] || need+=(busybox-static)
command -v cargo >/dev/null 2>&1 || { echo "tools: Rust 1.95 is needed: https://rustup.rs" >&2; exit 1; }
if [ ${#need[@]} -gt 0 ]; then
  echo "tools: installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
