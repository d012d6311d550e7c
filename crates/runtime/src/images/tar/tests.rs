//! The reader against our writer, against GNU tar, and against nonsense.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind,
        mode: 0o4755,
        uid: 1000,
        gid: 50_000,
        size,
        mtime: (1_700_000_000, 0),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        let mut buffer = [0; 700];
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            data.extend_from_slice(&buffer[..n]);
        }
        all.push((entry, data));
    }
    Ok(all)
}

#[test]
fn what_is_written_is_read() {
    let long = format!("{}/file", "directory-with-a-name".repeat(12));
    let mut entries = vec![
        (entry("a", Kind::File, 3), b"abc".to_vec()),
        (entry(&long, Kind::File, 600), vec![7; 600]),
        (entry("ümlaut", Kind::Dir, 0), Vec::new()),
        (Entry { link: long.clone().into(), ..entry("l", Kind::Symlink, 0) }, Vec::new()),
        (Entry { link: b"a".to_vec(), ..entry("h", Kind::HardLink, 0) }, Vec::new()),
        (Entry { device: (1, 3), ..entry("null", Kind::CharDevice, 0) }, Vec::new()),
        (
            Entry { uid: 4_000_000_000, gid: 3_000_000, mtime: (-5, 500_000_000), ..entry("big", Kind::Fifo, 0) },
            Vec::new(),
        ),
        (Entry { mtime: (1, 123_456_789), ..entry("f", Kind::File, 512) }, vec![1; 512]),
    ];
    entries[0].0.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 10, 255])];
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in &entries {
        writer.append(entry, data.as_slice()).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let read = read_all(&bytes).unwrap();
    assert_eq!(read.len(), entries.len());
    for ((got, got_data), (want, data)) in read.iter().zip(&entries) {
        assert_eq!(format!("{got:?}"), format!("{want:?}"));
        assert_eq!(got_data, data);
    }
    // Cut anywhere, it is an error or a shorter archive, never a panic or a wrong entry.
    for cut in (0..bytes.len()).step_by(97) {
        if let Ok(read) = read_all(&bytes[..cut]) {
            assert!(read.len() <= entries.len());
        }
    }
}

#[test]
fn gnu_tars_formats_are_read() {
    let dir = std::env::temp_dir().join(format!("sampan-tar-{}", std::process::id()));
    let deep = dir.join("in").join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f"), b"deep").unwrap();
    std::os::unix::fs::symlink("x".repeat(150), dir.join("in/link")).unwrap();
    let sparse = std::fs::File::create(dir.join("in/sparse")).unwrap();
    for at in [0, 1 << 20, 3 << 20, 5 << 20, 7 << 20, 9 << 20] {
        std::os::unix::fs::FileExt::write_at(&sparse, b"data", at).unwrap();
    }
    sparse.set_len(10 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=oldgnu"],
    ] {
        let output = Command::new("tar")
            .args(format)
            .args(["-S", "-cf", "-", "-C"])
            .arg(&dir)
            .arg("in")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let read = read_all(&output.stdout).unwrap_or_else(|e| panic!("{format:?}: {e}"));
        let find = |end: &str| read.iter().find(|(e, _)| e.path.ends_with(end.as_bytes()));
        assert_eq!(find("/f").unwrap_or_else(|| panic!("{format:?}: {output:?}")).1, b"deep", "{format:?}");
        let (entry, data) = find("in/sparse").unwrap();
        assert_eq!((entry.size, data.len()), (10 << 20, 10 << 20), "{format:?}");
        for at in [0, 1 << 20, 3 << 20, 5 << 20, 7 << 20, 9 << 20] {
            assert_eq!(&data[at..at + 4], b"data", "{format:?} at {at}");
        }
        assert_eq!(data.iter().filter(|b| **b != 0).count(), 24, "{format:?}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn nonsense_is_refused() {
    let mut good = Writer::new(Vec::new());
    good.append(&entry("a", Kind::File, 3), &b"abc"[..]).unwrap();
    let good = good.finish().unwrap();
    let check = |change: &dyn Fn(&mut Vec<u8>), want: &str| {
        let mut bytes = good.clone();
        change(&mut bytes);
        // The checksum made right again, so that the change itself is looked at.
        if want != "checksum" && bytes.len() >= 512 {
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let error = read_all(&bytes).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).map_or(String::new(), |s| s.to_string()));
        assert!(text.contains(want), "{text} lacks {want}");
    };
    check(&|b| b[0] = b'b', "checksum");
    check(&|b| b[156] = b'Z', "unknown");
    check(&|b| b[124..136].copy_from_slice(b"77777777777\0"), "middle");
    check(&|b| b[124..136].fill(0xff), "negative");
    check(
        &|b| b[124..136].copy_from_slice(&[0x80, 0x7f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
        "too large",
    );
    check(&|b| b[124..136].copy_from_slice(b"12x45678901\0"), "malformed");
    check(&|b| b[156] = b'x', "pax header is malformed");
    check(
        &|b| {
            b[156] = b'x';
            b[124..136].copy_from_slice(b"00010000000\0")
        },
        "too long",
    );
    check(&|b| b[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]), "id is too large");
    check(&|b| b.truncate(700), "middle");
    check(
        &|b| {
            b.truncate(1024);
            b.extend([0; 512]);
            b.extend_from_within(..1024)
        },
        "follows",
    );
}

#[test]
fn gnu_tar_reads_what_we_write() {
    let mut writer = Writer::new(Vec::new());
    let name = format!("{}/x", "long".repeat(40));
    writer.append(&entry(&name, Kind::File, 5), &b"hello"[..]).unwrap();
    let bytes = writer.finish().unwrap();
    let mut tar =
        Command::new("tar").arg("-tvf").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&bytes).unwrap();
    let listing = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
    assert!(listing.contains(&name) && listing.contains("-rwsr-xr-x 1000/50000"), "{listing}");
}
