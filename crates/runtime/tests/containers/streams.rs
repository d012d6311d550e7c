//! Exec, attach, port-forward.

use std::time::Duration;

use runtime::containers::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, skip, until};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| w.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let security = Security {
        run_as_user: Some(33),
        seccomp: Seccomp::RuntimeDefault,
        no_new_privileges: true,
        ..Security::default()
    };
    let id = b
        .start(
            &pod.id,
            ContainerConfig { security, env: vec![("WORD".into(), "said".into())], ..b.script("exec sleep 1000") },
        )
        .await;
    let sync = async |script: &str| {
        b.runtime.exec_sync(&id, &words(&["sh", "-c", script]), Some(Duration::from_secs(30))).await
    };
    let done = sync(
        "id -u; echo $WORD; echo bad >&2; hostname; grep -c . /proc/1/cmdline; grep Seccomp: /proc/self/status; exit 9",
    )
    .await
    .unwrap();
    assert_eq!((done.code, String::from_utf8_lossy(&done.stderr).as_ref()), (9, "bad\n"));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "33\nsaid\np\n1\nSeccomp:\t2\n");
    assert_eq!(sync("kill -TERM $$").await.unwrap().code, 143);
    // A child that keeps the output open does not hold up the answer.
    assert_eq!(sync("sleep 1000 & echo done").await.unwrap().stdout, b"done\n");
    assert!(
        sync("cat /proc/self/cgroup").await.unwrap().stdout.windows(id.len()).any(|w| w == id.as_bytes()),
        "accounted to the container"
    );
    let error = b.runtime.exec_sync(&id, &words(&["nope"]), None).await.unwrap_err().to_string();
    assert!(error.contains(r#"exec: "nope": executable file not found in $PATH"#), "{error}");
    let error = b
        .runtime
        .exec_sync(&id, &words(&["sleep", "1000"]), Some(Duration::from_millis(200)))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("timed out"), "{error}");
    // stdin to the end.
    let mut process = b
        .runtime
        .exec(&id, ExecRequest { command: words(&["wc", "-c"]), stdin: true, stdout: true, ..Default::default() })
        .await
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 300_000]).await.unwrap();
    drop(stdin);
    let mut out = String::new();
    process.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!((out.trim(), process.wait().await.unwrap()), ("300000", 0));
    b.runtime.stop_container(&id, Duration::ZERO, None).await.unwrap();
    assert!(matches!(sync("true").await, Err(Error::WrongState { .. })));
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("exec sleep 1000")).await;
    let request = ExecRequest {
        command: words(&["sh", "-c", "tty; read line; stty size; echo got $line; exit 4"]),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let mut process = b.runtime.exec(&id, request).await.unwrap();
    assert!(process.stderr.is_none());
    process.terminal.as_ref().unwrap().resize(33, 99).unwrap();
    process.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    let mut out = String::new();
    process.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(process.wait().await.unwrap(), 4);
    assert!(out.contains("/dev/pts/") && out.contains("33 99") && out.contains("got word"), "{out}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let echo = ContainerConfig {
        stdin: true,
        ..b.script("while read l; do echo out $l; echo err $l >&2; done; echo end; exit 6")
    };
    let id = b.start(&pod.id, echo).await;
    let mut process = b.runtime.attach(&id, true, true, true).await.unwrap();
    process.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    let mut buffer = [0u8; 64];
    let n = process.stdout.as_mut().unwrap().read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..n], b"out one\n");
    let n = process.stderr.as_mut().unwrap().read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..n], b"err one\n");
    process.close_stdin().await.unwrap();
    let mut rest = String::new();
    process.stdout.as_mut().unwrap().read_to_string(&mut rest).await.unwrap();
    assert_eq!((rest.as_str(), process.wait().await.unwrap()), ("end\n", 6));
    assert_eq!(b.log(&id), "out one\nerr one\nend\n");
    // Once: whoever hangs up ends the input.
    let once =
        ContainerConfig { stdin: true, stdin_once: true, log_path: "o/0.log".into(), ..b.script("cat; echo end") };
    let id = b.start(&pod.id, once).await;
    let mut process = b.runtime.attach(&id, true, false, false).await.unwrap();
    process.stdin.as_mut().unwrap().write_all(b"all\n").await.unwrap();
    drop(process);
    assert_eq!((b.wait(&id).await.code, b.log(&id).as_str()), (0, "all\nend\n"));
    // A terminal of the container's own.
    let shell = ContainerConfig {
        stdin: true,
        tty: true,
        log_path: "t/0.log".into(),
        ..b.script("tty; stty size; read l; stty size; echo got $l")
    };
    let id = b.start(&pod.id, shell).await;
    until("the terminal is up", || b.log(&id).lines().count() >= 2).await;
    let mut process = b.runtime.attach(&id, true, true, true).await.unwrap();
    process.terminal.as_ref().unwrap().resize(11, 22).unwrap();
    process.stdin.as_mut().unwrap().write_all(b"line\n").await.unwrap();
    let mut out = String::new();
    process.stdout.as_mut().unwrap().read_to_string(&mut out).await.unwrap();
    assert!(out.contains("11 22") && out.contains("got line"), "{out}");
    assert!(b.log(&id).contains("got line"));
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_listener_loses_nothing() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b
        .start(&pod.id, ContainerConfig { stdin: true, ..b.script("read go; seq 1 50000; echo done >&2; read end") })
        .await;
    let mut process = b.runtime.attach(&id, true, true, false).await.unwrap();
    process.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // More than a pipe holds: the container waits for us, and its other stream does not.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!b.log(&id).contains("50000"));
    let mut out = String::new();
    let mut stdout = process.stdout.take().unwrap();
    while !out.ends_with("\n50000\n") {
        let mut buffer = [0u8; 4096];
        let n = stdout.read(&mut buffer).await.unwrap();
        out.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert_eq!(out.lines().count(), 50000);
    until("the rest comes", || b.log(&id).contains("done")).await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("echo up; nc -l -p 8080 -e sh -c 'read a; echo you said $a'")).await;
    until("it is up", || b.log(&id).contains("up")).await;
    let mut stream = None;
    for _ in 0..200 {
        stream = b.runtime.port_forward(&pod.id, 8080).await.ok();
        if stream.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut stream = stream.expect("nobody listens");
    stream.write_all(b"hi\n").await.unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "you said hi\n");
    assert!(b.runtime.port_forward(&pod.id, 81).await.is_err());
    b.finish().await;
}
