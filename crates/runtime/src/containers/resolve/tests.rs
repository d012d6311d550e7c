use super::*;
use crate::containers::config::{Image, Mount, Security};

fn places() -> Places<'static> {
    let p = |s: &str| PathBuf::from(s);
    Places {
        upper: p("/c/fs"),
        work: p("/c/work"),
        root: p("/c/root"),
        base: p("/base"),
        cgroup: "/pods/x",
        shm: p("/p/shm"),
        hostname: p("/p/hostname"),
        resolv_conf: p("/p/resolv.conf"),
    }
}

fn image() -> Image {
    Image {
        lower: vec!["/l/1".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["cmd".into()],
        env: vec!["PATH=/bin".into(), "A=1".into()],
        user: "web".into(),
        ..Image::default()
    }
}

fn resolve(c: ContainerConfig) -> Result<Resolved> {
    let cgroups = Cgroups::detect().unwrap();
    container(
        &Options::new("/s", "/r"),
        &Filters::default(),
        &cgroups,
        &SandboxConfig { hostname: "pod".into(), ..Default::default() },
        &c,
        &places(),
    )
}

fn words(list: &[Bytes]) -> Vec<String> {
    list.iter().map(|b| String::from_utf8(b.clone()).unwrap()).collect()
}

#[test]
fn commands_combine_as_the_cri_says() {
    let check = |command: &[&str], args: &[&str], expect: &[&str]| {
        let strings = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
        let c =
            ContainerConfig { image: image(), command: strings(command), args: strings(args), ..Default::default() };
        assert_eq!(words(&resolve(c).unwrap().spec.process.args), expect);
    };
    check(&[], &[], &["/entry", "cmd"]);
    check(&[], &["a"], &["/entry", "a"]);
    check(&["c"], &[], &["c"]);
    check(&["c"], &["a"], &["c", "a"]);
}

#[test]
fn environment_later_wins() {
    let c = ContainerConfig {
        image: image(),
        env: vec![("A".into(), "2".into()), ("AB".into(), "3".into())],
        ..Default::default()
    };
    assert_eq!(words(&resolve(c).unwrap().spec.process.env), ["PATH=/bin", "HOSTNAME=pod", "A=2", "AB=3"]);
}

#[test]
fn mounts_in_order_and_refusals() {
    let mount = |target: &str| Mount { host_path: "/h".into(), container_path: target.into(), ..Mount::default() };
    let targets = |mounts: Vec<Mount>| {
        let c = ContainerConfig { image: image(), mounts, ..Default::default() };
        resolve(c)
            .map(|r| r.spec.mounts.iter().map(|m| String::from_utf8(m.target.clone()).unwrap()).collect::<Vec<_>>())
    };
    let list =
        targets(vec![mount("/data/deep"), mount("/data"), mount("/dev/shm/"), mount("/etc/hostname"), mount("/dev")])
            .unwrap();
    let at = |t: &str| list.iter().position(|x| x == t).unwrap_or_else(|| panic!("{t} in {list:?}"));
    assert!(at("/data") < at("/data/deep"));
    assert!(at("/dev") < at("/dev/pts"), "{list:?}");
    assert_eq!(list.iter().filter(|t| *t == "/dev/shm").count(), 1);
    assert_eq!(list.iter().filter(|t| *t == "/etc/hostname").count(), 1);
    for bad in ["relative", "/", "/proc", "/proc/../proc/sys", "/x/../proc/1"] {
        assert!(targets(vec![mount(bad)]).is_err(), "{bad}");
    }
}

#[test]
fn privileges() {
    let with =
        |security: Security| resolve(ContainerConfig { image: image(), security, ..Default::default() }).unwrap().spec;
    let plain = with(Security { seccomp: Seccomp::RuntimeDefault, ..Default::default() });
    assert_eq!(plain.process.capabilities.count_ones(), 14);
    assert!(!plain.process.seccomp.is_empty() && plain.masked_paths.len() == 12 && plain.readonly_paths.len() == 5);
    let all = with(Security { privileged: true, seccomp: Seccomp::RuntimeDefault, ..Default::default() });
    assert_eq!(all.process.capabilities, caps::ALL);
    assert!(all.process.seccomp.is_empty() && all.masked_paths.is_empty() && all.readonly_paths.is_empty());
    let caps_of = |add: &[&str], drop: &[&str]| {
        let strings = |l: &[&str]| l.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        caps::resolve(false, &strings(add), &strings(drop))
    };
    assert_eq!(caps_of(&["NET_ADMIN"], &["ALL"]), Ok(caps::bit("NET_ADMIN").unwrap()));
    assert_eq!(caps_of(&["ALL"], &["CAP_SYS_ADMIN"]), Ok(caps::ALL & !caps::bit("sys_admin").unwrap()));
    assert_eq!(caps_of(&["WINGS"], &[]), Err("WINGS".into()));
    // Who the image's user is does not matter once the pod says.
    assert_eq!(with(Security { run_as_user: Some(7), ..Default::default() }).process.user.name, b"");
    assert_eq!(plain.process.user.name, b"web");
}
