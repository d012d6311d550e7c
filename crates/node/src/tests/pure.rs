//! The pure parts, row by row.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use schema::api::core::v1::{
    AppArmorProfile, ContainerPort, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, PodDNSConfig,
    PodDNSConfigOption, PodSecurityContext, ResourceFieldSelector, ResourceRequirements, SecurityContext, Service,
    ServicePort,
};
use schema::api::{IntOrString, Quantity};

use super::*;
use crate::env::{self, Sources, expand};
use crate::etc::{self, Resolver};
use crate::memory::{Crash, SECOND, Step};
use crate::objects::Snapshot;
use crate::plan::go_duration;
use crate::pod::{Desired, pull_policy};
use crate::register::{self, Health};
use crate::volumes::payload::File;
use crate::volumes::write;
use crate::{hooks, resources};

#[test]
fn variables_expand() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, expected) in [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A", "$A"),
        ("x$(A)y$(A", "x1y$(A"),
        ("$$$$", "$$"),
        ("$", "$"),
        ("$()", "$()"),
    ] {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

fn listed(rows: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    rows.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

fn asking(name: &str, requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
    let resources =
        ResourceRequirements { requests: listed(requests), limits: listed(limits), ..ResourceRequirements::default() };
    Container { resources, ..container(name) }
}

#[test]
fn environment_of_a_container() {
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let resource = |name: &str, resource: &str, divisor: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                resource: resource.into(),
                divisor: Quantity(divisor.into()),
                ..ResourceFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let plain = |name: &str, value: &str| EnvVar { name: name.into(), value: value.into(), ..EnvVar::default() };
    let mut app = asking("app", &[("cpu", "250m")], &[("memory", "64Mi")]);
    app.env = vec![
        plain("A", "1"),
        plain("B", "$(A)-$(KUBERNETES_SERVICE_HOST)"),
        field("NAME", "metadata.name"),
        field("LABEL", "metadata.labels['app']"),
        field("IPS", "status.podIPs"),
        resource("MEMORY", "limits.memory", "1Mi"),
        resource("CPU", "requests.cpu", "1m"),
        resource("WHOLE", "limits.cpu", "0"),
        plain("A", "2"),
    ];
    let mut pod = pod("web", vec![app.clone()]);
    pod.metadata.labels.insert("app".into(), "web".into());
    let desired = Desired::new(Arc::new(pod));
    let mut service = Service::default();
    service.metadata.name = "kubernetes".into();
    service.metadata.namespace = "default".into();
    service.spec.cluster_ip = "10.43.0.1".into();
    service.spec.ports =
        vec![ServicePort { name: "https".into(), port: 443, protocol: "TCP".into(), ..ServicePort::default() }];
    let links = env::service_env(&[Arc::new(service)], "default", true);
    let ips = ["10.42.0.7".to_owned(), "fd00::7".to_owned()];
    let allocatable = [("cpu".to_owned(), schema::quantity::Quantity::parse("4").expect("a quantity"))].into();
    let objects = Snapshot::default();
    let sources = Sources {
        desired: &desired,
        objects: &objects,
        links: &links,
        pod_ips: &ips,
        host_ips: &ips[..1],
        allocatable: &allocatable,
    };
    let read = |_: &FileKeySelector| Ok(" # text\n\nA='1' # one\n  B='two\nlines'\nC= 'none'\nD=4\nE='5'".to_owned());
    for (key, optional, expected) in [
        ("A", false, Ok(Some("1"))),
        ("B", false, Ok(Some("two\nlines"))),
        ("C", true, Ok(None)),
        ("C", false, Err("environment variable key \"C\" not found in file \"env\"")),
        ("E", false, Err("couldn't parse env file")),
    ] {
        let of = FileKeySelector {
            key: key.into(),
            path: "env".into(),
            optional: Some(optional),
            ..FileKeySelector::default()
        };
        let source = EnvVarSource { file_key_ref: Some(of), ..EnvVarSource::default() };
        let var = EnvVar { name: "FILE".into(), value_from: Some(source), ..EnvVar::default() };
        let made = env::make(&sources, &Container { env: vec![var], ..container("app") }, read);
        let made = made.map(|env| env.into_iter().find(|(name, _)| name == "FILE").map(|(_, value)| value));
        let made = made.map_err(|error| error.to_string());
        assert_eq!(made.as_ref().map(Option::as_deref).map_err(String::as_str), expected, "{key}");
    }
    let env: BTreeMap<String, String> = env::make(&sources, &app, read).expect("made").into_iter().collect();
    for (name, value) in [
        ("A", "2"),
        ("B", "1-10.43.0.1"),
        ("NAME", "web"),
        ("LABEL", "web"),
        ("IPS", "10.42.0.7,fd00::7"),
        ("MEMORY", "64"),
        ("CPU", "250"),
        ("WHOLE", "4"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.43.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.43.0.1"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn resolvers_by_policy() {
    let host = Resolver::parse("# a comment\nsearch lan.example.\nnameserver 192.0.2.53\noptions rotate\n");
    let dns = ["10.43.0.10".parse().expect("an address")];
    let mut pod = pod("web", vec![container("app")]);
    let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local lan.example\nnameserver 10.43.0.10\noptions ndots:5\n";
    let own = "search lan.example\nnameserver 192.0.2.53\noptions rotate\n";
    for (policy, host_network, expected) in [
        ("ClusterFirst", false, cluster),
        ("ClusterFirst", true, own),
        ("ClusterFirstWithHostNet", true, cluster),
        ("Default", false, own),
        ("None", false, "nameserver 192.0.2.1\noptions ndots:2\n"),
    ] {
        pod.spec.dns_policy = policy.into();
        pod.spec.host_network = host_network;
        pod.spec.dns_config = (policy == "None").then(|| PodDNSConfig {
            nameservers: vec!["192.0.2.1".into()],
            options: vec![PodDNSConfigOption {
                name: "ndots".into(),
                value: Some("2".into()),
                ..PodDNSConfigOption::default()
            }],
            ..PodDNSConfig::default()
        });
        assert_eq!(etc::resolver(&pod, &dns, "cluster.local", &host).0.text(), expected, "{policy} {host_network}");
    }
}

#[test]
fn a_resolver_has_limits() {
    let many = |count: usize, tail: &str| (0..count).map(|of| format!("{of}{tail}")).collect::<Vec<_>>();
    for (servers, searches, left, said) in [
        (3, many(30, ".a"), (3, 30), ""),
        (
            4,
            many(1, ".a"),
            (3, 1),
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 0 1 2",
        ),
        (1, many(33, ".a"), (1, 32), "Search Line limits were exceeded"),
        (1, many(20, &"a".repeat(150)), (1, 13), "Search Line limits were exceeded"),
        (1, vec!["a".repeat(254), "b".into()], (1, 1), "the applied search line is: b"),
    ] {
        let mut pod = pod("web", vec![container("app")]);
        pod.spec.dns_policy = "None".into();
        pod.spec.dns_config =
            Some(PodDNSConfig { nameservers: many(servers, ""), searches, ..PodDNSConfig::default() });
        let (resolver, cut) = etc::resolver(&pod, &[], "cluster.local", &Resolver::default());
        assert_eq!((resolver.nameservers.len(), resolver.searches.len()), left, "{said}");
        assert!(cut.concat().contains(said) && cut.is_empty() == said.is_empty(), "{cut:?}");
    }
}

#[test]
fn a_node_tells_what_has_become_of_it() {
    let of = |pressed: bool, ready: bool| {
        let not_ready = (!ready).then(|| "why".to_owned());
        let health = Health { memory_pressure: pressed, not_ready, ..Health::default() };
        register::conditions(&health, &[], 0)
    };
    for (old, new, reasons) in [
        (vec![], of(false, false), vec!["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]),
        (of(false, false), of(false, true), vec!["NodeReady"]),
        (of(false, true), of(true, false), vec!["NodeHasInsufficientMemory", "NodeNotReady"]),
        (of(true, true), of(true, true), vec![]),
    ] {
        assert_eq!(register::news(&old, &new), reasons);
    }
}

#[test]
fn host_paths_are_what_they_are_said_to_be() {
    let dir = machine::Dir::new("host-path");
    std::fs::write(dir.0.join("file"), "").expect("a file");
    std::fs::create_dir(dir.0.join("dir")).expect("a directory");
    let _socket = std::os::unix::net::UnixListener::bind(dir.0.join("socket")).expect("a socket");
    for (kind, name, said) in [
        ("", "new/dir", None),
        ("Directory", "dir", None),
        ("DirectoryOrCreate", "made", None),
        ("File", "file", None),
        ("FileOrCreate", "made-file", None),
        ("Socket", "socket", None),
        ("CharDevice", "../../dev/null", None),
        ("Directory", "file", Some("check failed: {} is not a directory, it's a File")),
        ("File", "dir", Some("check failed: {} is not a file, it's a Directory")),
        ("Socket", "file", Some("check failed: {} is not a socket file, it's a File")),
        ("BlockDevice", "file", Some("check failed: {} is not a block device, it's a File")),
        ("CharDevice", "none", Some("check failed, {} is not a character device, unable to determine its type")),
    ] {
        let path = if name.contains("null") { "/dev/null".into() } else { dir.0.join(name) };
        let done = crate::volumes::host_path(&path, kind).map_err(|error| error.to_string());
        match said {
            None => assert!(done.is_ok() && path.exists(), "{kind} {name}: {done:?}"),
            Some(said) => {
                let said = said.replace("{}", &path.display().to_string());
                assert!(done.as_ref().is_err_and(|error| error.contains(&said)), "{kind} {name}: {done:?}");
            }
        }
    }
}

#[test]
fn classes_cgroups_and_scores() {
    let gib: u64 = 1 << 30;
    let hugepages = vec!["hugepages-2Mi".to_owned(), "hugepages-1Gi".to_owned()];
    let sizing = resources::Sizing {
        memory_bytes: 8 * gib,
        cpu_period_us: 100_000,
        oom_group: true,
        hugepages,
        ..Default::default()
    };
    type Row<'a> = (&'a [Container], &'a str, u64, i64, u64, i32);
    let rows: [Row; 4] = [
        (&[container("a")], "kubepods/besteffort/poduid-p", 2, 0, 0, 1000),
        (&[asking("a", &[("cpu", "500m"), ("memory", "1Gi")], &[])], "kubepods/burstable/poduid-p", 512, 0, 0, 875),
        (&[asking("a", &[], &[("cpu", "1"), ("memory", "1Gi")])], "kubepods/poduid-p", 1024, 100_000, gib, -997),
        (
            &[asking("a", &[("cpu", "1m")], &[("cpu", "1m"), ("memory", "1Gi")]), container("b")],
            "kubepods/burstable/poduid-p",
            2,
            1000,
            gib,
            999,
        ),
    ];
    for (containers, cgroup, shares, quota, memory, score) in rows {
        let desired = Desired::new(Arc::new(pod("p", containers.to_vec())));
        let own = resources::of_container(&desired, &desired.members[0], &sizing);
        assert_eq!(resources::cgroup(&desired.pod), cgroup);
        assert_eq!(
            (own.cpu_shares, own.cpu_quota_us, own.memory_limit_bytes, own.oom_score_adj),
            (shares, quota, memory, Some(score)),
            "{cgroup}"
        );
        let none = [("1GB".to_owned(), 0), ("2MB".to_owned(), 0)].into();
        assert_eq!((own.oom_group, &own.hugepage_limits), (true, &none));
        assert_eq!(resources::pod_cgroup(&desired.pod, &sizing).hugepage_limits, none);
    }
    // The second container of the last row has no limit, and so has the pod.
    let half = pod("p", vec![asking("a", &[], &[("memory", "1Gi")]), container("b")]);
    assert_eq!(resources::pod_cgroup(&half, &sizing).memory_limit_bytes, 0);
    // Init containers count by the greatest, sidecars add up.
    let mut all = pod("p", vec![asking("a", &[("cpu", "1")], &[])]);
    let sidecar = Container { restart_policy: Some("Always".into()), ..asking("s", &[("cpu", "500m")], &[]) };
    all.spec.init_containers = vec![asking("i", &[("cpu", "3")], &[]), sidecar, asking("j", &[("cpu", "2")], &[])];
    assert_eq!(resources::requests(&all)["cpu"].milli_value(), 3000);
}

#[test]
fn a_profile_of_apparmor_wants_a_kernel_with_it() {
    let said = |kind: &str| Some(AppArmorProfile { r#type: kind.into(), ..Default::default() });
    for (kind, wanted) in [("RuntimeDefault", true), ("Localhost", true), ("Unconfined", false)] {
        let mut all = pod("p", vec![container("a")]);
        assert!(!crate::admission::wants_apparmor(&all));
        let security = SecurityContext { app_armor_profile: said(kind), ..Default::default() };
        all.spec.containers[0].security_context = Some(security);
        assert_eq!(crate::admission::wants_apparmor(&all), wanted, "{kind}");
        let mut all = pod("p", vec![container("a")]);
        let security = PodSecurityContext { app_armor_profile: said(kind), ..Default::default() };
        all.spec.security_context = Some(security);
        assert_eq!(crate::admission::wants_apparmor(&all), wanted, "{kind} of the pod");
    }
}

#[test]
fn policies_ports_and_durations() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("r:5000/a", "Always"),
        ("a@sha256:0", "IfNotPresent"),
    ] {
        assert_eq!(pull_policy("", image), policy, "{image}");
    }
    let container = Container {
        ports: vec![ContainerPort { name: "web".into(), container_port: 80, ..ContainerPort::default() }],
        ..container("a")
    };
    for (asked, expected) in [
        (IntOrString::Int(8080), Some(8080)),
        (IntOrString::String("web".into()), Some(80)),
        (IntOrString::String("81".into()), Some(81)),
        (IntOrString::String("none".into()), None),
        (IntOrString::Int(70_000), None),
    ] {
        assert_eq!(hooks::port(&container, &asked).ok(), expected, "{asked:?}");
    }
    for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3600, "1h0m0s")] {
        assert_eq!(go_duration(seconds * SECOND), text);
    }
    let (mut crash, mut delays) = (Crash::default(), Vec::new());
    let mut now = 0;
    for _ in 0..7 {
        crash.next(now, now, 300 * SECOND);
        delays.push(crash.delay / SECOND);
        now += crash.delay;
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(crash.until(now + 601 * SECOND), None, "ten good minutes are enough");
}

#[test]
fn files_change_as_one() {
    let dir = machine::Dir::new("atomic");
    let file = |data: &str| File { data: data.into(), mode: 0o640, user: None };
    let read = |name: &str| std::fs::read_to_string(dir.0.join(name)).ok();
    let first = [("a".to_owned(), file("1")), ("sub/b".to_owned(), file("2"))].into();
    assert!(write::write(&dir.0, &first, None, "v1").expect("written"));
    assert!(!write::write(&dir.0, &first, None, "v2").expect("nothing to do"));
    assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
    let second = [("a".to_owned(), file("3"))].into();
    assert!(write::write(&dir.0, &second, None, "v3").expect("written"));
    assert_eq!((read("a"), read("sub/b")), (Some("3".into()), None));
    let mut names: Vec<String> = std::fs::read_dir(&dir.0)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["..data", "..v3", "a"]);
}

#[test]
fn pods_have_ids_of_their_own() {
    let dir = machine::Dir::new("users");
    let ids = |pod: &str| {
        std::fs::create_dir_all(dir.0.join(pod)).expect("a directory");
        crate::users::allocate(&dir.0, pod, 131_072).expect("ids")
    };
    // These two would begin at the same ids.
    let (one, next) = ((131_072 + 3104 * 65_536, 65_536), (131_072 + 3105 * 65_536, 65_536));
    assert_eq!((ids("bB"), ids("c#"), ids("bB")), (one, next, one));
    let record = std::fs::read_to_string(dir.0.join("c#/userns")).expect("a record");
    let map = format!(r#"[{{"containerId":0,"hostId":{},"length":65536}}]"#, next.0);
    assert_eq!(record, format!(r#"{{"gidMappings":{map},"uidMappings":{map}}}"#));
    // What is gone is free, and what is broken is nothing.
    std::fs::remove_dir_all(dir.0.join("bB")).expect("removed");
    std::fs::write(dir.0.join("c#/userns"), "{").expect("written");
    assert_eq!((ids("c#"), ids("bB")), (one, next));
    assert!(crate::users::floor() >= 65_536 && crate::users::floor().is_multiple_of(65_536));
}

#[test]
fn a_sub_path_never_leaves_its_volume() {
    let dir = machine::Dir::new("subpath");
    let (volume, target) = (dir.0.join("volume"), dir.0.join("target"));
    std::fs::create_dir_all(volume.join("inside")).expect("a directory");
    std::fs::write(volume.join("inside/file"), "here").expect("a file");
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2777)).expect("a mode");
    std::os::unix::fs::symlink("/etc", volume.join("out")).expect("a link");
    std::os::unix::fs::symlink("inside", volume.join("in")).expect("a link");
    for (path, fine) in [
        ("inside", true),
        ("in", true),
        ("made/new", true),
        ("inside/file", true),
        ("out", false),
        ("out/passwd", false),
        ("../target", false),
    ] {
        let target = target.join(path.replace('/', "-"));
        let bound = crate::volumes::bind_subpath(&volume, path, &target);
        if bound.as_ref().is_err_and(|error| error.to_string().contains("bind the subPath")) {
            // Not root.
            continue;
        }
        assert_eq!(bound.is_ok(), fine, "{path}: {bound:?}");
    }
    // As open as the volume.
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!(mode(&volume.join("made/new")), mode(&volume));
}

#[test]
fn what_changes_while_a_step_is_done_is_done_again() {
    let mut step = Step::todo();
    step.begin();
    step.succeed(None);
    assert!(step.done && !step.dirty);
    step.dirty = true;
    step.begin();
    // An object that the volumes show has changed after they were read.
    step.dirty = true;
    step.succeed(None);
    assert!(step.dirty, "the change would never be shown");
    step.begin();
    step.fail("FailedMount", "no".into(), 0);
    assert!(step.dirty && step.next().is_some());
}
