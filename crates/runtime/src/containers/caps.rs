//! Linux capabilities by name.

const NAMES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing, as containerd gives it.
const DEFAULT: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
];

pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of `CAP_NAME` or `NAME`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|n| 1 << n)
}

/// The set of a container; an unknown name is returned as the error.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, String> {
    if privileged {
        return Ok(ALL);
    }
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let mut set = DEFAULT.iter().filter_map(|n| bit(n)).fold(0, |a, b| a | b);
    if add.iter().any(|n| is_all(&n)) {
        set = ALL;
    }
    if drop.iter().any(|n| is_all(&n)) {
        set = 0;
    }
    for name in add.iter().filter(|n| !is_all(n)) {
        set |= bit(name).ok_or_else(|| name.clone())?;
    }
    for name in drop.iter().filter(|n| !is_all(n)) {
        set &= !bit(name).ok_or_else(|| name.clone())?;
    }
    Ok(set)
}
