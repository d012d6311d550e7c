# A machine of its own for a suite: Debian's kernel on one hierarchy of cgroups v2, with systemd and AppArmor, in QEMU without
# hardware's help. To be sourced after world.sh; the machine's ports are on the loopback of the `server` network namespace,
# so that `k` reaches its API. Environment: VM_MEMORY=2048 (MiB).
# shellcheck shell=bash disable=SC2154
vm=${kubectl%/current/kubectl}/vm
disk=$work/disk
SUITE_PATIENCE=${SUITE_PATIENCE:-3}

# What `run` does goes there, a file by `run_file`.
run() {
  local out status
  # shellcheck disable=SC2016 # the inner shell's
  out=$(at "$server" timeout "${RUN_TIMEOUT:-120}" bash -c 'exec 3<>/dev/tcp/127.0.0.1/7000 || exit; base64 -w0 <<<"$1" >&3; echo >&3; cat <&3' run "$1" 2>/dev/null) || true
  status=${out##*$'\n'}
  [ -z "${out%"$status"}" ] || printf '%s' "${out%$'\n'*}" | sed '$a\'
  [ -n "$status" ] || status=125 # nobody is there
  return "$status"
}

vm_disk() {
  "$here/tests/vm/disk.sh" "$vm"
  cp --sparse=always "$vm/disk" "$disk"
  mkdir "$work/mounted"
  with_disk vm_fill "$@"
}
# with_disk COMMAND...: while the machine is off, with its disk on $work/mounted.
with_disk() {
  mount -o loop "$disk" "$work/mounted"
  local status=0
  "$@" || status=$?
  umount "$work/mounted"
  return $status
}
vm_fill() {
  cp "$sampan" "$work/mounted/usr/local/bin/sampan"
  mkdir -p "$work/mounted"/{var/lib/sampan/images,etc/sampan}
  [ $# = 0 ] || cp "$@" "$work/mounted/var/lib/sampan/images/"
}

vm_boot() {
  # Without cx16, which QEMU 7 gets wrong: kernels from 6.5 on fall over it.
  at_bg "$server" qemu-system-x86_64 -accel tcg,thread=multi,tb-size=256 -cpu max,cx16=off -smp 2 -m "${VM_MEMORY:-2048}" -display none -monitor none \
    -serial "file:$work/log/console" -no-reboot -kernel "$vm/kernel" -initrd "$vm/initrd" \
    -append 'console=ttyS0 quiet panic=-1 mitigations=off systemd.unified_cgroup_hierarchy=1 systemd.show_status=0' \
    -drive "file=$disk,format=raw,if=virtio" \
    -netdev user,id=net,hostfwd=tcp:127.0.0.1:6443-:6443,hostfwd=tcp:127.0.0.1:7000-:7000 -device virtio-net-pci,netdev=net,romfile= >>"$work/log/qemu" 2>&1 &
  echo $! >"$work/qemu.pid"
  disown
}
vm_gone() { timeout "${1:-20}" tail --pid="$(cat "$work/qemu.pid")" -s 0.1 -f /dev/null; }
# As when the plug is pulled: what was not written out is lost.
vm_cut() { kill -9 "$(cat "$work/qemu.pid")" && vm_gone; }
# QEMU's emulation now and then runs into an instruction that the kernel is patching (an int3): not our panic, and said aloud.
vm_up() {
  if grep -aq 'Kernel panic' "$work/log/console"; then
    grep -aq 'Oops: int3' "$work/log/console" || return 1
    echo 'vm: the emulation fell over a patched instruction; booted again' >>"$work/times"
    vm_cut
    vm_boot
  fi
  run true
}
vm_ready() {
  within "${1:-120}" vm_up
  [ -e "$KUBECONFIG" ] || { within 60 run 'test -s /etc/sampan/kubeconfig.yaml' && run 'cat /etc/sampan/kubeconfig.yaml' >"$KUBECONFIG"; }
  within 120 k wait --for=condition=Ready node/vm --timeout=1s
}
