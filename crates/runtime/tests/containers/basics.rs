//! Running, ending, logging.

use std::time::Duration;

use runtime::containers::*;

use crate::bench::{Bench, skip, until};

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_ends() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let (exit, log) = b.run(b.script("echo hello; echo \"$(hostname) $$ $HOSTNAME $HOME $PATH\"; pwd; exit 3")).await;
    assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some("hello"));
    let second = lines.next().unwrap();
    assert!(second.contains(" 1 run") && second.ends_with(" /root /bin"), "{second}");
    assert_eq!(lines.next(), Some("/"));
    let (exit, _) = b.run(b.script("true")).await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
    let (exit, _) = b.run(b.script("kill -9 $$; exit 0")).await;
    // The first process of a namespace is deaf to signals from inside.
    assert_eq!(exit.code, 0, "{exit:?}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let check = async |config: ContainerConfig, expect: &str| {
        let id = b.runtime.create_container(&pod.id, config).await.unwrap();
        let error = b.runtime.start_container(&id).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        let status = b.runtime.container(&id).unwrap();
        let exit = status.exit.unwrap();
        assert_eq!((status.state, exit.code, exit.reason.as_str()), (ContainerState::Exited, 128, "StartError"));
        b.runtime.remove_container(&id).await.unwrap();
    };
    let command =
        |words: &[&str]| ContainerConfig { command: words.iter().map(|w| w.to_string()).collect(), ..b.script("") };
    check(command(&["nope"]), r#"exec: "nope": executable file not found in $PATH"#).await;
    check(command(&["/nope"]), r#"exec: "/nope": no such file or directory"#).await;
    check(command(&["/etc/passwd"]), r#"exec: "/etc/passwd": permission denied"#).await;
    let user = Security { run_as_username: "ghost".into(), ..Security::default() };
    check(
        ContainerConfig { security: user, ..b.script("true") },
        "unable to find user ghost: no matching entries in passwd file",
    )
    .await;
    let none = ContainerConfig { command: vec![], image: Image { cmd: vec![], ..b.image() }, ..b.script("") };
    assert!(b.runtime.create_container(&pod.id, none).await.unwrap_err().to_string().contains("no command specified"));
    b.finish().await;
}

/// An image's own words, which nobody has checked: each starts as it says, or says why not.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_say_absurd_things() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let words = |list: &[&str]| list.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    let says = Image { cmd: words(&["sh", "-c", "pwd; id -u"]), ..b.image() };
    let user = |user: &str| Image { user: user.into(), ..says.clone() };
    let cases: Vec<(&str, Image, &str)> = vec![
        ("user -1", user("-1"), "unable to find user -1"),
        ("user 2^32", user("4294967296"), "unable to find user 4294967296"),
        ("the last user", user("4294967295"), "unable to find user 4294967295"),
        ("a user with a way", user("../../etc/passwd"), "unable to find user"),
        ("three parts", user("web:ssl:x"), "unable to find group ssl:x"),
        ("a long user", user(&"u".repeat(100_000)), "unable to find user"),
        ("relative directory", Image { working_dir: "relative/./dir".into(), ..says.clone() }, "/relative/dir\n0\n"),
        ("directory above", Image { working_dir: "/../../../tmp".into(), ..says.clone() }, "/tmp\n0\n"),
        ("directory with a zero", Image { working_dir: "/a\0b".into(), ..says.clone() }, "open the directory /a"),
        ("a file as directory", Image { working_dir: "/etc/passwd".into(), ..says.clone() }, "not a directory"),
        (
            "long directory",
            Image { working_dir: format!("/{}", "d".repeat(5000)), ..says.clone() },
            "file name too long",
        ),
        ("env without names", Image { env: words(&["PATH=/bin", "=x", "", "noequals"]), ..says.clone() }, "/\n0\n"),
        ("env with a zero", Image { env: words(&["PATH=/bin", "A=b\0c"]), ..says.clone() }, "zero byte in an argument"),
        (
            "10 MiB of env",
            Image { env: vec![format!("A={}", "x".repeat(10 << 20))], ..says.clone() },
            "argument list too long",
        ),
        (
            "10^5 variables",
            Image { env: (0..100_000).map(|n| format!("V{n}={}", "x".repeat(100))).collect(), ..says.clone() },
            "argument list too long",
        ),
        ("an empty word", Image { cmd: words(&[""]), ..says.clone() }, "no command specified"),
        ("a long word", Image { cmd: vec!["x".repeat(200_000)], ..says.clone() }, "file name too long"),
        (
            "volumes anywhere",
            Image {
                volumes: words(&["/", "..", "/proc/sys", "/../../etc", "relative", "/etc/passwd/x"]),
                ..says.clone()
            },
            "/\n0\n",
        ),
        ("a signal of its own", Image { stop_signal: "SIGNONE".into(), ..says.clone() }, "/\n0\n"),
    ];
    let mut wrong = Vec::new();
    for (n, (what, image, expect)) in cases.into_iter().enumerate() {
        let config = ContainerConfig { image, command: vec![], log_path: format!("{n}/0.log"), ..b.script("") };
        let said = match b.runtime.create_container(&pod.id, config).await {
            Err(e) => e.to_string(),
            Ok(id) => match b.runtime.start_container(&id).await {
                Err(e) => e.to_string(),
                Ok(()) => {
                    b.wait(&id).await;
                    b.log(&id)
                }
            },
        };
        if !(said == expect || !expect.ends_with('\n') && said.contains(expect)) {
            wrong.push(format!("{what}: {said:.200} (of {} bytes)", said.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_rotate_and_split() {
    if skip() {
        return;
    }
    let mut b = Bench::new().await;
    b.options.log_max_bytes = 50_000;
    b.options.log_max_files = 3;
    b.runtime = Runtime::open(b.options.clone()).await.unwrap();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("printf partial >&2; seq 1 20000")).await;
    b.wait(&id).await;
    let path = b.runtime.container(&id).unwrap().log_path;
    let mut files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|f| std::fs::metadata(f).unwrap().len() <= 50_000));
    assert!(std::fs::read_to_string(&path).unwrap().contains(" stdout F 20000\n"));
    let id = b
        .start(
            &pod.id,
            ContainerConfig {
                log_path: "long/0.log".into(),
                ..b.script("head -c 40000 /dev/zero | tr '\\0' x; printf end >&2")
            },
        )
        .await;
    b.wait(&id).await;
    let text = std::fs::read_to_string(b.runtime.container(&id).unwrap().log_path).unwrap();
    let tags: Vec<(&str, usize)> = text
        .lines()
        .map(|l| l.splitn(4, ' ').collect::<Vec<_>>())
        .filter(|f| f[1] == "stdout")
        .map(|f| (f[2], f[3].len()))
        .collect();
    // What no newline ends is part of a line.
    assert_eq!(tags, [("P", 16384), ("P", 16384), ("P", 7232)]);
    assert!(text.contains(" stderr P end\n"));
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_in_time_or_by_force() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let polite =
        b.start(&pod.id, b.script("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")).await;
    let custom = b
        .start(
            &pod.id,
            ContainerConfig {
                stop_signal: "SIGUSR1".into(),
                log_path: "u/0.log".into(),
                ..b.script("trap 'exit 8' USR1; echo up; while :; do sleep 0.05; done")
            },
        )
        .await;
    let deaf = b
        .start(
            &pod.id,
            ContainerConfig { log_path: "d/0.log".into(), ..b.script("trap '' TERM; echo up; sleep 1000; sleep 1000") },
        )
        .await;
    for id in [&polite, &custom, &deaf] {
        until("it is up", || b.log(id).contains("up")).await;
    }
    b.runtime.stop_container(&polite, Duration::from_secs(60), None).await.unwrap();
    assert_eq!(b.wait(&polite).await.code, 7);
    assert!(b.log(&polite).ends_with("bye\n"));
    b.runtime.stop_container(&custom, Duration::from_secs(60), None).await.unwrap();
    assert_eq!(b.wait(&custom).await.code, 8);
    b.runtime.stop_container(&deaf, Duration::from_millis(200), None).await.unwrap();
    let exit = b.wait(&deaf).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, false));
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happens() {
    if skip() {
        return;
    }
    let b = Bench::new().await;
    let mut events = b.runtime.events();
    let pod = b.runtime.run_sandbox(b.pod("p")).await.unwrap();
    let id = b.start(&pod.id, b.script("sleep 0.2; exit 5")).await;
    b.wait(&id).await;
    b.runtime.remove_sandbox(&pod.id).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap() {
            Event::ContainerStarted { container_id, .. } if container_id == id => seen.push("started"),
            Event::ContainerExited { exit, .. } if exit.code == 5 => seen.push("exited"),
            Event::SandboxStopped { unexpected: false, .. } => seen.push("stopped"),
            Event::ContainerRemoved { .. } => seen.push("removed"),
            Event::SandboxStarted { .. } | Event::ContainerCreated { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.starts_with(&["started", "exited"]), "{seen:?}");
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pods_at_once() {
    if skip() {
        return;
    }
    measure(Bench::new().await).await;
}

/// The same where a cgroup2 tree can stand in for a v2 host: processes are born in their cgroup.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_pods_at_once_on_v2() {
    let (false, Some(b)) = (skip(), Bench::on_v2().await) else { return };
    measure(b).await;
}

/// Prints how long things take; asserts only that they work.
async fn measure(b: Bench) {
    let began = std::time::Instant::now();
    let mut tasks = Vec::new();
    for n in 0..20 {
        let (runtime, pod, config) = (b.runtime.clone(), b.pod(&format!("n{n}")), b.script("echo up; exec sleep 1000"));
        tasks.push(tokio::spawn(async move {
            let began = std::time::Instant::now();
            let pod = runtime.run_sandbox(pod).await.unwrap();
            let sandbox = began.elapsed();
            let id = runtime.create_container(&pod.id, config).await.unwrap();
            runtime.start_container(&id).await.unwrap();
            (sandbox, began.elapsed(), pod.keeper_pid.unwrap())
        }));
    }
    let mut each = Vec::new();
    for task in tasks {
        each.push(task.await.unwrap());
    }
    let all = began.elapsed();
    assert_eq!(b.runtime.containers().iter().filter(|c| c.state == ContainerState::Running).count(), 20);
    let worst = each.iter().map(|e| e.1).max().unwrap();
    println!(
        "20 pods: {all:?} in all, slowest {worst:?}, slowest sandbox {:?}",
        each.iter().map(|e| e.0).max().unwrap()
    );
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", each[0].2)).unwrap();
    for line in rollup.lines().filter(|l| l.starts_with("Rss") || l.starts_with("Pss:") || l.starts_with("Private")) {
        println!("keeper {line}");
    }
    let began = std::time::Instant::now();
    let mut stops = Vec::new();
    for sandbox in b.runtime.sandboxes() {
        let runtime = b.runtime.clone();
        stops.push(tokio::spawn(async move { runtime.remove_sandbox(&sandbox.id).await.unwrap() }));
    }
    for stop in stops {
        stop.await.unwrap();
    }
    println!("20 pods removed: {:?}", began.elapsed());
    // One after the other, for the time of one.
    let (mut times, mut sandboxes) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let began = std::time::Instant::now();
        let pod = b.runtime.run_sandbox(b.pod(&format!("s{n}"))).await.unwrap();
        sandboxes.push(began.elapsed());
        b.start(&pod.id, b.script("exec sleep 1000")).await;
        times.push(began.elapsed());
        b.runtime.remove_sandbox(&pod.id).await.unwrap();
    }
    times.sort();
    sandboxes.sort();
    println!("one pod: p50 {:?} (sandbox {:?}), slowest {:?}", times[5], sandboxes[5], times[9]);
    b.finish().await;
}
