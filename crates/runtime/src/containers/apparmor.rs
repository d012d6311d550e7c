//! AppArmor profiles: [`profile`] says which one confines a container, and loads the default one when it is first needed.
//! As with containerd, a machine without `apparmor_parser` is one without AppArmor.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::config::AppArmor;

const DEFAULT: &str = "sampan-default";
const PARSER: &str = "/sbin/apparmor_parser";
const KERNEL: &str = "/sys/kernel/security/apparmor";
const INCLUDES: &str = "/etc/apparmor.d";

/// Whether the kernel has AppArmor, and uses it.
pub fn enabled() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
        && Path::new(KERNEL).is_dir()
}

/// Asked once: a change needs a restart, as kubelet's does.
static SUPPORTED: LazyLock<bool> = LazyLock::new(|| {
    if !enabled() {
        return false;
    }
    let parser = Path::new(PARSER).exists();
    if !parser {
        tracing::warn!("AppArmor is enabled, but there is no {PARSER}: containers are not confined by it");
    }
    parser
});

/// The profile's name, empty for none; in containerd's words why there is none.
pub fn profile(asked: &AppArmor, privileged: bool) -> Result<String, String> {
    match asked {
        AppArmor::Unconfined => Ok(String::new()),
        AppArmor::RuntimeDefault if privileged || !*SUPPORTED => Ok(String::new()),
        AppArmor::RuntimeDefault => {
            load_default().map_err(|why| format!("load apparmor profile {DEFAULT}: {why}"))?;
            Ok(DEFAULT.into())
        }
        AppArmor::Localhost(_) if !*SUPPORTED => Err("apparmor is not supported".into()),
        AppArmor::Localhost(name) if loaded(name).map_err(|why| why.to_string())? => Ok(name.clone()),
        AppArmor::Localhost(name) => Err(format!("apparmor profile not found {name}")),
    }
}

/// Lines are `name (mode)`.
fn loaded(name: &str) -> io::Result<bool> {
    let profiles = fs::read_to_string(format!("{KERNEL}/profiles"))?;
    Ok(profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(found, _)| found == name)))
}

fn load_default() -> io::Result<()> {
    if loaded(DEFAULT)? {
        return Ok(());
    }
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let text =
        policy(own.split([' ', '\n', '\0']).next().unwrap_or_default(), |file| Path::new(INCLUDES).join(file).exists());
    // Kept out of the parser's cache, whose files are those of /etc.
    let mut parser = Command::new(PARSER)
        .args(["--skip-cache", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = parser.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let done = parser.wait_with_output()?;
    match done.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    }
}

/// A container may do what its capabilities let it do, but for mounts and the kernel's own files; signals and traces stay
/// within it. `own` is the profile of this program, `has` whether the machine has a file of includes.
fn policy(own: &str, has: impl Fn(&str) -> bool) -> String {
    let abi = if has("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let base = if has("abstractions/base") && has("tunables/global") { "  #include <abstractions/base>\n" } else { "" };
    let tunables = if base.is_empty() { "" } else { "#include <tunables/global>\n" };
    let own = if own.is_empty() { "unconfined" } else { own };
    format!(
        "{abi}{tunables}profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
{base}  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer={own},
  signal (send,receive) peer={DEFAULT},
  ptrace (trace,tracedby,read,readby) peer={DEFAULT},
  deny mount,
  # Of /proc only what belongs to a process, and of /proc/sys only kernel/shm*, is written.
  deny /proc/* w,
  deny /proc/{{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny /proc/{{sysrq-trigger,kcore}} rwklx,
  # Of /sys only cgroups.
  deny /sys/{{[^f]*,f[^s]*}}/** wklx,
  deny /sys/fs/{{[^c]*,c[^g]*,cg[^r]*}}/** wklx,
  deny /sys/{{firmware,devices/virtual/powercap,kernel/security}}/** rwklx,
}}
"
    )
}

#[cfg(test)]
mod tests;
