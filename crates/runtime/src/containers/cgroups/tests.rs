use super::*;

#[test]
fn shares_become_weights() {
    for (shares, expect) in
        [(2, 1), (3, 2), (102, 17), (1024, 100), (10240, 639), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(weight(shares), expect, "{shares}");
    }
}

fn check(info: &str, v1: &[(&str, &str)], v2: Option<&str>) {
    let found = Cgroups::from_mountinfo(info).unwrap();
    let expect: Vec<(String, PathBuf)> = v1.iter().map(|(c, p)| (c.to_string(), p.into())).collect();
    assert_eq!((found.v1, found.v2), (expect, v2.map(PathBuf::from)), "{info}");
}

#[test]
fn finds_the_hierarchies() {
    let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    check(unified, &[], Some("/sys/fs/cgroup"));
    let hybrid = "32 1 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 1 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
        34 1 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        35 1 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let both = "/sys/fs/cgroup/cpu,cpuacct";
    check(
        hybrid,
        &[("cpu", both), ("cpuacct", both), ("memory", "/sys/fs/cgroup/memory")],
        Some("/sys/fs/cgroup/unified"),
    );
    // systemd's own hierarchy alone is not v1.
    check(&format!("{unified}34 1 0:31 / /x rw - cgroup cgroup rw,name=systemd\n"), &[], Some("/sys/fs/cgroup"));
    assert!(Cgroups::from_mountinfo("1 2 0:3 / / rw - ext4 /dev/vda rw\n").is_err());
    let found = Cgroups::from_mountinfo(hybrid).unwrap();
    assert_eq!(found.dirs("/a/b"), ["/sys/fs/cgroup/cpu,cpuacct/a/b", "/sys/fs/cgroup/memory/a/b"].map(PathBuf::from));
}

#[test]
fn pressure_is_read_with_what_older_kernels_leave_out() {
    let both = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    let some = Waited { total_us: 42, averages: [1.5, 0.25, 0.0] };
    assert_eq!(waited(both), Some([some, Waited { total_us: 7, ..Waited::default() }]));
    assert_eq!(waited(both.lines().next().unwrap()), Some([some, Waited::default()]));
    assert_eq!(waited(""), None);
}

#[test]
fn a_device_program_has_no_part_that_is_never_reached() {
    let rule = |kind, major, access: &str| DeviceRule { kind, major, minor: None, access: access.into() };
    // Six to read what is asked, two to allow or to deny, and one for each test; moving and masking take two more.
    for (rules, length) in [
        (vec![], 8),
        (vec![rule('c', Some(1), "rwm")], 6 + 2 + 2 + 2),
        (vec![rule('c', None, "m")], 6 + 1 + 3 + 2 + 2),
        (vec![rule('a', None, "rwm")], 6 + 2),
        (vec![rule('a', None, "rwm"), rule('c', Some(1), "rwm")], 6 + 2),
    ] {
        assert_eq!(device_filter::program(&rules).len(), length, "{rules:?}");
    }
}
