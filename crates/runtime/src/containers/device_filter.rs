//! Devices on cgroup v2: there is no file to write, but a program (eBPF) that the kernel asks at each access.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::cgroups::DeviceRule;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// One eBPF instruction: operation, registers, jump offset, value.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    u64::from_ne_bytes({
        let mut b = [0u8; 8];
        b[0] = code;
        b[1] = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        b[2..4].copy_from_slice(&offset.to_ne_bytes());
        b[4..].copy_from_slice(&value.to_ne_bytes());
        b
    })
}

/// The program: `r2` type, `r3` access, `r4` major, `r5` minor; the first rule that covers the access allows it.
pub fn program(rules: &[DeviceRule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xbf;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_NE: u8 = 0x55;
    const JUMP_NE_REGISTER: u8 = 0x5d;
    const SET: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let letters = [('m', 1), ('r', 2), ('w', 4)];
        let mask: i32 = letters.iter().filter(|(c, _)| rule.access.contains(*c)).map(|(_, bit)| bit).sum();
        let mut tests: Vec<Vec<u64>> = Vec::new();
        let skip = i16::MAX; // filled in below
        if let Some(kind) = match rule.kind {
            'b' => Some(1),
            'c' => Some(2),
            _ => None,
        } {
            tests.push(vec![instruction(JUMP_NE, 2, 0, skip, kind)]);
        }
        if rule.kind != 'a' && mask != 7 {
            // access & mask == access
            tests.push(vec![
                instruction(MOVE, 1, 3, 0, 0),
                instruction(AND, 1, 0, 0, mask),
                instruction(JUMP_NE_REGISTER, 1, 3, skip, 0),
            ]);
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let (Some(number), true) = (number, rule.kind != 'a') {
                tests.push(vec![instruction(JUMP_NE, register, 0, skip, number as i32)]);
            }
        }
        let mut body: Vec<u64> = tests.concat();
        body.extend([instruction(SET, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
        let length = body.len();
        for (at, word) in body.iter_mut().enumerate() {
            let mut bytes = word.to_ne_bytes();
            if bytes[2..4] == skip.to_ne_bytes() {
                bytes[2..4].copy_from_slice(&((length - at - 1) as i16).to_ne_bytes());
                *word = u64::from_ne_bytes(bytes);
            }
        }
        code.extend(body);
        if tests.is_empty() {
            return code; // The kernel refuses a program with a part that is never reached.
        }
    }
    code.extend([instruction(SET, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// Loads the program and attaches it to the cgroup; it goes with the cgroup.
pub fn attach(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let code = program(rules);
    let license = c"GPL";
    let mut load = [0u64; 16];
    load[0] = PROG_TYPE_CGROUP_DEVICE as u64 | (code.len() as u64) << 32;
    if cfg!(target_endian = "big") {
        load[0] = (PROG_TYPE_CGROUP_DEVICE as u64) << 32 | code.len() as u64;
    }
    load[1] = code.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    let size = std::mem::size_of_val(&load);
    // SAFETY: the attributes point at `code` and `license`, which outlive the call; the descriptor is new and ours.
    let program = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, load.as_ptr(), size);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let cgroup = File::open(dir)?;
    // target, program, type, flags (BPF_F_ALLOW_MULTI: an ancestor's program is asked as well)
    let attach = [cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32, ATTACH_CGROUP_DEVICE, 2];
    // SAFETY: the attributes are plain numbers.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, attach.as_ptr(), std::mem::size_of_val(&attach)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
