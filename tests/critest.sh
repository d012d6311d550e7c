#!/bin/bash
# critest, the validation of CRI runtimes by kubernetes-sigs, on `sampan cri`; by hand: tests/critest.sh [critest's flags]
# It comes by Go's module proxy; its images are stood in for by a busybox that is built as upstream's are (Debian's own
# runs its applets inside of its shell, and lacks pgrep and ipcs), served on loopback. One test asks for an image by a
# digest that nobody else can make: it fails on every runtime. RUNTIME=unix://… asks another one, in the network
# namespace that this one makes, with its registries' mirrors set to http://127.0.0.1:5077.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"
version=v1.37.0 cache=${XDG_CACHE_HOME:-$HOME/.cache}/sampan-tests/critest-v1.37.0
registry=127.0.0.1:5077

if [ ! -x "$cache/critest" ]; then
  mkdir -p "$cache"
  HOME=/root go mod download -json "sigs.k8s.io/cri-tools@$version" | jq -r .Dir >"$cache/source"
  cp -r "$(cat "$cache/source")" "$work/cri-tools"
  chmod -R u+w "$work/cri-tools"
  (cd "$work/cri-tools" && HOME=/root go test -c -o "$cache/critest" ./cmd/critest)
fi

if [ ! -x "$cache/busybox" ]; then
  mkdir -p "$work/busybox/lists/partial"
  echo "deb-src http://deb.debian.org/debian $(. /etc/os-release && echo "$VERSION_CODENAME") main" >"$work/busybox/list"
  from=(-qq -o "Dir::Etc::sourcelist=$work/busybox/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/busybox/lists")
  (
    cd "$work/busybox"
    apt-get "${from[@]}" update
    apt-get "${from[@]}" source --download-only busybox 2>/dev/null
    mkdir source
    tar -C source --strip-components 1 -xf busybox_*.orig.tar.*
    cd source
    make -s defconfig >/dev/null
    # tc wants headers that kernels no longer have.
    sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
    make -s -j2 busybox </dev/null >"$work/log/busybox" 2>&1
    cp busybox "$cache/busybox"
  )
fi

network
start_registry "$registry"

root=$work/root
mkdir -p "$root"/{bin,etc,tmp,root,home,proc,sys,dev,usr/bin,var/run,html}
chmod 1777 "$root/tmp"
cp "$cache/busybox" "$root/bin/busybox"
for applet in $("$cache/busybox" --list); do [ "$applet" = busybox ] || ln -f "$root/bin/busybox" "$root/bin/$applet"; done
printf 'root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n' >"$root/etc/group"
echo '<title>Welcome to nginx!</title>' >"$root/html/index.html"

# stand NAME CONFIG: an image of that name, different from all others.
stand() {
  echo "$1" >"$root/html/name"
  "$here/examples/pack.sh" "$root" "{\"Env\":[\"PATH=/bin\"],$2}" localhost/x:1 "$work/image.tar"
  at "$server" skopeo copy -q --dest-tls-verify=false "docker-archive:$work/image.tar" "docker://$registry/$1"
}
shell='"Cmd":["sh"]'
e2e=e2e-test-images tools=k8s-staging-cri-tools
for name in latest:latest digest:latest tag:test tag:all 1:latest 2:latest 3:latest; do stand "$tools/test-image-$name" "$shell"; done
stand "$tools/test-image-tags:1" "$shell"
for tag in 2 3; do
  at "$server" skopeo copy -q --src-tls-verify=false --dest-tls-verify=false "docker://$registry/$tools/test-image-tags:1" "docker://$registry/$tools/test-image-tags:$tag"
done
while read -r name user; do stand "$tools/test-image-$name" "$shell,\"User\":\"$user\""; done <<'USERS'
user-uid 1002
user-username www-data
user-uid-group 1003:1004
user-username-group www-data:100
predefined-group 1000
USERS
stand "$e2e/busybox:1.29-2" "$shell"
printf '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("Effective uid: %%d\\n", geteuid()); }\n' >"$work/nnp.c"
cc -Os -static -s -o "$root/bin/nnp" "$work/nnp.c"
chmod 4755 "$root/bin/nnp"
stand "$e2e/nonewprivs:1.3" '"Cmd":["nnp"],"User":"1000"'
stand pause:3.9 '"Cmd":["sleep","1000000"]'
# A process of that name that calls itself as nginx's first does, and its pid file.
printf '#!/bin/sh\necho $$ >/var/run/nginx.pid\nhttpd -f -p 80 -h /html\n' >"$root/bin/nginx"
# What httpd logs on its start has its name.
printf '#!/bin/sh\necho httpd\nexec httpd -f -p 80 -h /html\n' >"$root/bin/serve"
chmod +x "$root/bin/nginx" "$root/bin/serve"
stand "$e2e/nginx:1.14-2" '"Cmd":["nginx","master process"]'
stand "$e2e/httpd:2.4.39-4" '"Cmd":["serve"]'
stand "$tools/hostnet-nginx-amd64:latest" '"Cmd":["httpd","-f","-p","12003","-h","/html"]'

endpoint=${RUNTIME:-unix://$work/server/run/cri.sock}
if [ -z "${RUNTIME:-}" ]; then
  printf 'mirrors:\n' >"$work/registries.yaml"
  for host in gcr.io registry.k8s.io k8s.gcr.io; do printf '  %s: {endpoint: ["http://%s"]}\n' "$host" "$registry" >>"$work/registries.yaml"; done
  at_bg "$server" "$sampan" cri --data-dir "$work/server" --address "$endpoint" --private-registry "$work/registries.yaml" >"$work/log/cri" 2>&1 &
  echo $! >"$work/server.pid"
  disown
  within 20 test -S "${endpoint#unix://}"
fi
at "$server" "$cache/critest" --runtime-endpoint "$endpoint" --ginkgo.no-color "$@" >"$work/log/critest" 2>&1 || true
grep -E '^ +\[FAIL\]|^Ran |Passed' "$work/log/critest"
