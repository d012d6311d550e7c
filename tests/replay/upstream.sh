#!/bin/bash
# upstream.sh DIR: starts etcd and kube-apiserver, nothing else, with state in DIR and on ports that the kernel chooses;
# prints DIR/kubeconfig's server URL when it is ready, and ends both when standard input closes.
# PEERS=DIR has the binaries etcd and kube-apiserver.
set -euo pipefail
dir=$1
bin=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-peers/bin}
mkdir -p "$dir"
cd "$dir"

ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$1" -keyout "$1.key" -out "$1.crt" 2>/dev/null; }
leaf() { # NAME SUBJECT ALTERNATIVE-NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s\n' "$3") 2>/dev/null
}
ca ca
ca front-ca
leaf apiserver /CN=kube-apiserver subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.43.0.1
leaf admin /O=system:masters/CN=system:admin ''
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null

mapfile -t port < <(python3 -c 'import socket
s = [socket.socket() for _ in range(3)]
for x in s: x.bind(("127.0.0.1", 0)); print(x.getsockname()[1])')
pids=()
# What they leave is thrown away: no use in waiting for an end in good order, which needs the others.
trap 'exec 2>/dev/null; kill -9 "${pids[@]}"; wait' EXIT
"$bin/etcd" --name m0 --data-dir "$dir/etcd" --log-level error --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:${port[0]}" --advertise-client-urls "http://127.0.0.1:${port[0]}" \
  --listen-peer-urls "http://127.0.0.1:${port[1]}" --initial-advertise-peer-urls "http://127.0.0.1:${port[1]}" \
  --initial-cluster "m0=http://127.0.0.1:${port[1]}" >etcd.log 2>&1 </dev/null &
pids+=($!)
"$bin/kube-apiserver" --bind-address=127.0.0.1 --secure-port="${port[2]}" --advertise-address=10.99.0.1 --allow-privileged=true \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true --profiling=false \
  --client-ca-file=ca.crt --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --cert-dir="$dir/certs" \
  --etcd-servers="http://127.0.0.1:${port[0]}" \
  --service-account-signing-key-file=sa.key --service-account-key-file=sa.pub \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --api-audiences=https://kubernetes.default.svc.cluster.local,sampan \
  --service-cluster-ip-range=10.43.0.0/16 --service-node-port-range=30000-32767 \
  --requestheader-client-ca-file=front-ca.crt --requestheader-allowed-names=system:auth-proxy \
  --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
  --requestheader-username-headers=X-Remote-User --enable-aggregator-routing=true >apiserver.log 2>&1 </dev/null &
pids+=($!)
url=https://127.0.0.1:${port[2]}
for _ in $(seq 300); do
  [ "$(curl -sS --cacert ca.crt --cert admin.crt --key admin.key "$url/readyz" 2>/dev/null)" = ok ] && break
  kill -0 "${pids[@]}"
  sleep 0.2
done
echo "$url"
cat >/dev/null
