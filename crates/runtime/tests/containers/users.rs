//! User namespaces: root inside, nobody outside.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use runtime::containers::*;

use crate::bench::{Bench, skip, until};

const FIRST: u32 = 7 * 65536;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| word.to_string()).collect()
}

fn mapped(b: &Bench, name: &str) -> SandboxConfig {
    SandboxConfig { user_namespace: Some((FIRST, 65536)), ..b.pod(name) }
}

fn unavailable(b: &Bench) -> bool {
    b.runtime.user_namespaces().as_ref().err().inspect(|why| eprintln!("SKIPPED: {why}")).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_nobody_on_the_host() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    if unavailable(&b) {
        return b.finish().await;
    }
    let mount =
        |host: &str, at: &str| Mount { host_path: b.dir.join(host), container_path: at.into(), ..Mount::default() };
    std::fs::create_dir_all(b.dir.join("empty")).unwrap();
    std::fs::set_permissions(b.dir.join("empty"), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::create_dir_all(b.dir.join("token")).unwrap();
    std::fs::write(b.dir.join("token/token"), "secret").unwrap();
    std::fs::set_permissions(b.dir.join("token/token"), PermissionsExt::from_mode(0o600)).unwrap();
    // A volume with fsGroup 2000.
    std::fs::create_dir_all(b.dir.join("group")).unwrap();
    std::os::unix::fs::chown(b.dir.join("group"), None, Some(2000)).unwrap();
    std::fs::set_permissions(b.dir.join("group"), PermissionsExt::from_mode(0o2770)).unwrap();
    let pod = b
        .runtime
        .run_sandbox(SandboxConfig {
            sysctls: [("net.core.somaxconn".into(), "777".into()), ("kernel.shm_rmid_forced".into(), "1".into())]
                .into(),
            ..mapped(&b, "p")
        })
        .await
        .unwrap();
    let mounts = vec![mount("empty", "/empty"), mount("token", "/token"), mount("group", "/group")];
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; stat -c '%u:%g %n' / /bin/busybox /etc/hostname /dev /dev/shm /dev/pts /token/token /made/here /dev/stdin /group; \
        cat /token/token; echo; touch /empty/f /dev/shm/f /root-file /group/f && echo written; chown web /empty/f && echo given; \
        cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced; { echo 1 > /proc/sys/kernel/panic; } 2>/dev/null || echo refused; \
        head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null; ls /proc/1/fd | wc -l; echo up; exec sleep 1000";
    let config = ContainerConfig { working_dir: "/made/here".into(), mounts: mounts.clone(), ..b.script(script) };
    let id = b.start(&pod.id, config).await;
    until("it is up", || b.log(&id).ends_with("up\n")).await;
    let expect = format!(
        "0\n 0 {FIRST} 65536\n0:0 /\n0:0 /bin/busybox\n0:0 /etc/hostname\n0:0 /dev\n0:0 /dev/shm\n65534:65534 /dev/pts\n0:0 /token/token\n0:0 /made/here\n0:0 /dev/stdin\n0:2000 /group\n\
        secret\nwritten\ngiven\n777\n1\nrefused\n1\nnull\n"
    );
    assert!(b.log(&id).starts_with(&expect), "{}", b.log(&id));
    // What it owns is on volumes as if it were the host's own, and in its layer of nobody known.
    let owner = |path: &Path| std::fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!((owner(&b.dir.join("empty/f")), owner(&b.dir.join("group/f"))), ((33, 0), (0, 2000)));
    assert_eq!(owner(&b.dir.join("state/containers").join(&id).join("fs/root-file")), (FIRST, FIRST));
    let pid = b.runtime.container(&id).unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")), "{status}");
    let same = |kind: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
            == std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()
    };
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        assert!(!same(kind), "{kind}");
    }
    // An exec is who the container is, with and without a terminal.
    let done = b.runtime.exec_sync(&id, &words(&["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; pwd; cat /token/token; readlink /proc/self/ns/user /proc/self/ns/mnt > /tmp/own; readlink /proc/1/ns/user /proc/1/ns/mnt | diff - /tmp/own 2>&1; echo ok > /dev/stderr"]), None).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&done.stdout).trim_end_matches("sh: diff: not found\n"),
        format!("0\n 0 {FIRST} 65536\n/made/here\nsecret"),
        "{done:?}"
    );
    assert_eq!(String::from_utf8_lossy(&done.stderr).lines().last(), Some("ok"));
    let tty = ContainerConfig {
        tty: true,
        log_path: "t/0.log".into(),
        ..b.script("tty; stat -c %u:%g $(tty) /dev/console; echo x > /dev/console; id -u")
    };
    let tty = b.start(&pod.id, tty).await;
    b.wait(&tty).await;
    assert_eq!(b.log(&tty).replace('\r', ""), "/dev/pts/0\n0:5\n0:5\nx\n0\n");
    // Users other than root, and those beyond the namespace.
    let user = |uid| ContainerConfig {
        security: Security { run_as_user: Some(uid), supplemental_groups: vec![2000], ..Security::default() },
        mounts: mounts.clone(),
        log_path: format!("u{uid}/0.log"),
        ..b.script("id -u; touch /empty/g /group/g && echo written; cat /token/token 2>/dev/null || echo refused")
    };
    let one = b.start(&pod.id, user(1000)).await;
    b.wait(&one).await;
    assert_eq!(b.log(&one), "1000\nwritten\nrefused\n");
    assert_eq!(owner(&b.dir.join("empty/g")), (1000, 0));
    let beyond = b.runtime.create_container(&pod.id, user(65536)).await.unwrap();
    assert!(b.runtime.start_container(&beyond).await.unwrap_err().to_string().contains("become user 65536"));
    assert!(b.runtime.container_stats(&id).await.unwrap().memory_usage > 0);
    assert!(b.runtime.container_disk_usage(&id).await.unwrap().1 > 0);
    b.finish().await;
}

/// Capabilities count for what is the namespace's, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn all_rights_inside_are_none_outside() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    if unavailable(&b) {
        return b.finish().await;
    }
    let secret = b.dir.join("secret");
    std::fs::write(&secret, "host").unwrap();
    let all = Security { add_capabilities: words(&["ALL"]), ..Security::default() };
    let script = "mount -t tmpfs tmpfs /tmp && echo mounted; umount /proc/timer_list 2>/dev/null && echo unmasked; mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; \
        mount -o remount,rw /sys/fs/cgroup/memory 2>/dev/null && echo remounted; mknod /tmp/mem c 1 1 2>/dev/null && echo device; hostname changed && hostname; \
        { echo 0 > /proc/sys/kernel/panic; } 2>/dev/null && echo sysctl; { echo b > /proc/sysrq-trigger; } 2>/dev/null && echo sysrq; echo end";
    let (_, log) = b.run_in(mapped(&b, "all"), ContainerConfig { security: all, ..b.script(script) }).await;
    assert_eq!(log, "mounted\nchanged\nend\n");
    // Privileged, with the host's devices: nodes are there, and refused.
    let privileged = Security { privileged: true, ..Security::default() };
    let script = "for d in /dev/vda /dev/sda /dev/nvme0n1 /dev/loop0 /dev/mem /dev/kmsg; do { true < $d; } 2>/dev/null && echo $d; done; mount -t tmpfs tmpfs /tmp && echo mounted";
    let (_, log) =
        b.run_in(mapped(&b, "privileged"), ContainerConfig { security: privileged, ..b.script(script) }).await;
    assert!(log.ends_with("mounted\n") && !log.contains("/dev/vda") && !log.contains("/dev/mem"), "{log}");
    // Two pods of other ids cannot touch each other's processes even in one PID namespace, nor what the other made.
    let shared = SandboxConfig { share_process_namespace: true, ..mapped(&b, "shared") };
    let (_, log) =
        b.run_in(shared, b.script("kill -9 1; ls /proc/1/root 2>/dev/null; kill -0 1 && echo alive; id -u")).await;
    assert!(log.ends_with("alive\n0\n"), "{log}");
    b.finish().await;
}
