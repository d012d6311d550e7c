#!/bin/bash
# disk.sh DIR: what a machine of its own boots from, made of Debian's packages once and kept in DIR: `kernel`, `initrd`, and
# `disk`, an ext4 file system with systemd, its logind, AppArmor's parser, and a socket that takes commands.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
stamp=$(sha256sum "$here/disk.sh" | cut -c1-16)
[ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

need=()
command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
command -v mmdebstrap >/dev/null || need+=(mmdebstrap)
command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
command -v cpio >/dev/null || need+=(cpio)
if [ ${#need[@]} -gt 0 ]; then
  echo "vm: installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

echo "vm: making the machine's disk (once)"
# The program under test is linked with this machine's libc; kernels before 6.3 map no owners on a tmpfs.
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo bookworm)
mkdir -p "$dir"
made=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -rf "$made"' EXIT
chmod 755 "$made"
root=$made/root
# shellcheck disable=SC2016 # the hook's shell has the variables
mmdebstrap --quiet --mode=root --variant=apt --include=systemd,systemd-sysv,dbus,apparmor,kmod,iproute2,procps,nftables \
  --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='chroot "$1" sh -c "mkdir -m 777 /linux; cd /linux && apt-get download -qq \$(apt-cache show linux-image-cloud-amd64 | sed -n \"s/^Depends: \\([^ ,]*\\).*/\\1/p\" | sort -V | tail -1)"' \
  "$suite" "$root" "deb http://deb.debian.org/debian $suite main" "deb http://deb.debian.org/debian $suite-backports main" >"$made/log" 2>&1 || { tail -20 "$made/log" >&2; exit 1; }
mkdir "$made/linux"
dpkg -x "$root"/linux/*.deb "$made/linux"
rm -r "$root/linux"
version=$(basename "$made"/linux/lib/modules/*)
mkdir -p "$root/lib/modules"
cp -a "$made/linux/lib/modules/$version" "$root/lib/modules/"
rm -rf "$root/lib/modules/$version/kernel"/{sound,drivers/{gpu,infiniband,media,scsi,nvme,iio,hwmon,isdn}}
chroot "$root" depmod "$version"
cp "$made/linux/boot/vmlinuz-$version" "$made/kernel"

# What the disk needs before there is one.
mkdir -p "$made/early"/{bin,dev,proc,sys,root,lib}
cp /bin/busybox "$made/early/bin/"
for module in virtio/virtio virtio/virtio_ring virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci block/virtio_blk; do
  # Some kernels have it built in.
  file=$(echo "$made/linux/lib/modules/$version/kernel/drivers/$module".ko*)
  case $file in
    *.ko) cp "$file" "$made/early/lib/" ;;
    *.ko.xz) xz -dc "$file" >"$made/early/lib/$(basename "$module").ko" ;;
  esac
done
cat >"$made/early/init" <<'INIT'
#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mount -t devtmpfs dev /dev
for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  [ ! -e /lib/$module.ko ] || busybox insmod /lib/$module.ko
done
while [ ! -e /dev/vda ]; do busybox sleep 0.1; done
busybox mount -t ext4 /dev/vda /root
busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod 755 "$made/early/init"
(cd "$made/early" && find . | cpio -o -H newc --quiet | gzip -1) >"$made/initrd"

echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost\n10.0.2.15 vm\n' >"$root/etc/hosts"
printf 'nameserver 10.0.2.3\n' >"$root/etc/resolv.conf"
printf 'virtio_net\noverlay\nnf_tables\nveth\nvxlan\n' >"$root/etc/modules-load.d/vm.conf"
: >"$root/etc/fstab"
units=$root/etc/systemd/system
cat >"$units/vm-net.service" <<'UNIT'
[Unit]
After=systemd-modules-load.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'set -e; eth=$(ls /sys/class/net | grep -v lo | head -1); ip link set "$eth" up; ip addr add 10.0.2.15/24 dev "$eth"; ip route add default via 10.0.2.2'
[Install]
WantedBy=multi-user.target
UNIT
# A command as a line of base64; its output, and its status as the last line.
cat >"$units/vm-command.socket" <<'UNIT'
[Socket]
ListenStream=7000
Accept=yes
[Install]
WantedBy=sockets.target
UNIT
cat >"$units/vm-command@.service" <<'UNIT'
[Unit]
CollectMode=inactive-or-failed
[Service]
StandardInput=socket
StandardOutput=socket
StandardError=socket
Environment=HOME=/root
ExecStart=/bin/bash -c 'read -r line; bash -c "$(base64 -d <<<"$line")" </dev/null; printf "\n%%s" $?'
UNIT
cat >"$units/sampan.service" <<'UNIT'
[Unit]
After=vm-net.service
Requires=vm-net.service
[Service]
EnvironmentFile=-/etc/sampan.env
ExecStart=/usr/local/bin/sampan server --node-name vm --tls-san 127.0.0.1 $SAMPAN_MORE
StandardOutput=append:/var/log/sampan.log
StandardError=append:/var/log/sampan.log
KillMode=process
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl -q enable vm-net.service vm-command.socket sampan.service
# What boots slowly, and nobody here wants.
for unit in apparmor.service {apt-daily,apt-daily-upgrade,dpkg-db-backup,e2scrub_all,fstrim,systemd-tmpfiles-clean}.timer \
  modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service sys-{fs-fuse-connections,kernel-config,kernel-debug,kernel-tracing}.mount \
  dev-mqueue.mount getty.target e2scrub_reap.service systemd-{firstboot,sysusers,pstore,random-seed,binfmt,update-utmp,timesyncd}.service \
  systemd-{journal-flush,user-sessions,tmpfiles-setup-dev,update-utmp-runlevel,networkd,resolved}.service systemd-journald-audit.socket; do
  ln -sf /dev/null "$units/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$units/default.target"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/vm.conf"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
truncate -s 3G "$made/disk"
mkfs.ext4 -qF -O ^metadata_csum_seed -E lazy_itable_init=1,lazy_journal_init=1 -d "$root" "$made/disk"
mv "$made"/{kernel,initrd,disk} "$dir/"
echo "$stamp" >"$dir/stamp"
