#!/bin/bash
# What building and testing need: Debian's packages, and kubectl, built once from the Go module proxy into the cache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sampan-tests

need=()
want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
want cc gcc
want make make
want git git
want file file
want ip iproute2
want nft nftables
want docker-registry docker-registry
want skopeo skopeo
want htpasswd apache2-utils
want zstd zstd
want jq jq
want curl curl
want openssl openssl
want protoc protobuf-compiler # for k8s-cri, which asks CRI's contract
want unshare util-linux
[ -x /usr/lib/cni/bridge ] || need+=(containernetworking-plugins) # a network for `sampan cri`
if ! file -L /bin/busybox 2>/dev/null | grep -q 'statically linked'; then need+=(busybox-static); fi
python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
if [ ${#need[@]} -gt 0 ]; then
  echo "tools: installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
command -v cargo >/dev/null 2>&1 || { echo "tools: Rust 1.95 is needed: https://rustup.rs" >&2; exit 1; }

# kubectl of the release that the API speaks. The sources' sum is its version.
stamp=$(cat "$here"/kubectl/{main.go,go.mod,go.sum} | sha256sum | cut -c1-16)
if [ ! -x "$cache/kubectl-$stamp/kubectl" ]; then
  command -v go >/dev/null 2>&1 || { echo "tools: Go 1.26 is needed to build kubectl: https://go.dev/dl" >&2; exit 1; }
  echo "tools: building kubectl (once)"
  mkdir -p "$cache"
  made=$(mktemp -d "$cache/new.XXXXXX")
  trap 'rm -rf "$made"' EXIT
  version='-X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37'
  (cd "$here/kubectl" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $version" -o "$made/kubectl" .)
  chmod 755 "$made"
  rm -rf "$cache/kubectl-$stamp"
  mv "$made" "$cache/kubectl-$stamp"
fi
ln -sfn "kubectl-$stamp" "$cache/current"

# An old kubectl, Debian's 1.20: it speaks SPDY where today's speaks WebSocket.
if [ ! -x "$cache/old/kubectl" ]; then
  made=$(mktemp -d "$cache/new.XXXXXX")
  chmod 755 "$made" # apt's user writes there
  (cd "$made" && { apt-get download -qq kubernetes-client || { apt-get update -qq && apt-get download -qq kubernetes-client; }; } >/dev/null 2>&1 && dpkg -x ./*.deb .)
  mkdir -p "$cache/old" && mv "$made/usr/bin/kubectl" "$cache/old/kubectl"
  rm -rf "$made"
fi
