//! `keeper exec`: starts one more process inside a container.
//!
//! Descriptors at start: 0-2 the process' own, 3 the spec, 4 the result, 5 a pidfd of the container's init.

use std::os::fd::AsRawFd;

use crate::init::{self, Done, EXTRA_FD, OpenCgroup, Tried};
use crate::spec::Exec;
use crate::{passwd, sys};

pub fn exec_main() -> i32 {
    init::report(exec())
}

fn exec() -> Done<()> {
    let spec: Exec = init::read_spec()?;
    init::set_oom_score(spec.oom_score_adj)?;
    // What belongs to the host is opened before its file system goes out of sight.
    let cgroup = OpenCgroup::open(&spec.cgroup)?;
    let all = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    sys::setns(EXTRA_FD, all).tried(|| "enter the container".into())?;
    init::spawn(0, cgroup, |joined| {
        // From inside it nobody comes into a cgroup from one outside (`nsdelegate`, as systemd mounts).
        sys::setns(EXTRA_FD, libc::CLONE_NEWCGROUP).tried(|| "enter the cgroup namespace".into())?;
        let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY, 0).tried(|| "open the root".into())?;
        if spec.process.terminal {
            init::open_terminal(root.as_raw_fd(), false)?;
        }
        let identity = passwd::resolve(root.as_raw_fd(), &spec.process.user)?;
        joined()?;
        init::become_program(&spec.process, identity, EXTRA_FD, false)
    })
}
