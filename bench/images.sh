#!/bin/bash
# Imports and unpacks an image of many small files beside tar and containerd, each three times: images.sh [MIB]
# Everything lies on a file system of its own (a file in $BENCH_DIR or /var/tmp): an old and full one can take a
# millisecond to find a free inode. A turn ends when what it wrote is on the disk: Sampan's images are by themselves.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mib=${1:-500}
sampan=$(realpath "${SAMPAN:-$here/../target/release/sampan}")
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan-peers}
disk=$(mktemp "${BENCH_DIR:-/var/tmp}/sampan-images.XXXXXX") work=$(mktemp -d)
containerd=
cleanup() {
  [ -z "$containerd" ] || { kill "$containerd"; wait "$containerd" 2>/dev/null || true; }
  umount "$work" || true
  rm -rf "$disk" "$work"
}
trap cleanup EXIT
truncate -s $((mib * 8 + 2048))M "$disk"
mkfs.ext4 -q -F "$disk"
mount -o loop "$disk" "$work"

# 12 KiB a file, 100 files a directory; what is in them does not compress well.
python3 - "$work/root" "$mib" <<'PY'
import os, random, sys
root, mib = sys.argv[1], int(sys.argv[2])
random.seed(1)
for at in range(mib * 1024 // 12):
    directory = f"{root}/d{at // 10000}/d{at // 100}"
    if at % 100 == 0:
        os.makedirs(directory)
    with open(f"{directory}/f{at}", "wb") as file:
        file.write(random.randbytes(12 << 10))
PY
files=$(find "$work/root" -type f | wc -l)
"$here/../examples/pack.sh" "$work/root" '{"Cmd":["/x"]}' localhost/many:1 "$work/many.tar"
tar -C "$work/root" -cf "$work/layer.tar" .
rm -rf "$work/root"

turn() { # NAME COMMAND...
  local name=$1 started; shift
  sync
  started=$(date +%s%N)
  "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  sync -f "$work"
  printf '%s %d\n' "$name" $((($(date +%s%N) - started) / 1000000)) >>"$work/times"
}
untar() { mkdir "$work/tar"; tar -C "$work/tar" -xf "$work/layer.tar"; }
ours() { "$sampan" images --data-dir "$work/node" import "$work/many.tar"; }
ctr() { "$peers/bin/ctr" -a "$work/cd/socket" -n bench images "$@"; }
if [ -x "$peers/bin/containerd" ]; then
  mkdir -p "$work/cd"
  printf "version = 3\nroot = '%s'\nstate = '%s'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\n address = '%s'\n" \
    "$work/cd/root" "$work/cd/state" "$work/cd/socket" >"$work/cd/config.toml"
  "$peers/bin/containerd" --config "$work/cd/config.toml" >"$work/cd/log" 2>&1 &
  containerd=$!
  until [ -S "$work/cd/socket" ]; do sleep 0.1; done
  sleep 1
fi
for _ in 1 2 3; do
  turn tar untar
  rm -rf "$work/tar"
  turn sampan ours
  rm -rf "$work/node"
  [ -n "$containerd" ] || continue
  turn containerd ctr import "$work/many.tar"
  ctr rm localhost/many:1 >/dev/null
  ctr prune --all >/dev/null 2>&1 || true
done
echo "an image of $mib MiB in $files files, imported and unpacked (tar: unpacked only):"
for name in tar sampan containerd; do
  awk -v name=$name '$1 == name {print $2}' "$work/times" | sort -n |
    awk -v name=$name -v mib="$mib" '{t[NR] = $1} END {if (NR) printf "%-12s median %6d ms  %4.0f MiB/s\n", name, t[int((NR + 1) / 2)], mib * 1000 / t[int((NR + 1) / 2)]}'
done
