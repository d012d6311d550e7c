//! One container each: how its pod and itself differ from the plain ones, what it runs, how it ends, what it says.

use k8s_cri::v1::*;

use crate::world::Bench;
use crate::{Case, case};

struct Row {
    name: &'static str,
    change: fn(&Bench, &mut PodSandboxConfig, &mut ContainerConfig),
    script: &'static str,
    code: i32,
    /// Each is in what it wrote; with `!` in front it is not.
    says: &'static [&'static str],
}

const fn row(
    name: &'static str,
    change: fn(&Bench, &mut PodSandboxConfig, &mut ContainerConfig),
    script: &'static str,
    code: i32,
    says: &'static [&'static str],
) -> Row {
    Row { name, change, script, code, says }
}

fn plain(_: &Bench, _: &mut PodSandboxConfig, _: &mut ContainerConfig) {}

fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    container.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn resources(container: &mut ContainerConfig) -> &mut LinuxContainerResources {
    container.linux.as_mut().unwrap().resources.as_mut().unwrap()
}

fn namespaces(pod: &mut PodSandboxConfig, container: &mut ContainerConfig, set: fn(&mut NamespaceOption)) {
    let of_pod = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    set(of_pod.namespace_options.as_mut().unwrap());
    set(security(container).namespace_options.as_mut().unwrap());
}

fn user(id: i64) -> Option<Int64Value> {
    Some(Int64Value { value: id })
}

fn mount(bench: &Bench, container: &mut ContainerConfig, set: impl FnOnce(&mut Mount)) -> std::path::PathBuf {
    let host = bench.peer.dir.join("volumes").join(&bench.name);
    std::fs::create_dir_all(&host).unwrap();
    let mut mount =
        Mount { host_path: host.to_string_lossy().into_owned(), container_path: "/data".into(), ..Default::default() };
    set(&mut mount);
    container.mounts.push(mount);
    host
}

fn profile(kind: security_profile::ProfileType, file: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() })
}

const ROWS: &[Row] = &[
    row("exit code", plain, "exit 7", 7, &[]),
    row("standard output and error are logged", plain, "echo out; echo err >&2", 0, &["out\n", "err\n"]),
    row(
        "environment of image and container",
        |_, _, c| {
            c.envs = vec![KeyValue { key: "OWN".into(), value: "a b".into() }];
        },
        "echo $FROM-$OWN",
        0,
        &["image-a b\n"],
    ),
    row("working directory of the image", plain, "pwd", 0, &["/tmp\n"]),
    row("working directory", |_, _, c| c.working_dir = "/etc".into(), "pwd", 0, &["/etc\n"]),
    row("working directory is made", |_, _, c| c.working_dir = "/not/there".into(), "pwd", 0, &["/not/there\n"]),
    row("host name", plain, "hostname; cat /etc/hostname", 0, &["suite\nsuite\n"]),
    row(
        "DNS configuration",
        |_, pod, _| {
            pod.dns_config = Some(DnsConfig {
                servers: vec!["10.10.10.10".into()],
                searches: vec!["google.com".into()],
                options: vec!["ndots:8".into()],
            });
        },
        "cat /etc/resolv.conf",
        0,
        &["search google.com\nnameserver 10.10.10.10\noptions ndots:8\n"],
    ),
    row(
        "args follow the command",
        |_, _, c| {
            c.command = vec!["/bin/echo".into()];
            c.args = vec!["a".into(), "b".into()];
        },
        "",
        0,
        &["a b\n"],
    ),
    row(
        "args alone replace the image's command",
        |_, _, c| {
            c.command.clear();
            c.args = vec!["/bin/echo".into(), "mine".into()];
        },
        "",
        0,
        &["mine\n"],
    ),
    row("user", |_, _, c| security(c).run_as_user = user(1000), "id -u; id -g", 0, &["1000\n0\n"]),
    row(
        "user and group",
        |_, _, c| {
            security(c).run_as_user = user(1000);
            security(c).run_as_group = user(2000);
        },
        "id -u; id -g",
        0,
        &["1000\n2000\n"],
    ),
    row("user by name", |_, _, c| security(c).run_as_username = "web".into(), "id -u; id -g", 0, &["33\n34\n"]),
    row(
        "user of the image by number",
        |_, _, c| c.image.as_mut().unwrap().image = "localhost/uid:1".into(),
        "id -u; id -g",
        0,
        &["33\n34\n"],
    ),
    row(
        "user of the image by name",
        |_, _, c| c.image.as_mut().unwrap().image = "localhost/named:1".into(),
        "id -u; id -g; id -G",
        0,
        &["33\n34\n34 60\n"],
    ),
    row(
        "supplemental groups merge",
        |_, _, c| {
            security(c).run_as_user = user(33);
            security(c).supplemental_groups = vec![1234];
        },
        "id -G",
        0,
        &["60", "1234"],
    ),
    row(
        "supplemental groups strict",
        |_, _, c| {
            security(c).run_as_user = user(33);
            security(c).run_as_group = user(34);
            security(c).supplemental_groups = vec![1234];
            security(c).supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        },
        "id -G",
        0,
        &["34 1234", "!60"],
    ),
    row("read-only root", |_, _, c| security(c).readonly_rootfs = true, "touch /x || echo no", 0, &["no\n"]),
    row("writable root", plain, "touch /x && echo yes", 0, &["yes\n"]),
    row(
        "privileged mounts",
        |_, pod, c| {
            pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
            security(c).privileged = true;
        },
        "mount -t tmpfs none /tmp && echo yes",
        0,
        &["yes\n"],
    ),
    row("unprivileged does not mount", plain, "mount -t tmpfs none /tmp || echo no", 0, &["no\n"]),
    row("default capabilities", plain, "grep CapEff /proc/self/status", 0, &["00000000a80425fb"]),
    row(
        "capabilities dropped",
        |_, _, c| {
            security(c).capabilities = Some(Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        },
        "grep CapEff /proc/self/status",
        0,
        &["0000000000000000"],
    ),
    row(
        "capability added",
        |_, _, c| {
            security(c).capabilities =
                Some(Capability { add_capabilities: vec!["NET_ADMIN".into()], ..Default::default() });
        },
        "ip link set lo mtu 1400 && echo yes",
        0,
        &["yes\n"],
    ),
    row(
        "no new privileges",
        |_, _, c| security(c).no_new_privs = true,
        "grep NoNewPrivs /proc/self/status",
        0,
        &["1\n"],
    ),
    row("new privileges", plain, "grep NoNewPrivs /proc/self/status", 0, &["0\n"]),
    row(
        "masked paths",
        |_, _, c| security(c).masked_paths = vec!["/etc/passwd".into(), "/home".into()],
        "wc -c < /etc/passwd; ls /home | wc -l",
        0,
        &["0\n0\n"],
    ),
    row(
        "read-only paths",
        |_, _, c| security(c).readonly_paths = vec!["/home".into()],
        "touch /home/x || echo no",
        0,
        &["no\n"],
    ),
    row(
        "seccomp unconfined",
        |_, _, c| {
            security(c).seccomp = profile(security_profile::ProfileType::Unconfined, "");
        },
        "grep ^Seccomp: /proc/self/status",
        0,
        &["0\n"],
    ),
    row("seccomp by default is none", plain, "grep ^Seccomp: /proc/self/status", 0, &["0\n"]),
    row(
        "seccomp of the runtime",
        |_, _, c| {
            security(c).seccomp = profile(security_profile::ProfileType::RuntimeDefault, "");
        },
        "grep ^Seccomp: /proc/self/status",
        0,
        &["2\n"],
    ),
    row(
        "seccomp of a file",
        |bench, _, c| {
            let file = bench.peer.dir.join("profile.json");
            let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
            std::fs::write(&file, text).unwrap();
            security(c).seccomp = profile(security_profile::ProfileType::Localhost, &file.to_string_lossy());
        },
        "mkdir /x || echo no",
        0,
        &["no\n"],
    ),
    row("processes of the container", plain, "echo $$", 0, &["1\n"]),
    row(
        "processes of the pod",
        |_, pod, c| namespaces(pod, c, |own| own.pid = NamespaceMode::Pod.into()),
        "test $$ != 1 && echo other",
        0,
        &["other\n"],
    ),
    row(
        "processes of the host",
        |_, pod, c| namespaces(pod, c, |own| own.pid = NamespaceMode::Node.into()),
        "grep -l cri /proc/*/cmdline 2>/dev/null | wc -l",
        0,
        &["!\n0\n"],
    ),
    row(
        "network of the host",
        |_, pod, c| {
            pod.hostname.clear();
            namespaces(pod, c, |own| own.network = NamespaceMode::Node.into());
        },
        "readlink /proc/self/ns/net",
        0,
        &[],
    ),
    row("network of the pod", plain, "ip addr show eth0", 0, &["inet 10.7"]),
    row(
        "IPC of the host",
        |_, pod, c| namespaces(pod, c, |own| own.ipc = NamespaceMode::Node.into()),
        "ls /dev/shm >/dev/null && echo yes",
        0,
        &["yes\n"],
    ),
    row(
        "sysctls",
        |_, pod, _| {
            let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_local_port_range", "1024 65000")];
            pod.linux.as_mut().unwrap().sysctls =
                sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        },
        "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range",
        0,
        &["1\n1024\t65000\n"],
    ),
    row(
        "memory limit",
        |_, _, c| resources(c).memory_limit_in_bytes = 64 << 20,
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true",
        0,
        &["67108864\n"],
    ),
    row(
        "processor quota",
        |_, _, c| {
            resources(c).cpu_period = 100_000;
            resources(c).cpu_quota = 20_000;
        },
        "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; true",
        0,
        &["20000"],
    ),
    row("out of memory", |_, _, c| resources(c).memory_limit_in_bytes = 16 << 20, "exec tail /dev/zero", 137, &[]),
    row("OOM score", |_, _, c| resources(c).oom_score_adj = 500, "cat /proc/self/oom_score_adj", 0, &["500\n"]),
    row(
        "devices",
        |_, _, c| {
            c.devices = vec![Device {
                host_path: "/dev/zero".into(),
                container_path: "/dev/mine".into(),
                permissions: "r".into(),
            }];
        },
        "head -c 3 /dev/mine | wc -c; ls /dev",
        0,
        &["3\n", "null\n", "urandom\n"],
    ),
    row(
        "mount",
        |bench, _, c| {
            let host = mount(bench, c, |_| {});
            std::fs::write(host.join("a"), "from the host").unwrap();
        },
        "cat /data/a; echo; echo b > /data/b && echo yes",
        0,
        &["from the host\n", "yes\n"],
    ),
    row(
        "mount read-only",
        |bench, _, c| {
            mount(bench, c, |mount| mount.readonly = true);
        },
        "touch /data/b || echo no",
        0,
        &["no\n"],
    ),
    row(
        "mount recursively read-only",
        |bench, _, c| {
            mount(bench, c, |mount| {
                mount.readonly = true;
                mount.recursive_read_only = true;
            });
        },
        "touch /data/b || echo no",
        0,
        &["no\n"],
    ),
    row(
        "mount of a file",
        |bench, _, c| {
            let host = mount(bench, c, |_| {});
            std::fs::write(host.join("file"), "one").unwrap();
            c.mounts[0].host_path += "/file";
        },
        "cat /data",
        0,
        &["one\n"],
    ),
    row(
        "mount of a link",
        |bench, _, c| {
            let host = mount(bench, c, |_| {});
            std::fs::create_dir_all(host.join("target")).unwrap();
            std::fs::write(host.join("target/a"), "behind").unwrap();
            let _ = std::os::unix::fs::symlink("target", host.join("link"));
            c.mounts[0].host_path += "/link";
        },
        "cat /data/a",
        0,
        &["behind\n"],
    ),
    row(
        "mount of nothing makes a directory",
        |bench, _, c| {
            mount(bench, c, |_| {});
            c.mounts[0].host_path += "/not/there";
        },
        "touch /data/b && echo yes",
        0,
        &["yes\n"],
    ),
    row("terminal", |_, _, c| c.tty = true, "test -t 1 && echo yes", 0, &["yes"]),
    row("no terminal", plain, "test -t 1 || echo no", 0, &["no\n"]),
    row("no input", plain, "cat; echo done", 0, &["done\n"]),
    row("long lines", plain, "head -c 40000 /dev/zero | tr '\\0' x; echo", 0, &["xxxx"]),
];

pub fn all() -> Vec<Case> {
    let one = |row: &'static Row| {
        case(row.name, move |bench| async move {
            let mut of = bench.pod();
            let mut config = bench.container("c", row.script);
            (row.change)(&bench, &mut of, &mut config);
            let pod = bench.run_pod(&of).await;
            let id = bench.create(&pod, &of, config).await.unwrap();
            bench.start(&id).await.unwrap();
            let status = bench.ended(&id).await;
            let log = bench.log("c");
            let reason = match status.exit_code {
                _ if row.name == "out of memory" => "OOMKilled",
                0 => "Completed",
                _ => "Error",
            };
            assert_eq!((status.exit_code, status.reason.as_str()), (row.code, reason), "{status:?}\n{log}");
            for said in row.says {
                match said.strip_prefix('!') {
                    Some(not) => assert!(!format!("\n{log}").contains(not), "{not:?} is in {log:?}"),
                    None => assert!(log.contains(said), "{said:?} is not in {log:?}"),
                }
            }
        })
    };
    ROWS.iter().map(one).collect()
}
