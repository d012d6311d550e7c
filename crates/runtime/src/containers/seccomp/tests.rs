use super::*;

/// Runs a filter as the kernel would.
fn run(filter: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let code: Vec<Instruction4> = filter
        .chunks_exact(8)
        .map(|c| (u16::from_ne_bytes([c[0], c[1]]), c[2], c[3], u32::from_ne_bytes([c[4], c[5], c[6], c[7]])))
        .collect();
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (n, arg) in args.iter().enumerate() {
        data[16 + 8 * n..24 + 8 * n].copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let (op, jt, jf, k) = code[at];
        at += 1;
        let skip = |yes: bool| if yes { jt as usize } else { jf as usize };
        match op {
            0x20 => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x06 => return k,
            JEQ => at += skip(a == k),
            JGT => at += skip(a > k),
            JGE => at += skip(a >= k),
            _ => panic!("instruction {op:#x}"),
        }
    }
}

fn call(profile: &Profile, arch: Arch, name: &str, args: &[u64]) -> u32 {
    let filter = compile(profile).unwrap();
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    run(&filter, arch.audit, numbers(arch)[name], six)
}

#[test]
fn every_name_of_the_default_profile_is_known() {
    let known: Vec<&str> = SYSCALLS.lines().filter_map(|l| l.split(' ').next()).collect();
    // Calls of machines that the table has no column for.
    let elsewhere = ["riscv_hwprobe", "epoll_ctl_old", "epoll_wait_old", "sync_file_range2"];
    for rule in runtime_default(u64::MAX).rules {
        assert!(known.contains(&rule.name.as_str()) || elsewhere.contains(&rule.name.as_str()), "{}", rule.name);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_answers() {
    let (none, admin) = (runtime_default(0), runtime_default(caps::bit("SYS_ADMIN").unwrap()));
    let eperm = ERRNO | EPERM;
    let check = |profile: &Profile, arch, name: &str, args: &[u64], expect| {
        assert_eq!(call(profile, arch, name, args), expect, "{name} {args:?}")
    };
    for name in ["read", "write", "openat", "exit_group", "futex", "rseq", "statx"] {
        check(&none, X86_64, name, &[], ALLOW);
    }
    for name in ["unshare", "mount", "keyctl", "add_key", "bpf", "kexec_load", "init_module", "ptrace", "setns"] {
        check(&none, X86_64, name, &[], if name == "ptrace" { ALLOW } else { eperm });
    }
    check(&admin, X86_64, "unshare", &[], ALLOW);
    check(&admin, X86_64, "clone3", &[], ALLOW);
    check(&none, X86_64, "clone3", &[], ERRNO | ENOSYS);
    check(&none, X86_64, "clone", &[0x11], ALLOW);
    check(&none, X86_64, "clone", &[0x1000_0011], eperm); // CLONE_NEWUSER
    check(&none, X86_64, "clone", &[0x1_0000_0000_0011], ALLOW);
    check(&none, X86_64, "socket", &[2], ALLOW);
    check(&none, X86_64, "socket", &[38], eperm);
    check(&none, X86_64, "socket", &[40], eperm);
    check(&none, X86_64, "personality", &[0], ALLOW);
    check(&none, X86_64, "personality", &[0x0040_0000], eperm);
    check(&none, I386, "mmap2", &[], ALLOW);
    check(&none, I386, "mount", &[], eperm);
    let filter = compile(&none).unwrap();
    assert_eq!(run(&filter, X86_64.audit, 0x4000_0000, [0; 6]), ERRNO | ENOSYS, "x32");
    assert_eq!(run(&filter, X86_64.audit, 5000, [0; 6]), eperm, "a call of a later kernel");
    assert_eq!(run(&filter, AARCH64.audit, 0, [0; 6]), KILL_PROCESS);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn comparisons() {
    let big = 5u64 << 32 | 7;
    type Case<'a> = (&'a str, u64, &'a [(u64, bool)]);
    let cases: &[Case] = &[
        ("EQ", big, &[(big, true), (7, false), (5 << 32, false)]),
        ("NE", big, &[(big, false), (7, true), (5 << 32, true)]),
        ("LT", big, &[(big, false), (big - 1, true), (big + 1, false), (6 << 32, false), (4 << 32 | 9, true)]),
        ("LE", big, &[(big, true), (big - 1, true), (big + 1, false), (6 << 32, false), (4 << 32 | 9, true)]),
        ("GT", big, &[(big, false), (big - 1, false), (big + 1, true), (6 << 32, true), (4 << 32 | 9, false)]),
        ("GE", big, &[(big, true), (big - 1, false), (big + 1, true), (6 << 32, true), (4 << 32 | 9, false)]),
    ];
    for (op, value, tries) in cases {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":9,
               "args":[{{"index":1,"value":{value},"op":"SCMP_CMP_{op}"}},{{"index":0,"value":3,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}}]}}]}}"#
        );
        let profile = localhost(json.as_bytes()).unwrap();
        for (argument, hit) in *tries {
            assert_eq!(
                call(&profile, X86_64, "read", &[5, *argument]),
                if *hit { ERRNO | 9 } else { ALLOW },
                "{argument} {op} {value}"
            );
            assert_eq!(call(&profile, X86_64, "read", &[6, *argument]), ALLOW, "the second condition does not hold");
        }
    }
}

#[test]
fn bad_profiles_are_refused() {
    for json in [
        "{}",
        "[]",
        r#"{"defaultAction":"SCMP_ACT_SMILE"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"=="}]}]}"#,
    ] {
        assert!(localhost(json.as_bytes()).is_err(), "{json}");
    }
}
