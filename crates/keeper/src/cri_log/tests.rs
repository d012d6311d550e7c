use super::*;

const NOW: u64 = 1_706_695_200_123_456_789;

fn temp(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("keeper-log-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Feeds the chunks to a log and compares `tag length` (or `tag text`) of every line.
fn check(name: &str, chunks: &[&[u8]], expect: &[(&str, &[u8])]) {
    let dir = temp(name);
    let path = dir.join("0.log");
    let mut log = Log::open(path.as_os_str().as_encoded_bytes(), 0, 5).unwrap();
    let mut part = Vec::new();
    for chunk in chunks {
        log.put("stdout", &mut part, chunk, NOW);
    }
    log.finish("stdout", &mut part, NOW);
    let content = std::fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = content.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    assert_eq!(lines.len(), expect.len(), "{name}");
    for (line, (tag, text)) in lines.iter().zip(expect) {
        assert_eq!(*line, [b"2024-01-31T10:00:00.123456789Z stdout ", tag.as_bytes(), b" ", text].concat(), "{name}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn lines_and_parts() {
    let full = vec![b'a'; MAX_LOG_LINE];
    let more = vec![b'a'; MAX_LOG_LINE + 10];
    let with_newline = [&full[..], b"\n"].concat();
    check("plain", &[b"one\ntwo\n"], &[("F", b"one"), ("F", b"two")]);
    check("joined", &[b"on", b"e\ntw", b"o"], &[("F", b"one"), ("P", b"two")]);
    check("empty", &[b"\n\n"], &[("F", b""), ("F", b"")]);
    check("exact", &[&with_newline], &[("F", &full)]);
    check("long", &[&more, b"\nx\n"], &[("P", &full), ("F", &b"a"[..].repeat(10)), ("F", b"x")]);
    check("split", &[&more[..9000], &more[9000..], b"\n"], &[("P", &full), ("F", &b"a"[..].repeat(10))]);
}

#[test]
fn rotates_and_removes() {
    let dir = temp("rotate");
    let path = dir.join("0.log");
    let mut log = Log::open(path.as_os_str().as_encoded_bytes(), 1000, 3).unwrap();
    let mut part = Vec::new();
    for second in 0..40u64 {
        log.put("stderr", &mut part, &[&[b'x'; 100][..], b"\n"].concat(), NOW + second * 1_000_000_000);
    }
    let mut names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["0.log", "0.log.20240131-100028", "0.log.20240131-100035"].map(String::from),
        "7 lines a file, the newest stay"
    );
    assert!(names.iter().all(|n| std::fs::metadata(dir.join(n)).unwrap().len() <= 1000));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn formats_times() {
    for (seconds, text) in
        [(0, "1970-01-01T00:00:00"), (951_782_400, "2000-02-29T00:00:00"), (4_102_444_799, "2099-12-31T23:59:59")]
    {
        assert_eq!(format_time(seconds * 1_000_000_000 + 7), format!("{text}.000000007Z").into_bytes());
    }
}
