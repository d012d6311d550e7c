use std::io::Write;

use super::*;

const LOG: &str = "2026-01-01T00:00:00.100000000Z stdout F one\n\
2026-01-01T00:00:01.100000000Z stderr F oops\n\
2026-01-01T00:00:02.100000000Z stdout P tw\n\
2026-01-01T00:00:02.200000000Z stdout F o\n\
this is no line of a log\n\
2026-01-01T00:00:03.100000000Z stdout F three\n";

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("node-logs-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn read(log: &Path, options: Options) -> String {
    let (to, mut from) = mpsc::channel(64);
    let (_alive, dead) = watch::channel(false);
    send(log.to_owned(), options, dead, to).await.expect("reads");
    let mut all = Vec::new();
    while let Some(bytes) = from.recv().await {
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn options_choose_what_is_shown() {
    let dir = Dir::new("options");
    let log = dir.0.join("0.log");
    fs::write(&log, LOG).expect("a log");
    let all = Options::default();
    let since =
        schema::time::parse("2026-01-01T00:00:02.2Z").map(|(seconds, nanos)| seconds * SECOND + Nanos::from(nanos));
    let rows = [
        (all.clone(), "one\noops\ntwo\nthree\n"),
        (Options { stream: Some("stderr".into()), ..all.clone() }, "oops\n"),
        (Options { tail_lines: Some(1), ..all.clone() }, "three\n"),
        (Options { tail_lines: Some(0), ..all.clone() }, ""),
        (Options { tail_lines: Some(100), ..all.clone() }, "one\noops\ntwo\nthree\n"),
        (Options { limit_bytes: Some(6), ..all.clone() }, "one\noo"),
        (Options { since, ..all.clone() }, "o\nthree\n"),
        (Options { timestamps: true, tail_lines: Some(1), ..all.clone() }, "2026-01-01T00:00:03.100000000Z three\n"),
        (
            Options { timestamps: true, stream: Some("stdout".into()), ..all },
            "2026-01-01T00:00:00.100000000Z one\n2026-01-01T00:00:02.100000000Z two\n2026-01-01T00:00:03.100000000Z three\n",
        ),
    ];
    for (options, expected) in rows {
        assert_eq!(read(&log, options.clone()).await, expected, "{options:?}");
    }
    assert_eq!(tail(&log, 2, 100), "three\n", "a line that is none counts, but is not shown");
}

#[tokio::test]
async fn rotated_files_are_read_first() {
    let dir = Dir::new("rotated");
    let log = dir.0.join("0.log");
    fs::write(dir.0.join("0.log.20260101-000000"), "2026-01-01T00:00:00.1Z stdout F old\n").expect("a log");
    fs::write(&log, "2026-01-01T00:00:01.1Z stdout F new\n").expect("a log");
    fs::write(dir.0.join("0.logs"), "2026-01-01T00:00:01.1Z stdout F other\n").expect("a log");
    assert_eq!(read(&log, Options::default()).await, "old\nnew\n");
    assert_eq!(read(&log, Options { tail_lines: Some(1), ..Options::default() }).await, "new\n");
    assert_eq!(read(&log, Options { tail_lines: Some(2), ..Options::default() }).await, "old\nnew\n");
}

#[tokio::test]
async fn following_goes_over_a_rotation_and_ends_with_the_container() {
    let dir = Dir::new("follow");
    let log = dir.0.join("0.log");
    fs::write(&log, "2026-01-01T00:00:00.1Z stdout F one\n").expect("a log");
    let (to, mut from) = mpsc::channel(64);
    let (alive_to, alive) = watch::channel(true);
    let options = Options { follow: true, ..Options::default() };
    let task = tokio::spawn(send(log.clone(), options, alive, to));
    assert_eq!(from.recv().await.expect("a line"), "one\n");
    let mut file = fs::OpenOptions::new().append(true).open(&log).expect("opens");
    file.write_all(b"2026-01-01T00:00:01.1Z stdout F two\n").expect("writes");
    assert_eq!(from.recv().await.expect("a line"), "two\n");
    fs::rename(&log, dir.0.join("0.log.20260101-000002")).expect("rotates");
    fs::write(&log, "2026-01-01T00:00:02.1Z stdout F three\n").expect("a log");
    assert_eq!(from.recv().await.expect("a line"), "three\n");
    alive_to.send_replace(false);
    assert_eq!(from.recv().await, None);
    task.await.expect("ends").expect("reads");
}
