//! What a container may and may not, as containerd's CRI has it.

use runtime::containers::*;

use crate::bench::{Bench, skip, until};

async fn check(b: &Bench, what: &str, config: ContainerConfig, expect: &str) {
    let (exit, log) = b.run(config).await;
    assert_eq!(log.trim_end(), expect, "{what} (exit {exit:?})");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let with = |security: Security| ContainerConfig {
        security,
        ..b.script("id -u; id -g; id -G; echo $HOME; echo x > /dev/stdout")
    };
    check(&b, "root", with(Security::default()), "0\n0\n0\n/root\nx").await;
    let named = Security { run_as_username: "web".into(), ..Security::default() };
    check(&b, "by name", with(named), "33\n34\n34 60\n/home/web\nx").await;
    let number = Security {
        run_as_user: Some(1000),
        run_as_group: Some(2000),
        supplemental_groups: vec![3000],
        ..Security::default()
    };
    check(&b, "by number", with(number), "1000\n2000\n2000 3000\n/\nx").await;
    let image = Image { user: "web:root".into(), ..b.image() };
    check(&b, "by image", ContainerConfig { image, ..with(Security::default()) }, "33\n0\n0 60\n/home/web\nx").await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_and_seccomp() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let script =
        "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status | awk '{print $2}' | tr '\\n' ' '";
    let with = |security: Security, script: &str| ContainerConfig { security, ..b.script(script) };
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    let seccomp = |s: Seccomp| Security { seccomp: s, ..Security::default() };
    check(
        &b,
        "default",
        with(seccomp(Seccomp::RuntimeDefault), script),
        &format!("{none} {default} {default} {default} {none} 0 2"),
    )
    .await;
    let plain = Security {
        run_as_user: Some(1000),
        no_new_privileges: true,
        drop_capabilities: vec!["ALL".into()],
        ..seccomp(Seccomp::RuntimeDefault)
    };
    check(&b, "dropped", with(plain, script), &format!("{none} {none} {none} {none} {none} 1 2")).await;
    let user = Security { run_as_user: Some(1000), ..seccomp(Seccomp::RuntimeDefault) };
    check(&b, "user without no_new_privs", with(user, script), &format!("{none} {none} {none} {default} {none} 0 2"))
        .await;
    // The filter bites: root in the container may not make namespaces, not even a user's.
    let denied = "unshare -n true 2>&1; unshare -U true 2>&1; mount -t tmpfs x /tmp 2>&1 | head -1";
    let expect = "unshare: unshare(0x40000000): Operation not permitted\nunshare: unshare(0x10000000): Operation not permitted\nmount: permission denied (are you root?)";
    check(&b, "denied", with(seccomp(Seccomp::RuntimeDefault), denied), expect).await;
    check(
        &b,
        "without a filter",
        with(seccomp(Seccomp::Unconfined), "unshare -U true && echo ok; grep Seccomp: /proc/self/status"),
        "ok\nSeccomp:\t0",
    )
    .await;
    std::fs::create_dir_all(&b.options.seccomp_dir).unwrap();
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(b.options.seccomp_dir.join("no-mkdir.json"), profile).unwrap();
    let local = seccomp(Seccomp::Localhost("no-mkdir.json".into()));
    check(
        &b,
        "localhost profile",
        with(local, "mkdir /tmp/x 2>&1; touch /tmp/y && echo ok"),
        "mkdir: can't create directory '/tmp/x': No space left on device\nok",
    )
    .await;
    let privileged = Security { privileged: true, ..Security::default() };
    check(&b, "privileged", with(privileged, "mount -t tmpfs x /tmp && echo mounted; test -e /dev/loop-control -o -e /dev/vda -o -e /dev/kmsg && echo devices; test -w /sys/kernel && echo w"), "mounted\ndevices\nw").await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_system() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let readonly = Security { readonly_rootfs: true, ..Security::default() };
    let script =
        "touch /x 2>&1; touch /dev/shm/ok /tmp/vol/ok && echo written; touch /tmp/ro/x 2>&1; cat /etc/hostname";
    let mount = |target: &str, readonly| Mount {
        host_path: b.dir.join("volume"),
        container_path: target.into(),
        readonly,
        ..Mount::default()
    };
    let config = ContainerConfig {
        security: readonly,
        mounts: vec![mount("/tmp/vol", false), mount("/tmp/ro", true)],
        ..b.script(script)
    };
    let (_, log) = b.run_in(b.pod("ro"), config).await;
    assert_eq!(log, "touch: /x: Read-only file system\nwritten\ntouch: /tmp/ro/x: Read-only file system\nro\n");
    assert!(b.dir.join("volume/ok").exists() && !b.dir.join("root/tmp/vol").exists());
    let image = Image { volumes: vec!["/home/web".into(), "/new/volume".into()], ..b.image() };
    let config = ContainerConfig {
        image,
        security: Security { readonly_rootfs: true, ..Security::default() },
        ..b.script("touch /home/web/x /new/volume/x && echo written; touch /home/x 2>&1")
    };
    check(&b, "the image's volumes", config, "written\ntouch: /home/x: Read-only file system").await;
    // Links of the image lead nowhere but into itself, also dangling ones.
    let links = vec![mount("/etc/dangling/vol", false), mount("/etc/outside/vol", false)];
    check(
        &b,
        "links",
        ContainerConfig { mounts: links, ..b.script("ls /run/vol /escaped/vol") },
        "/escaped/vol:\nok\n\n/run/vol:\nok",
    )
    .await;
    assert!(!std::path::Path::new("/escaped").exists());
    let masked = "cat /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l; sh -c 'echo 1 > /proc/sys/kernel/panic'; touch /sys/x";
    let (_, log) = b.run(ContainerConfig { tty: true, ..b.script(masked) }).await;
    assert!(log.starts_with("0\n0\n") || !std::path::Path::new("/proc/timer_list").exists(), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    // stdin, stdout, stderr and ls' own: nothing of the host's has leaked in.
    check(&b, "descriptors", b.script("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3").await;
    let shm = b.script("stat -c '%a %U' /dev/shm /dev/null /dev; readlink /dev/fd; readlink /dev/ptmx; grep -c ' /dev/mqueue ' /proc/mounts; ls /dev | sort | tr '\\n' ' '");
    check(&b, "devices", shm, "1777 root\n666 root\n755 root\n/proc/self/fd\npts/ptmx\n1\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero").await;
    check(
        &b,
        "device cgroup",
        ContainerConfig {
            security: Security { add_capabilities: vec!["MKNOD".into()], ..Security::default() },
            ..b.script("mknod /tmp/mem c 1 1 && { cat /tmp/mem; } 2>&1 | head -c 40")
        },
        "cat: can't open '/tmp/mem': Operation no",
    )
    .await;
    let cwd = ContainerConfig { working_dir: "/made/here".into(), ..b.script("pwd") };
    check(&b, "working directory", cwd, "/made/here").await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_cgroups_are_read_only() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let (_, log) = b.run(b.script("grep -E ' /sys/fs/cgroup[/ ]' /proc/mounts | grep -v tmpfs | grep -vc ' ro,'; mkdir /sys/fs/cgroup/*/x /sys/fs/cgroup/x 2>&1 | grep -vc 'Read-only'")).await;
    assert_eq!(log.lines().next(), Some("0"), "{log}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_out_of_memory() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let resources = Resources {
        memory_limit: Some(32 << 20),
        cpu_shares: Some(102),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        pids_limit: Some(50),
        oom_score_adj: Some(900),
        ..Resources::default()
    };
    let hungry = ContainerConfig {
        resources: resources.clone(),
        ..b.script("cat /proc/self/oom_score_adj; dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 5; exit 0")
    };
    let exec = ContainerConfig {
        command: vec![
            "sh".into(),
            "-c".into(),
            "cat /proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=200M count=1".into(),
        ],
        ..hungry
    };
    let id = b.start(&pod.id, exec).await;
    let exit = b.wait(&id).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.reason.as_str()), (137, 9, true, "OOMKilled"));
    assert_eq!(b.log(&id), "900\n");
    let id = b
        .start(
            &pod.id,
            ContainerConfig {
                resources,
                log_path: "s/0.log".into(),
                ..b.script("head -c 4000000 /dev/zero > /tmp/f; sleep 1000")
            },
        )
        .await;
    let file = b.dir.join("state/containers").join(&id).join("fs/tmp/f");
    until("it has written", || std::fs::metadata(&file).is_ok_and(|m| m.len() == 4_000_000)).await;
    let stats = b.runtime.container_stats(&id).await.unwrap();
    assert_eq!(stats.memory_limit, Some(32 << 20));
    assert!(
        stats.memory_usage > 0
            && stats.cpu_usage_ns > 0
            && stats.memory_working_set <= stats.memory_usage
            && stats.pids >= 1,
        "{stats:?}"
    );
    b.runtime.update_container(&id, Resources { memory_limit: Some(64 << 20), ..Resources::default() }).await.unwrap();
    assert_eq!(b.runtime.container_stats(&id).await.unwrap().memory_limit, Some(64 << 20));
    let (bytes, inodes) = b.runtime.container_disk_usage(&id).await.unwrap();
    assert!(inodes > 0 && bytes >= 4_000_000);
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_a_pod() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    // Both stay: a namespace that has ended may give its number to the next.
    let links = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; exec sleep 1000";
    let host: Vec<String> = ["net", "ipc", "uts", "pid", "mnt"]
        .iter()
        .map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap().display().to_string())
        .collect();
    let two = async |pod: SandboxConfig| {
        let pod = b.runtime.run_sandbox(pod).await.unwrap();
        let mut found: Vec<Vec<String>> = Vec::new();
        for n in 0..2 {
            let id = b.start(&pod.id, ContainerConfig { log_path: format!("{n}/0.log"), ..b.script(links) }).await;
            until("it tells", || b.log(&id).lines().count() == 5).await;
            found.push(b.log(&id).lines().map(String::from).collect());
        }
        b.runtime.remove_sandbox(&pod.id).await.unwrap();
        (0..5).map(|n| (found[0][n] == found[1][n], found[0][n] == host[n])).collect::<Vec<_>>()
    };
    let (own, shared, hosts) = ((false, false), (true, false), (true, true));
    assert_eq!(two(b.pod("plain")).await, [shared, shared, shared, own, own]);
    assert_eq!(
        two(SandboxConfig { share_process_namespace: true, ..b.pod("pid") }).await,
        [shared, shared, shared, shared, own]
    );
    assert_eq!(
        two(SandboxConfig { host_network: true, host_pid: true, host_ipc: true, ..b.pod("host") }).await,
        [hosts, hosts, hosts, hosts, own]
    );
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_has_a_harmless_first() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(SandboxConfig { share_process_namespace: true, ..b.pod("p") }).await.unwrap();
    // It leaves a process behind, which ends with it.
    let id = b.start(&pod.id, b.script("setsid sleep 1000 & stat -c %u /proc/1; ls /proc/1/root/ 2>&1 | head -1; grep -E 'CapBnd|NoNew' /proc/1/status | wc -l; kill -9 1; sleep 0.2; echo alive")).await;
    let other = b
        .start(&pod.id, ContainerConfig { log_path: "o/0.log".into(), ..b.script("sleep 0.5; exec sleep 1000") })
        .await;
    assert_eq!(b.wait(&id).await.code, 0);
    let log = b.log(&id);
    assert!(log.contains("alive"), "{log}");
    until("what it left ends", || b.runtime.cgroups().pids(&format!("/{}/podp/{id}", b.name)).is_empty()).await;
    assert_eq!(b.runtime.container(&other).unwrap().state, ContainerState::Running);
    // Without it nothing more starts, least of all in the host's namespace.
    let keeper = pod.keeper_pid.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    let is_pause = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "pause");
    let pause = children.split_whitespace().find(is_pause).unwrap();
    host(&["kill", "-9", pause]);
    assert_eq!(b.wait(&other).await.signal, 9);
    let id = b.runtime.create_container(&pod.id, b.script("true")).await.unwrap();
    let error = b.runtime.start_container(&id).await.unwrap_err().to_string();
    // The kernel's own word for a dead namespace, if the keeper has not yet reaped its first process.
    assert!(error.contains("PID namespace has ended") || error.contains("clone: cannot allocate memory"), "{error}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_see_the_processes_of_another() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("look")).await.unwrap();
    let seen = b.start(&pod.id, b.script("exec sleep 1234")).await;
    let script = "echo $(tr '\\0' ' ' < /proc/1/cmdline); sleep 1000 & exec sleep 1000";
    let looks = ContainerConfig { pid_of: seen.clone(), log_path: "l/0.log".into(), ..b.script(script) };
    let looker = b.start(&pod.id, looks.clone()).await;
    until("it tells", || b.log(&looker) == "sleep 1234\n").await;
    b.runtime.stop_container(&looker, Default::default(), None).await.unwrap();
    until("what it left ends", || b.runtime.cgroups().pids(&format!("/{}/podlook/{looker}", b.name)).is_empty()).await;
    assert_eq!(b.runtime.container(&seen).unwrap().state, ContainerState::Running);
    b.runtime.stop_container(&seen, Default::default(), None).await.unwrap();
    // Never in the host's namespace instead.
    let late = b.runtime.create_container(&pod.id, looks).await.unwrap();
    b.runtime.start_container(&late).await.unwrap_err();
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_belong_to_the_pod() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = SandboxConfig {
        sysctls: [("net.core.somaxconn".into(), "777".into()), ("kernel.shm_rmid_forced".into(), "1".into())].into(),
        ..b.pod("p")
    };
    let (_, log) = b.run_in(pod, b.script("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start")).await;
    assert_eq!(log, "777\n1\n0\n");
    let bad = SandboxConfig { sysctls: [("net.no.such".into(), "1".into())].into(), ..b.pod("bad") };
    let error = b.runtime.run_sandbox(bad).await.unwrap_err().to_string();
    assert!(error.contains("set sysctl net.no.such=1"), "{error}");
    b.finish().await;
}

/// The v2 half on a host of v1: a v2 tree without controllers stands beside the hierarchies, enough for being born in a
/// cgroup, its namespace, its read-only mount, and the device filter.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_unified_hierarchy() {
    let (false, Some(b)) = (skip(), Bench::on_v2().await) else { return };
    let security = Security { add_capabilities: vec!["MKNOD".into()], ..Security::default() };
    let script = "grep ^0: /proc/self/cgroup; grep ' /sys/fs/cgroup ' /proc/mounts | cut -d' ' -f3,4 | cut -c1-10; ls /sys/fs/cgroup/cgroup.procs; \
        mknod /tmp/mem c 1 1; { cat /tmp/mem; } 2>&1 | head -c 40; echo; head -c 1 /dev/zero | wc -c; tty; { mkdir /sys/fs/cgroup/x; } 2>&1";
    let (_, log) = b.run(ContainerConfig { security, ..b.script(script) }).await;
    let expect = "0::/\ncgroup2 ro\n/sys/fs/cgroup/cgroup.procs\ncat: can't open '/tmp/mem': Operation no\n1\nnot a tty\nmkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system\n";
    assert_eq!(log, expect);
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let done = b.runtime.exec_sync(&id, &["cat".into(), "/proc/self/cgroup".into()], None).await.unwrap();
    assert!(String::from_utf8_lossy(&done.stdout).contains("0::/\n"), "{done:?}");
    b.finish().await;
}

/// A directory that is a shared mount of its own, as a node's volumes are.
struct Shared(std::path::PathBuf);

fn host(command: &[&str]) {
    assert!(std::process::Command::new(command[0]).args(&command[1..]).status().unwrap().success(), "{command:?}");
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-R", "-l", self.0.to_str().unwrap()]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let shared = Shared(b.dir.join("shared"));
    let dir = shared.0.to_str().unwrap();
    std::fs::create_dir_all(dir).unwrap();
    host(&["mount", "-t", "tmpfs", "tmpfs", dir]);
    host(&["mount", "--make-shared", dir]);
    for name in ["by-host", "by-container", "ro/inner"] {
        std::fs::create_dir_all(shared.0.join(name)).unwrap();
    }
    host(&["mount", "-t", "tmpfs", "tmpfs", &format!("{dir}/ro/inner")]);
    let mount = |path: &str, target: &str, propagation| Mount {
        host_path: shared.0.join(path),
        container_path: target.into(),
        propagation,
        ..Mount::default()
    };
    let readonly = |target: &str, recursive_readonly| Mount {
        readonly: true,
        recursive_readonly,
        ..mount("ro", target, Propagation::Private)
    };
    let mounts = vec![
        mount("", "/private", Propagation::Private),
        mount("", "/slave", Propagation::HostToContainer),
        mount("", "/both", Propagation::Bidirectional),
        readonly("/ro", false),
        readonly("/rro", true),
    ];
    let security = Security { privileged: true, ..Security::default() };
    let script = "mount -t tmpfs tmpfs /slave/ro; touch /slave/ro/hidden; mount -t tmpfs tmpfs /both/by-container; touch /both/by-container/shown; \
        touch /ro/x; touch /ro/inner/x && echo inner; touch /rro/inner/x; echo ready; \
        while ! test -e /both/go; do sleep 0.05; done; ls /private/by-host /slave/by-host /both/by-host";
    let config = ContainerConfig { mounts, security, tty: true, ..b.script(script) };
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, config).await;
    until("it is ready", || b.log(&id).contains("ready")).await;
    assert!(shared.0.join("by-container/shown").exists(), "bidirectional shows on the host");
    assert!(!shared.0.join("ro/hidden").exists(), "a slave's mounts do not");
    let log = b.log(&id);
    assert!(log.contains("inner\n") && log.matches("Read-only file system").count() == 2, "{log}");
    host(&["mount", "-t", "tmpfs", "tmpfs", &format!("{dir}/by-host")]);
    std::fs::write(shared.0.join("by-host/file"), "").unwrap();
    std::fs::write(shared.0.join("go"), "").unwrap();
    b.wait(&id).await;
    let log = b.log(&id);
    let seen: Vec<&str> = log.lines().skip_while(|l| *l != "/private/by-host:" && !l.starts_with("/both")).collect();
    assert_eq!(log.matches("file\n").count(), 2, "{seen:?}");
    drop(shared);
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_handed_through() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let device = |permissions: &str| Device {
        host_path: "/dev/loop7".into(),
        container_path: "/dev/handed".into(),
        permissions: permissions.into(),
    };
    if !std::path::Path::new("/dev/loop7").exists() {
        return eprintln!("SKIPPED: no /dev/loop7");
    }
    let script = "test -b /dev/handed && echo there; { true < /dev/handed; } 2>/dev/null && echo read";
    let with = |d: Device| ContainerConfig {
        devices: vec![d],
        security: Security { add_capabilities: vec!["SYS_RAWIO".into()], ..Security::default() },
        ..b.script(script)
    };
    check(&b, "readable", with(device("r")), "there\nread").await;
    check(&b, "only writable", with(device("w")), "there").await;
    b.finish().await;
}

/// CVE-2019-5736: a container that runs its creator's program must not be able to write to it, not even afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn the_creator_cannot_be_overwritten() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let security = Security { add_capabilities: vec!["SYS_PTRACE".into()], ..Security::default() };
    let id = b.start(&pod.id, ContainerConfig { security, ..b.script("while :; do sleep 1; done") }).await;
    let words = |list: &[&str]| list.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    let keeper = words(&["/proc/self/exe", "hold", "dir=/tmp"]);
    assert_eq!(b.runtime.exec_sync(&id, &keeper, None).await.unwrap().stdout, b"ok");
    let attack = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in *keeper*) pid=${p#/proc/};; esac; done; \
        exec 3< /proc/$pid/exe && echo opened; kill -9 $pid; sleep 0.3; { echo x > /proc/self/fd/3; } 2>&1";
    let done = b.runtime.exec_sync(&id, &words(&["sh", "-c", attack]), None).await.unwrap();
    let out = String::from_utf8_lossy(&done.stdout);
    assert!(out.starts_with("opened\n") && out.contains("Read-only file system"), "{out} {done:?}");
    b.finish().await;
}
