#!/bin/bash
# Packs a directory as a docker-archive of one layer: pack.sh ROOT CONFIG NAME OUT.tar, where CONFIG is the image's `config` as JSON.
# The same inputs give the same bytes.
set -euo pipefail
root=$1 config=$2 name=$3 out=$(realpath "$4")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$1" -cf "$2" .; }
archive "$root" "$work/layer.tar"
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; armv7l) arch=arm ;; *) arch=$(uname -m) ;; esac
mkdir "$work/image"
mv "$work/layer.tar" "$work/image/$layer.tar"
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$arch" "$config" "$layer" >"$work/config.json"
id=$(sha256sum "$work/config.json" | cut -d' ' -f1)
mv "$work/config.json" "$work/image/$id.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar"]}]' "$id" "$name" "$layer" >"$work/image/manifest.json"
archive "$work/image" "$out"
