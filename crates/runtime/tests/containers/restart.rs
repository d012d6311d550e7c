//! Sampan is killed; its pods are not.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runtime::containers::*;

use crate::bench::{Bench, run_dir, skip, until};

/// The process to be killed: runs a pod of three containers and waits.
pub fn serve() {
    let Some(dir) = std::env::var_os("SAMPAN_TEST_DIR") else { return };
    let dir = Path::new(&dir);
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let config: SandboxConfig = serde_json::from_slice(&fs::read(dir.join("pod")).unwrap()).unwrap();
        let scripts: Vec<ContainerConfig> = serde_json::from_slice(&fs::read(dir.join("containers")).unwrap()).unwrap();
        let name = dir.file_name().unwrap().to_string_lossy();
        let mut options = Options::new(dir.join("state"), run_dir(&name));
        options.keeper_cgroup = format!("/{name}-keepers");
        options.log_dir = dir.join("logs");
        let runtime = Runtime::open(options).await.unwrap();
        let pod = runtime.run_sandbox(config).await.unwrap();
        for config in scripts {
            let id = runtime.create_container(&pod.id, config).await.unwrap();
            runtime.start_container(&id).await.unwrap();
        }
        fs::write(dir.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

async fn start_server(b: &Bench, containers: &[ContainerConfig]) -> Child {
    fs::write(b.dir.join("pod"), serde_json::to_vec(&b.pod("p")).unwrap()).unwrap();
    fs::write(b.dir.join("containers"), serde_json::to_vec(containers).unwrap()).unwrap();
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server", "--ignored"])
        .env("SAMPAN_TEST_DIR", &b.dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the server is ready", || b.dir.join("ready").exists()).await;
    server
}

async fn kill_server(mut server: Child) {
    server.kill().unwrap(); // SIGKILL
    server.wait().unwrap();
}

fn by_name(runtime: &Runtime, name: &str) -> ContainerStatus {
    runtime.containers().into_iter().find(|c| c.config.name == name).unwrap()
}

fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_a_killed_server() {
    if skip() {
        return;
    }
    let mut b = Bench::new().await;
    let named = |name: &str, script: &str| ContainerConfig {
        name: name.into(),
        log_path: format!("{name}/0.log"),
        stdin: true,
        ..b.script(script)
    };
    let go = Mount { host_path: b.dir.join("go"), container_path: "/go".into(), ..Mount::default() };
    let ends = "while ! test -e /go/now; do sleep 0.05; done; echo last words; exit 21";
    let containers = [
        named("lives", "n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done"),
        ContainerConfig { mounts: vec![go], ..named("ends", ends) },
        named("ended", "exit 22"),
    ];
    let server = start_server(&b, &containers).await;
    kill_server(server).await;
    // Nobody is there: one container ends, one logs on.
    fs::write(b.dir.join("go/now"), "").unwrap();
    let record = || {
        let dirs = fs::read_dir(b.dir.join("state/containers")).unwrap().flatten();
        dirs.filter_map(|d| fs::read_to_string(d.path().join("exit")).ok()).any(|e| e.starts_with("21 0 0 "))
    };
    until("the keeper records the exit", record).await;
    b.runtime = Runtime::open(b.options.clone()).await.unwrap();
    let pod = b.runtime.sandboxes().pop().unwrap();
    assert!(pod.ready);
    let (lives, ends, ended) =
        (by_name(&b.runtime, "lives"), by_name(&b.runtime, "ends"), by_name(&b.runtime, "ended"));
    assert_eq!((ends.exit.unwrap().code, ended.exit.unwrap().code), (21, 22));
    assert!(ends.started_at > 0 && b.log(&ends.id).contains("last words"));
    assert_eq!(lives.state, ContainerState::Running);
    assert_eq!(parent(lives.pid.unwrap()), pod.keeper_pid.unwrap(), "the container is the keeper's child");
    let lines = b.log(&lives.id).lines().count();
    until("it logs on", || b.log(&lives.id).lines().count() > lines + 2).await;
    let done =
        b.runtime.exec_sync(&lives.id, &["echo".into(), "in".into()], Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!(done.stdout, b"in\n");
    let mut events = b.runtime.events();
    b.runtime.stop_container(&lives.id, Duration::ZERO, None).await.unwrap();
    let exit = b.wait(&lives.id).await;
    assert_eq!((exit.code, exit.signal), (137, 9));
    assert!(matches!(events.recv().await.unwrap(), Event::ContainerExited { .. }));
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_is_noticed() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let mut events = b.runtime.events();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let pid = b.runtime.container(&id).unwrap().pid.unwrap();
    assert!(Command::new("kill").args(["-9", &pod.keeper_pid.unwrap().to_string()]).status().unwrap().success());
    assert_eq!(b.wait(&id).await.reason, "Unknown");
    loop {
        if let Event::SandboxStopped { unexpected, .. } =
            tokio::time::timeout(Duration::from_secs(30), events.recv()).await.unwrap().unwrap()
        {
            assert!(unexpected);
            break;
        }
    }
    assert!(!b.runtime.sandbox(&pod.id).unwrap().ready);
    until("the container ends with it", || {
        !Path::new(&format!("/proc/{pid}")).exists()
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "))
    })
    .await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_boot_nothing_runs() {
    if skip() {
        return;
    }
    let mut b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let other = b.start(&pod.id, ContainerConfig { log_path: "o/0.log".into(), ..b.script("exit 3") }).await;
    b.wait(&other).await;
    let (state, run) = (b.options.state_dir.clone(), b.options.run_dir.clone());
    // What a boot does: processes and the run directory go, the records stay, with the old boot's id.
    let copy = b.dir.join("copy");
    Command::new("cp").arg("-a").arg(&state).arg(&copy).status().unwrap();
    b.runtime.remove_sandbox(&pod.id).await.unwrap();
    for file in ["pods", "containers"] {
        for entry in fs::read_dir(copy.join(file)).unwrap().flatten() {
            for name in ["sandbox.json", "container.json"] {
                let path = entry.path().join(name);
                if let Ok(text) = fs::read_to_string(&path) {
                    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
                    fs::write(&path, text.replace(boot.trim(), "another-boot")).unwrap();
                }
            }
        }
    }
    fs::write(copy.join("containers").join("broken"), "").ok();
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&copy, &state).unwrap();
    fs::remove_dir_all(&run).unwrap();
    b.runtime = Runtime::open(b.options.clone()).await.unwrap();
    assert!(!b.runtime.sandbox(&pod.id).unwrap().ready);
    let exit = b.runtime.container(&id).unwrap().exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str(), exit.message.as_str()), (255, "Unknown", "the machine was restarted"));
    assert_eq!(b.runtime.container(&other).unwrap().exit.unwrap().code, 3);
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_keeper_is_ended() {
    if skip() {
        return;
    }
    let mut b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let pid = pod.keeper_pid.unwrap();
    fs::remove_dir_all(b.options.state_dir.join("pods").join(&pod.id)).unwrap();
    b.runtime = Runtime::open(b.options.clone()).await.unwrap();
    assert!(b.runtime.sandboxes().is_empty());
    until("the keeper ends", || fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |c| c.is_empty())).await;
    b.finish().await;
}

/// Many short lives at once: no exit is lost, none is told twice, none gets another's code.
#[tokio::test(flavor = "multi_thread")]
async fn every_exit_arrives() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let mut events = b.runtime.events();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..60 {
        let config = ContainerConfig { log_path: format!("{n}/0.log"), ..b.script(&format!("echo {n}; exit {n}")) };
        let (runtime, pod) = (b.runtime.clone(), pod.id.clone());
        tasks.push(tokio::spawn(async move {
            let id = runtime.create_container(&pod, config).await.unwrap();
            runtime.start_container(&id).await.unwrap();
            assert_eq!(runtime.wait(&id).await.unwrap().code, n);
            id
        }));
    }
    let lives = b.start(&pod.id, b.script("exec sleep 1000")).await;
    for n in 0..60 {
        let (runtime, lives) = (b.runtime.clone(), lives.clone());
        tasks.push(tokio::spawn(async move {
            let script = format!("echo {n}; exit {n}");
            let done = runtime.exec_sync(&lives, &["sh".into(), "-c".into(), script], None).await.unwrap();
            assert_eq!((done.code, done.stdout), (n, format!("{n}\n").into_bytes()));
            String::new()
        }));
    }
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(tokio::time::timeout(Duration::from_secs(60), task).await.expect("an exit is lost").unwrap());
    }
    let mut exited = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::ContainerExited { container_id, .. } = event {
            exited.push(container_id);
        }
    }
    exited.sort();
    ids.retain(|id| !id.is_empty());
    ids.sort();
    assert_eq!(exited, ids);
    assert!((0..60).all(|n| {
        fs::read_to_string(b.options.log_dir.join(format!("default_p_uid-p/{n}/0.log")))
            .unwrap()
            .ends_with(&format!(" F {n}\n"))
    }));
    b.finish().await;
}

/// A keeper outlives whatever is said to it.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_does_not_hurt_a_keeper() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let socket = b.options.run_dir.join("pods").join(&pod.id).join("keeper.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let message = |fields: &[&str]| {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        fields.iter().for_each(|f| bytes.extend(f.bytes().chain([0])));
        bytes
    };
    let long = "x".repeat(10_000);
    for bytes in [
        vec![],
        vec![0],
        vec![0, 0, 0, 0],
        vec![1, 0, 0, 0, 0],
        vec![255; 60_000],
        message(&["nope"]),
        message(&["start"]),
        message(&["start", "x"]),
        message(&["start", &id, "log=/x"]),
        message(&["exec", "x", "container=none"]),
        message(&["exec", "x", &format!("container={id}"), "in=1", "out=1"]),
        message(&["signal", &id, "99999999999"]),
        message(&["signal", &id, "-1"]),
        message(&["resize", &id, "1", "2"]),
        message(&["attach", &id, "out=1", "err=1", "in=1"]),
        message(&["attach", &long]),
        message(&["forget", &id]),
        message(&["socket", "9"]),
    ] {
        send_packet(&socket, &bytes);
    }
    let done = b.runtime.exec_sync(&id, &["echo".into(), "well".into()], Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!(done.stdout, b"well\n");
    assert_eq!(b.runtime.container(&id).unwrap().state, ContainerState::Running);
    b.finish().await;
}

/// Sends one packet to a socket and waits for an answer or the end.
fn send_packet(path: &Path, bytes: &[u8]) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let dir = fs::File::open(path.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/keeper.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    connect(&socket, &SocketAddrUnix::new(short).unwrap()).unwrap();
    send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
    let mut buffer = [0u8; 256];
    let _ = recv(&socket, &mut buffer, RecvFlags::empty());
}
