//! Ways out of a container that other runtimes once had, tried on this one.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use runtime::containers::*;

use crate::bench::{Bench, skip, until};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| word.to_string()).collect()
}

/// Runs the script in a pod of its own; what it prints must be `expect`, on every line that is no error of a shell's.
async fn check(b: &Bench, what: &str, config: ContainerConfig, expect: &str) {
    let (exit, log) = b.run(config).await;
    assert_eq!(log.trim_end(), expect, "{what} (exit {exit:?})");
}

fn adds(capabilities: &[&str]) -> Security {
    Security { add_capabilities: words(capabilities), ..Security::default() }
}

/// An image with one more layer on top, of links `name -> target` and of files without content.
fn with_layer(b: &Bench, name: &str, links: &[(&str, &str)]) -> Image {
    let layer = b.dir.join(name);
    for (link, target) in links {
        let path = layer.join(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }
    Image { lower: vec![layer, b.dir.join("root")], ..b.image() }
}

/// How starting it ends: nothing, or the error.
async fn outcome(b: &Bench, pod: &str, config: ContainerConfig) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let config = ContainerConfig { log_path: format!("o{}/0.log", COUNT.fetch_add(1, Ordering::Relaxed)), ..config };
    let id = b.runtime.create_container(pod, config).await.unwrap();
    let outcome = b.runtime.start_container(&id).await;
    if outcome.is_ok() {
        b.wait(&id).await;
    }
    let text = outcome.err().map_or_else(|| b.log(&id), |e| e.to_string());
    b.runtime.remove_container(&id).await.unwrap();
    text
}

/// CVE-2024-21626: no descriptor of the host's, and none as a working directory, whether in a container or an exec.
#[tokio::test(flavor = "multi_thread")]
async fn descriptors_of_the_host() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let open = "for fd in /proc/$$/fd/*; do readlink $fd; done | grep -vE '^(pipe:|/dev/null|socket:)'; echo end";
    assert_eq!(outcome(&b, &pod.id, b.script(open)).await, "end\n");
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let done = b.runtime.exec_sync(&id, &words(&["sh", "-c", open]), None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "end\n");
    let init = b.runtime.exec_sync(&id, &words(&["ls", "/proc/1/fd"]), None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&init.stdout), "0\n1\n2\n");
    for fd in 0..24 {
        // Named outright, by a link of the image, and with a way up from there.
        let image = with_layer(&b, &format!("cwd{fd}"), &[("cwd", &format!("/proc/self/fd/{fd}"))]);
        for cwd in [format!("/proc/self/fd/{fd}"), "/cwd".into(), format!("/proc/self/fd/{fd}/../../../../..")] {
            let script = format!("ls -d ../../../../..{} ..{} 2>/dev/null; echo end", b.dir.display(), b.dir.display());
            let config = ContainerConfig { working_dir: cwd.clone(), image: image.clone(), ..b.script(&script) };
            let said = outcome(&b, &pod.id, config).await;
            assert!(said == "end\n" || said.contains("failed to start container"), "{cwd}: {said}");
        }
    }
    b.finish().await;
}

/// The same for an exec, whose working directory is the container's: a link that was a directory at the start.
#[tokio::test(flavor = "multi_thread")]
async fn an_exec_in_a_swapped_working_directory() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let config = ContainerConfig { working_dir: "/work".into(), ..b.script("exec sleep 1000") };
    let id = b.start(&pod.id, config).await;
    let look = format!("ls -d ../../../../..{} 2>/dev/null; pwd", b.dir.display());
    for fd in 0..16 {
        let swap = format!("cd /; rm -rf /work; ln -s /proc/self/fd/{fd} /work");
        let swapped = b.runtime.exec_sync(&id, &words(&["sh", "-c", &swap]), None).await;
        assert!(swapped.is_ok() || fd > 0, "{swapped:?}");
        match b.runtime.exec_sync(&id, &words(&["sh", "-c", &look]), None).await {
            Ok(done) => assert_eq!(String::from_utf8_lossy(&done.stdout), "/\n", "{fd}"),
            Err(e) => assert!(e.to_string().contains("change directory to /work"), "{e}"),
        }
        // From the host, since no exec starts any more.
        let work = b.dir.join("state/containers").join(&id).join("fs/work");
        let _ = std::fs::remove_file(&work);
        std::fs::create_dir_all(&work).unwrap();
    }
    b.finish().await;
}

/// CVE-2019-5736 by an image whose programs are the creator's: what was installed stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_runs_its_creator() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let keepers = b.dir.join("state/keeper");
    let installed = || {
        let path = std::fs::read_dir(&keepers).unwrap().flatten().next().unwrap().path();
        std::fs::read(path).unwrap()
    };
    let before = installed();
    let image = with_layer(&b, "self", &[("bin/entry", "/proc/self/exe")]);
    std::fs::write(b.dir.join("self/bin/script"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(b.dir.join("self/bin/script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    for entry in ["/bin/entry", "/bin/script", "/proc/self/exe"] {
        let config = ContainerConfig { image: image.clone(), command: words(&[entry]), ..b.script("") };
        outcome(&b, &pod.id, config).await;
    }
    // While others are started and entered, root in a container opens whatever runs in it for writing.
    let attack = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) \
        { echo evil > $p/exe; } 2>/dev/null && echo written;; esac; done; done";
    let config = ContainerConfig { image, security: adds(&["SYS_PTRACE"]), ..b.script(attack) };
    let id = b.start(&pod.id, config).await;
    for _ in 0..30 {
        let _ = b.runtime.exec_sync(&id, &words(&["/bin/script"]), None).await;
        let _ = b.runtime.exec_sync(&id, &words(&["true"]), None).await;
    }
    assert_eq!(b.log(&id), "");
    assert!(installed() == before, "the keeper was overwritten");
    b.finish().await;
}

/// CVE-2016-9962: what enters a container has nothing of the host's that the container could take from it.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_enter_cannot_be_looked_into() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let attack = "while :; do for p in /proc/[0-9]*; do for l in $p/fd/[3-9] $p/root; do \
        t=$(readlink $l 2>/dev/null) || continue; case $t in /proc/*|pipe:*|socket:*|/) ;; *) echo $l $t;; esac; done; done; done";
    let id = b.start(&pod.id, b.script(attack)).await;
    for _ in 0..100 {
        b.runtime.exec_sync(&id, &words(&["true"]), None).await.unwrap();
    }
    assert_eq!(b.log(&id), "");
    b.finish().await;
}

/// CVE-2021-30465: a volume's directory becomes a link to the root, and back, while containers mount in it.
#[tokio::test(flavor = "multi_thread")]
async fn links_exchanged_while_volumes_are_mounted() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let (volume, inner) = (b.dir.join("volume"), b.dir.join("inner"));
    for dir in [volume.join("dir/mnt"), inner.clone()] {
        std::fs::create_dir_all(dir).unwrap();
    }
    symlink("/../../../../..", volume.join("link")).unwrap();
    std::fs::write(inner.join("mark"), "").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flip = {
        let (stop, a, z) = (stop.clone(), volume.join("dir"), volume.join("link"));
        std::thread::spawn(move || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &z, RenameFlags::EXCHANGE).unwrap();
            }
        })
    };
    let mounts =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&b.name)).count();
    let before = mounts();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let own = mounts();
    let target = format!("sampan-{}", b.name);
    let mount = |host: &Path, at: &str| Mount { host_path: host.into(), container_path: at.into(), ..Mount::default() };
    let script = format!("ls -d {} /*/{} 2>/dev/null; echo end", b.dir.display(), b.name);
    let mut started = 0;
    for _ in 0..40 {
        let config = ContainerConfig {
            mounts: vec![
                mount(&volume, "/data"),
                mount(&inner, &format!("/data/dir/{target}")),
                mount(&inner, "/data/link/etc/passwd.d"),
            ],
            security: Security { readonly_rootfs: true, ..Security::default() },
            ..b.script(&script)
        };
        let said = outcome(&b, &pod.id, config).await;
        assert!(said == "end\n" || said.contains("mount "), "{said}");
        started += u32::from(said == "end\n");
        assert_eq!(mounts(), own, "a mount of the container's is the host's");
        assert!(!Path::new("/").join(&target).exists() && !Path::new("/etc/passwd.d").exists());
    }
    stop.store(true, Ordering::Relaxed);
    flip.join().unwrap();
    assert!(started > 0 && own >= before);
    b.finish().await;
}

/// CVE-2019-16884, CVE-2025-31133, CVE-2025-52565: an image or a volume chooses where proc, masks and the console lie.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_moves_proc_and_masks() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    for (name, links) in
        [("proc", [("proc", "/tmp")]), ("sys", [("sys", "/tmp")]), ("up", [("proc", "../../../../tmp")])]
    {
        let config = ContainerConfig { image: with_layer(&b, name, &links), ..b.script("echo ran") };
        let said = outcome(&b, &pod.id, config).await;
        assert!(said.contains("not a directory") || said.contains("too many levels"), "{name}: {said}");
    }
    // Volumes that lead into proc by a link, and one that is /dev and brings its own null, ptmx and console.
    let image = with_layer(&b, "into", &[("into", "/proc/sys"), ("again", "/into/kernel")]);
    let dev = b.dir.join("dev");
    std::fs::create_dir_all(dev.join("pts")).unwrap();
    for name in ["null", "console", "ptmx", "fd", "zero"] {
        symlink("/proc/sysrq-trigger", dev.join(name)).unwrap();
    }
    for target in ["/into/kernel", "/again", "/proc", "/proc/self/attr", "/tmp/../proc/sys"] {
        let mounts = vec![Mount { host_path: dev.clone(), container_path: target.into(), ..Mount::default() }];
        let created = b
            .runtime
            .create_container(&pod.id, ContainerConfig { mounts, image: image.clone(), ..b.script("echo ran") })
            .await;
        let said = match created {
            Ok(id) => b.runtime.start_container(&id).await.unwrap_err().to_string(),
            Err(e) => e.to_string(),
        };
        assert!(said.contains("inside /proc"), "{target}: {said}");
    }
    let mounts = vec![Mount { host_path: dev, container_path: "/dev".into(), ..Mount::default() }];
    let script = "cat /proc/timer_list /proc/keys | wc -c; { echo x > /proc/sysrq-trigger; } 2>&1; { echo x > /proc/sys/kernel/core_pattern; } 2>&1";
    let refused = "can't create";
    let config = ContainerConfig { mounts: mounts.clone(), image: b.image(), ..b.script(script) };
    let said = outcome(&b, &pod.id, config.clone()).await;
    assert!(said.starts_with("0\n") && said.matches(refused).count() == 2, "{said}");
    let said = outcome(&b, &pod.id, ContainerConfig { tty: true, ..config }).await;
    assert!(said.contains("/dev/console: it is a link"), "{said}");
    // A mask on a link of the image hides what the link leads to.
    std::fs::create_dir_all(b.dir.join("mask/etc")).unwrap();
    std::fs::write(b.dir.join("mask/etc/secret"), "secret").unwrap();
    let image = with_layer(&b, "mask", &[("etc/link", "secret")]);
    let security = Security { masked_paths: Some(words(&["/etc/link"])), ..Security::default() };
    check(
        &b,
        "masked link",
        ContainerConfig { image, security, ..b.script("cat /etc/secret /etc/link; echo end") },
        "end",
    )
    .await;
    b.finish().await;
}

/// CVE-2022-0492 and what else root without CAP_SYS_ADMIN might try, with no seccomp filter in its way, as pods have none
/// unless they ask: namespaces of its own, remounts, devices, another's memory.
#[tokio::test(flavor = "multi_thread")]
async fn root_without_admin_rights_and_without_a_filter() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let agents = || -> Vec<String> {
        let found = crate::bench::all_cgroups("").into_iter().map(|dir| dir.join("release_agent"));
        found.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    };
    let (pattern, before) = (std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), agents());
    let unconfined = |script: &str, capabilities: &[&str]| ContainerConfig {
        security: Security { seccomp: Seccomp::Unconfined, ..adds(capabilities) },
        ..b.script(script)
    };
    let agent = "cat > /tmp/in <<'END'\nmkdir /tmp/cg\nfor c in memory rdma cpu cpuset pids; do mount -t cgroup -o $c cgroup /tmp/cg && echo /tmp/evil > /tmp/cg/release_agent && echo written; done\n\
        for a in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/*/release_agent; do mount -o remount,rw ${a%/*}; echo /tmp/evil > $a && echo written; done\n\
        mount -o remount,rw /proc/sys; mount -o remount,rw /sys; echo '|/tmp/evil' > /proc/sys/kernel/core_pattern && echo written; umount /proc/sys && echo uncovered; umount /proc/timer_list && echo uncovered\nEND\n\
        sh /tmp/in 2>/dev/null; unshare -Urm sh /tmp/in 2>/dev/null; unshare -Urmp -f sh -c 'mount -t proc proc /proc; sh /tmp/in' 2>/dev/null; echo end";
    check(&b, "release_agent", unconfined(agent, &[]), "end").await;
    assert_eq!((std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), agents()), (pattern, before));
    // A new proc in a namespace of its own would have no masks: the kernel gives none while the old one has some.
    let proc = "unshare -Urmpf sh -c 'mkdir /tmp/p; mount -t proc proc /tmp/p && cat /tmp/p/timer_list' 2>/dev/null | head -c 1 | wc -c";
    check(&b, "a fresh proc", unconfined(proc, &[]), "0").await;
    // The host's disk and memory by device nodes.
    use std::os::unix::fs::MetadataExt;
    let disk = std::fs::metadata("/").unwrap().dev();
    let disk = format!("{} {}", libc::major(disk), libc::minor(disk));
    let devices = format!(
        "mknod /tmp/disk b {disk}; mknod /tmp/mem c 1 1; mknod /tmp/port c 1 4; mknod /tmp/kmsg c 1 11; mknod /tmp/fuse c 10 229; \
        for d in disk mem port kmsg fuse; do {{ true < /tmp/$d; }} 2>/dev/null && echo $d; {{ true > /tmp/$d; }} 2>/dev/null && echo $d; done; echo end"
    );
    check(&b, "devices", unconfined(&devices, &["MKNOD"]), "end").await;
    b.finish().await;
}

/// CVE-2022-29162: nothing inheritable or ambient, neither in a container nor in an exec, which has the same filter.
#[tokio::test(flavor = "multi_thread")]
async fn an_exec_has_what_the_container_has() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status";
    let all = [
        Security::default(),
        adds(&["NET_ADMIN", "SYS_TIME"]),
        Security { run_as_user: Some(1000), no_new_privileges: true, ..adds(&["NET_ADMIN"]) },
        Security {
            run_as_user: Some(1000),
            supplemental_groups: vec![5, 6],
            drop_capabilities: words(&["ALL"]),
            ..Security::default()
        },
    ];
    for (n, security) in all.into_iter().enumerate() {
        let security = Security { seccomp: Seccomp::RuntimeDefault, ..security };
        let script = format!("{status}; cat /proc/self/cgroup; cat /proc/self/oom_score_adj; exec sleep 1000");
        let id =
            b.start(&pod.id, ContainerConfig { security, log_path: format!("{n}/0.log"), ..b.script(&script) }).await;
        let script = format!("{status}; cat /proc/self/cgroup; cat /proc/self/oom_score_adj; echo end");
        let done = b.runtime.exec_sync(&id, &words(&["sh", "-c", &script]), None).await.unwrap();
        let exec = String::from_utf8_lossy(&done.stdout).trim_end_matches("end\n").to_string();
        until("the container tells", || b.log(&id).len() >= exec.len()).await;
        assert_eq!(b.log(&id), exec, "{n}");
        let zero = "0000000000000000";
        assert!(exec.contains(&format!("CapInh:\t{zero}")) && exec.contains(&format!("CapAmb:\t{zero}")), "{exec}");
        assert!(exec.contains("Seccomp:\t2"), "{exec}");
    }
    b.finish().await;
}

/// What pods share with nobody: shared memory, message queues, keys.
#[tokio::test(flavor = "multi_thread")]
async fn pods_do_not_meet() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let mark = format!("mark-{}", b.name);
    let first = b.runtime.run_sandbox(b.pod("first")).await.unwrap();
    let leave = format!("touch /dev/shm/{mark} /dev/mqueue/{mark}; echo left; exec sleep 1000");
    let id = b.start(&first.id, b.script(&leave)).await;
    until("it has left its marks", || b.log(&id) == "left\n").await;
    let look = format!("ls /dev/shm/{mark} /dev/mqueue/{mark} 2>/dev/null; cat /proc/keys; echo end");
    assert_eq!(outcome(&b, &first.id, b.script(&look)).await, format!("/dev/mqueue/{mark}\n/dev/shm/{mark}\nend\n"));
    check(&b, "another pod", b.script(&look), "end").await;
    assert!(!Path::new("/dev/shm").join(&mark).exists());
    b.finish().await;
}
