#!/bin/bash
# Makes the image example/hello:1 from this machine's static busybox, as a docker-archive: image.sh OUT.tar
# The same inputs give the same bytes.
set -euo pipefail
out=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,etc,tmp,www/cgi-bin}
cp /bin/busybox "$root/bin/busybox"
for applet in sh cat echo env hostname httpd ls nc nslookup ping ps sleep test true false wget id mount stty tail head tar vi date; do
  ln "$root/bin/busybox" "$root/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh
www:x:1000:1000:www:/www:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:
www:x:1000:' >"$root/etc/group"
cat >"$root/www/cgi-bin/hello" <<'PAGE'
#!/bin/sh
echo 'Content-Type: text/plain'
echo
echo "$GREETING from $(hostname)"
PAGE
chmod 755 "$root/www/cgi-bin/hello"
chmod 1777 "$root/tmp"
"$(dirname "$0")/../pack.sh" "$root" '{"User":"1000","Env":["PATH=/bin"],"Cmd":["httpd","-f","-v","-p","8080","-h","/www"],"WorkingDir":"/","ExposedPorts":{"8080/tcp":{}}}' \
  example/hello:1 "$out"
