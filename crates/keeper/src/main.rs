//! The keeper: the tiny static program that stands behind every pod.
//!
//! `keeper hold …` is one pod's holder: it makes the pod's namespaces, is the parent of its containers, owns their
//! stdio and logs, records how they ended, and answers on a socket. It lives on when Sampan is killed or upgraded.
//! `keeper create` and `keeper exec` are its short-lived helpers: they build one container, or enter one, and end in
//! the container's own program. Sampan hands them over as a file descriptor, so a new Sampan brings its own to old keepers.
//! See docs/decisions/keeper.md.
#![allow(unsafe_code)] // It is made of system calls; `sys` wraps the most of them.

mod cri_log;
mod enter;
mod hold;
mod housekeeping;
mod init;
mod packets;
mod passwd;
mod rootfs;
mod spec;
mod sys;
mod wire;

fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let code = match args.first().and_then(|a| a.to_str()) {
        Some("hold") => hold::main(&args[1..]),
        Some("create") => init::create_main(),
        Some("exec") => enter::exec_main(),
        Some("probe") if args.len() == 2 => housekeeping::probe(&args[1]),
        _ => {
            eprintln!("keeper {}: started by Sampan, one for each pod", env!("CARGO_PKG_VERSION"));
            2
        }
    };
    std::process::exit(code);
}
