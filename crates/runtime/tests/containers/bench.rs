//! A place for one test: directories and cgroups of its own, a busybox root, and the certainty that nothing stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::containers::*;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Bench {
    pub name: String,
    pub dir: PathBuf,
    pub options: Options,
    pub runtime: Runtime,
    _leftovers: Leftovers,
}

/// A test that panics leaves no process and no mount, either.
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let name = self.0.as_bytes();
        let has = |path: PathBuf| fs::read(path).is_ok_and(|text| text.windows(name.len()).any(|part| part == name));
        for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
            let pid = process.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
            if let Some(pid) = pid.filter(|_| has(process.join("cgroup")) || has(process.join("cmdline"))) {
                let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&self.0)) {
            let _ = std::process::Command::new("umount").arg("-l").args(line.split(' ').nth(4)).status();
        }
    }
}

/// Says loudly why a test does not run here; true if it is to be skipped.
pub fn skip() -> bool {
    let why = if std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) != 0 {
        "needs root"
    } else if !Path::new("/bin/busybox").exists() {
        "needs /bin/busybox (busybox-static)"
    } else if Cgroups::detect().is_err() {
        "needs cgroups"
    } else {
        return false;
    };
    eprintln!("SKIPPED: {why}");
    true
}

impl Bench {
    pub async fn new() -> Bench {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sampan-test-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        let mut options = Options::new(dir.join("state"), run_dir(&name));
        options.log_dir = dir.join("logs");
        options.keeper_cgroup = format!("/{name}-keepers");
        options.seccomp_dir = dir.join("seccomp");
        make_root(&dir.join("root"));
        let runtime = Runtime::open(options.clone()).await.unwrap();
        let _leftovers = Leftovers(format!("{name}/"));
        Bench { name, dir, options, runtime, _leftovers }
    }

    /// On a cgroup2 tree, whatever else the host has; `None` and a loud word if there is none.
    pub async fn on_v2() -> Option<Bench> {
        let points = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let Some(point) = points.into_iter().find(|p| Path::new(p).join("cgroup.controllers").exists()) else {
            eprintln!("SKIPPED: no cgroup2 is mounted");
            return None;
        };
        let mut b = Bench::new().await;
        b.options.cgroups = Some(Cgroups::unified_at(point));
        b.runtime = Runtime::open(b.options.clone()).await.unwrap();
        Some(b)
    }

    pub fn image(&self) -> Image {
        Image {
            lower: vec![self.dir.join("root")],
            env: vec!["PATH=/bin".into()],
            cmd: vec!["sh".into()],
            ..Image::default()
        }
    }

    pub fn pod(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            uid: format!("uid-{name}"),
            name: name.into(),
            namespace: "default".into(),
            hostname: name.into(),
            cgroup_parent: format!("/{}/pod{name}", self.name),
            ..SandboxConfig::default()
        }
    }

    /// A container that runs this shell script.
    pub fn script(&self, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: "c".into(),
            image: self.image(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: "c/0.log".into(),
            security: Security { seccomp: Seccomp::RuntimeDefault, ..Security::default() },
            ..ContainerConfig::default()
        }
    }

    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Runs a script in a pod of its own; its exit and what it printed.
    pub async fn run(&self, config: ContainerConfig) -> (Exit, String) {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        self.run_in(self.pod(&format!("run{n}")), config).await
    }

    pub async fn run_in(&self, pod: SandboxConfig, config: ContainerConfig) -> (Exit, String) {
        let pod = self.runtime.run_sandbox(pod).await.unwrap();
        let id = self.start(&pod.id, config).await;
        let exit = self.wait(&id).await;
        let log = self.log(&id);
        self.runtime.remove_sandbox(&pod.id).await.unwrap();
        (exit, log)
    }

    pub async fn wait(&self, id: &str) -> Exit {
        tokio::time::timeout(Duration::from_secs(60), self.runtime.wait(id))
            .await
            .expect("the container did not end")
            .unwrap()
    }

    /// The log's content, without times and tags.
    pub fn log(&self, id: &str) -> String {
        let path = self.runtime.container(id).unwrap().log_path;
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or("").to_string() + "\n").collect()
    }

    /// Removes everything and checks that nothing is left behind.
    pub async fn finish(self) {
        let runtime = self.runtime.clone();
        let keepers: Vec<u32> = runtime.sandboxes().iter().filter_map(|s| s.keeper_pid).collect();
        for sandbox in runtime.sandboxes() {
            runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
        assert!(runtime.containers().is_empty());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&format!("/{}/", self.name)), "mounts left: {mounts}");
        for pid in keepers {
            until("the keeper ends", || !is_keeper(pid)).await;
        }
        let cgroups = runtime.cgroups();
        until("cgroups can go", || cgroups.remove(&self.name).is_ok()).await;
        for hierarchy in all_cgroups(&format!("{}-keepers", self.name)) {
            until("the keepers' cgroup can go", || fs::remove_dir(&hierarchy).is_ok()).await;
        }
        drop(self.runtime);
        fs::remove_dir_all(&self.dir).unwrap();
        fs::remove_dir_all(&self.options.run_dir).unwrap();
    }
}

/// In memory, as /run is.
pub fn run_dir(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn is_keeper(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.windows(5).any(|w| w == b"\0hold"))
}

/// Waits for what must become true soon; no test asserts on how soon.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}

/// The directories of a cgroup in every hierarchy of this host.
pub fn all_cgroups(path: &str) -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = info.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
    points.map(|p| Path::new(p).join(path)).filter(|p| p.is_dir()).collect()
}

/// A root of busybox, its applets as links, and some users.
pub fn make_root(root: &Path) {
    for dir in ["bin", "etc", "tmp", "home/web"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in "sh cat echo id ls sleep touch mkdir mount umount unshare stat true false seq head tail dd env pwd grep awk readlink kill ps hostname tr wc nc stty tty chroot ln mkfifo od test printf yes cut sort nproc setsid rm mknod date ping".split(' ') {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nssl:x:60:web\n").unwrap();
    std::os::unix::fs::symlink("/run", root.join("etc/dangling")).unwrap();
    std::os::unix::fs::symlink("/../../../../../../escaped", root.join("etc/outside")).unwrap();
}
