//! Layers on a real file system, as root: what must come out, and what must not get out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::images::tar::Writer;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("sampan-unpack-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `d path`, `f path content`, `l path target` (symlink), `h path target` (hard link), `c path major`; a mode may follow the letter.
fn layer(lines: &[&str]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (letter, path, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        let kind = match &letter[..1] {
            "d" => Kind::Dir,
            "f" => Kind::File,
            "l" => Kind::Symlink,
            "h" => Kind::HardLink,
            _ => Kind::CharDevice,
        };
        let mode = u32::from_str_radix(&letter[1..], 8).unwrap_or(if kind == Kind::Dir { 0o755 } else { 0o644 });
        let data = if kind == Kind::File { rest } else { "" };
        let entry = Entry {
            path: path.into(),
            link: if matches!(kind, Kind::Symlink | Kind::HardLink) { rest.into() } else { Vec::new() },
            kind,
            mode,
            uid: 7,
            gid: 8,
            size: data.len() as u64,
            mtime: (1_000_000, 5),
            device: (if kind == Kind::CharDevice { rest.parse().unwrap() } else { 0 }, if rest == "0" { 0 } else { 3 }),
            xattrs: vec![
                (b"user.kept".to_vec(), b"1".to_vec()),
                (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
                (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
            ],
        };
        writer.append(&entry, data.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn unpack_bytes(dir: &Dir, name: &str, bytes: &[u8], lower: &[PathBuf], limits: &Limits) -> Result<(PathBuf, Survey)> {
    let (blob, into) = (dir.0.join(format!("{name}.tar")), dir.0.join(name));
    fs::write(&blob, bytes).unwrap();
    fs::create_dir(&into).unwrap();
    let diff = Digest::of(bytes);
    let unpacked = unpack(&blob, &diff, &into, limits, &AtomicBool::new(false))?;
    let survey = settle(&diff, &into, unpacked, lower, 0)?;
    Ok((into, survey))
}

fn unpack_lines(dir: &Dir, name: &str, lines: &[&str], lower: &[PathBuf]) -> Result<PathBuf> {
    unpack_bytes(dir, name, &layer(lines), lower, &Limits::default()).map(|(path, _)| path)
}

fn opaque(path: &std::path::Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|n| &value[..n] == b"y")
}

fn is_whiteout(path: &std::path::Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[test]
fn everything_a_layer_says_is_on_the_disk() {
    let dir = Dir::new("content");
    let at = unpack_lines(
        &dir,
        "l",
        &[
            "d1777 tmp/", "f4755 bin/su s", "h bin/su2 bin/su", "l lib usr/lib", "c dev/null 1", "d0500 closed",
            "f closed/x y",
        ],
        &[],
    )
    .unwrap();
    let meta = |path: &str| fs::symlink_metadata(at.join(path)).unwrap();
    assert_eq!((meta("tmp").mode() & 0o7777, meta("tmp").uid(), meta("tmp").gid()), (0o1777, 7, 8));
    assert_eq!((meta("bin/su").mode() & 0o7777, meta("bin/su").uid()), (0o4755, 7));
    assert_eq!((meta("bin/su").ino(), meta("bin/su").nlink()), (meta("bin/su2").ino(), 2));
    assert_eq!((meta("bin/su").mtime(), meta("bin/su").mtime_nsec()), (1_000_000, 5));
    assert_eq!(meta("closed").mtime(), 1_000_000);
    assert_eq!((meta("lib").uid(), fs::read_link(at.join("lib")).unwrap()), (7, PathBuf::from("usr/lib")));
    assert_eq!(meta("dev/null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!((meta("bin").mode() & 0o7777, meta("bin").uid(), meta("bin").mtime()), (0o755, 0, 0));
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(at.join("bin/su"), "user.kept", &mut value).unwrap(), 1);
    for path in ["tmp", "bin/su", "lib"] {
        assert!(rustix::fs::lgetxattr(at.join(path), "trusted.overlay.redirect", &mut value).is_err());
        assert!(!opaque(&at.join(path)));
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let dir = Dir::new("replace");
    let lines = [
        "f a 1", "f a 2", "d b", "f b/x 1", "f b 3", "f c 1", "d c", "f c/y 2", "l e c", "d e", "f e/z 1", "f h1 old",
        "h h2 h1", "f h1 new", "d k", "f k/x 1", "d0700 k",
    ];
    let at = unpack_lines(&dir, "l", &lines, &[]).unwrap();
    let read = |path: &str| fs::read_to_string(at.join(path)).unwrap();
    assert_eq!((read("a"), read("b"), read("c/y"), read("e/z")), ("2".into(), "3".into(), "2".into(), "1".into()));
    assert_eq!((read("h1"), read("h2")), ("new".into(), "old".into()));
    assert!(!at.join("c/z").exists() && fs::symlink_metadata(at.join("e")).unwrap().is_dir());
    assert_eq!((read("k/x"), fs::metadata(at.join("k")).unwrap().mode() & 0o7777), ("1".into(), 0o700));
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let dir = Dir::new("whiteouts");
    let lines = [
        "f .wh.gone ", "f d/.wh.gone ", "d o", "f o/.wh..wh..opq ", "f o/new 1",
        // A directory removed and made anew is opaque, whichever comes first.
        "f .wh.first ", "f first/x 1", "d second", "f second/x 1", "f .wh.second ", "f .wh.third ", "d third",
        // Of a file, only the new one counts.
        "f both 1", "f .wh.both ", "f .wh.both2 ", "f both2 1", "f .wh..wh.plnk/1.2 x", "d .wh..wh.aufs",
        "c device-whiteout 0",
    ];
    let at = unpack_lines(&dir, "l", &lines, &[]).unwrap();
    for path in ["gone", "d/gone", "device-whiteout"] {
        assert!(is_whiteout(&at.join(path)), "{path}");
    }
    for path in ["o", "first", "second", "third"] {
        assert!(opaque(&at.join(path)), "{path}");
    }
    assert!(!opaque(&at.join("d")));
    assert_eq!(fs::read_to_string(at.join("both")).unwrap() + &fs::read_to_string(at.join("both2")).unwrap(), "11");
    assert!(fs::read_dir(&at).unwrap().flatten().all(|e| !e.file_name().to_string_lossy().starts_with(".wh.")));
}

#[test]
fn nothing_leaves_the_layer() {
    let dir = Dir::new("hostile");
    let victim = dir.0.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "safe").unwrap();
    let out = victim.display().to_string();
    let up = format!("../{}", victim.file_name().unwrap().to_string_lossy());
    let refused: &[(&[&str], &str)] = &[
        (&["f ../victim/file evil"], "climbs"),
        (&["f a/../../victim/file evil"], "climbs"),
        (&["f a x", "h b ../victim/file"], "climbs"),
        (&["f .wh... x"], "removes no name"),
        (&["f .wh. x"], "removes no name"),
        (&["f a/.wh... x"], "removes no name"),
        (&["f . x"], "replaces"),
        (&["l ./ x"], "replaces"),
        (&["f a x", "f a/b y"], "not a directory"),
        (&["l a a", "f a/b y"], "too many symbolic links"),
        (&["l a b", "l b a", "f a/b y"], "too many symbolic links"),
        (&["h a nowhere"], "does not exist"),
        (&["d a", "h b a"], "to a directory"),
        (&["l a "], "empty"),
    ];
    for (i, (lines, want)) in refused.iter().enumerate() {
        let error = unpack_lines(&dir, &format!("bad{i}"), lines, &[]).unwrap_err();
        assert!(error.chain().contains(want), "{lines:?}: {}", error.chain());
        assert_eq!(error.kind(), crate::images::Kind::BadImage, "{lines:?}");
    }
    // These stay inside: links lead to places below the layer's own root.
    let contained: &[&[&str]] = &[
        &[&format!("f {out}/file evil")],
        &[&format!("l door {out}"), "f door/file evil"],
        &[&format!("l door {up}"), "f door/file evil"],
        &[&format!("l door {out}/file"), "f door evil"],
        &[&format!("l door {out}"), "d0777 door"],
        &["l door ../../../../../..", &format!("f door{out}/file evil")],
        &[&format!("l a {out}"), "l b a", "f b/file evil", "f b/.wh.file ", "f b/.wh..wh..opq "],
        &[&format!("l door {out}/file"), "h hard door"],
        &["d x", &format!("l x/door {out}"), "f x/door/new/deep evil"],
        // The directory whose times are still to be set becomes a link.
        &["d0777 t", &format!("l t {out}")],
    ];
    let before = fs::metadata(&victim).unwrap();
    for (i, lines) in contained.iter().enumerate() {
        let result = unpack_lines(&dir, &format!("in{i}"), lines, &[]);
        let after = fs::metadata(&victim).unwrap();
        assert_eq!(
            (after.mtime_nsec(), after.mode(), after.uid()),
            (before.mtime_nsec(), before.mode(), before.uid()),
            "{lines:?}"
        );
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "safe", "{lines:?}: {result:?}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "{lines:?}");
        result.unwrap_or_else(|e| panic!("{lines:?}: {}", e.chain()));
    }
}

#[test]
fn what_lies_below_shows_through() {
    let dir = Dir::new("below");
    let lines = [
        "d1777 tmp", "d0750 opt", "d0711 opt/a", "f4755 bin/x program", "d gone", "d0700 gone/deep", "d hidden",
        "d0700 hidden/deep",
    ];
    let bottom = unpack_lines(&dir, "bottom", &lines, &[]).unwrap();
    let middle =
        unpack_lines(&dir, "middle", &["f .wh.gone ", "f hidden/.wh..wh..opq "], std::slice::from_ref(&bottom))
            .unwrap();
    let top = [
        "f tmp/f 1", "f opt/a/f 1", "f gone/deep/f 1", "f hidden/deep/f 1", "h bin/y bin/x", "h bin/z bin/x",
        "h late1 late2", "f late2 1",
    ];
    let top = unpack_lines(&dir, "top", &top, &[middle, bottom]).unwrap();
    let mode = |path: &str| fs::metadata(top.join(path)).unwrap().mode() & 0o7777;
    assert_eq!([mode("tmp"), mode("opt"), mode("opt/a")], [0o1777, 0o750, 0o711]);
    assert_eq!([mode("gone"), mode("gone/deep"), mode("hidden/deep")], [0o755, 0o755, 0o755]);
    let meta = |path: &str| fs::metadata(top.join(path)).unwrap();
    assert_eq!(
        (mode("bin/y"), meta("bin/y").uid(), fs::read_to_string(top.join("bin/y")).unwrap()),
        (0o4755, 7, "program".into())
    );
    assert_eq!((meta("bin/y").ino(), meta("late1").ino()), (meta("bin/z").ino(), meta("late2").ino()));
}

#[test]
fn limits_hold() {
    let dir = Dir::new("limits");
    let base = Limits { reserve: 0, ..Limits::default() };
    let many: Vec<String> = (0..50).map(|i| format!("f f{i} x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let deep = format!("f {}x 1", "d/".repeat(30));
    let zeros = {
        use std::io::Write as _;
        let tar = layer(&[&format!("f zeros {}", "0".repeat(4 << 20))]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&tar).unwrap();
        gzip.finish().unwrap()
    };
    let cases: Vec<(&str, Vec<u8>, Limits, &str)> = vec![
        ("entries", layer(&many), Limits { entries: 40, ..base.clone() }, "40 entries"),
        ("bytes", layer(&["f f 0123456789"]), Limits { bytes: 9, ..base.clone() }, "9 bytes"),
        ("depth", layer(&[&deep]), Limits { depth: 20, ..base.clone() }, "too deep"),
        ("path", layer(&[&format!("f {}x 1", "dd/".repeat(1500))]), base.clone(), "path is too long"),
        ("name", layer(&[&format!("f {} 1", "n".repeat(256))]), base.clone(), "name in its path is too long"),
        ("bomb", zeros, Limits { ratio: 50, free_ratio_bytes: 1 << 20, ..base.clone() }, "for its compressed size"),
        ("space", layer(&["f f 1"]), Limits { reserve: u64::MAX, ..base }, "not enough space"),
    ];
    for (name, bytes, limits, want) in cases {
        let error = unpack_bytes(&dir, name, &bytes, &[], &limits).unwrap_err();
        assert!(error.chain().contains(want), "{name}: {}", error.chain());
    }
}

/// One entry, and what becomes of it: a part of the error, or nothing.
#[test]
fn entries_that_no_tool_makes() {
    let dir = Dir::new("absurd");
    let entry = |path: &[u8], kind, link: &[u8]| Entry {
        path: path.into(),
        link: link.into(),
        kind,
        mode: 0o7777,
        uid: u32::MAX - 1,
        gid: u32::MAX - 1,
        size: 0,
        mtime: (i64::MAX, 0),
        device: (u32::MAX, u32::MAX),
        xattrs: Vec::new(),
    };
    let long = vec![b'x'; 255];
    let with = |xattrs: &[(&[u8], &[u8])]| Entry {
        xattrs: xattrs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect(),
        ..entry(b"x", Kind::File, b"")
    };
    let cases: Vec<(&str, Entry, &str)> = vec![
        ("not UTF-8", entry(b"d\xff\xfe/\x80\n\x1b[2J", Kind::File, b""), ""),
        ("the longest name", entry(&long, Kind::File, b""), ""),
        ("the longest path", entry(&[&long[..], b"/"].concat().repeat(15), Kind::Dir, b""), ""),
        ("a longer one", entry(&[&long[..], b"/"].concat().repeat(17), Kind::Dir, b""), "path is too long"),
        ("a link as long as may be", entry(b"l", Kind::Symlink, &[b'l'; 4095]), ""),
        ("a longer link", entry(b"l", Kind::Symlink, &[b'l'; 4096]), "empty or too long"),
        ("no name", entry(b"", Kind::File, b""), "replaces"),
        ("only dots and slashes", entry(b"/././//", Kind::Symlink, b"x"), "replaces"),
        ("the whiteout of itself", entry(b".wh..", Kind::File, b""), "removes no name"),
        ("the whiteout of the parent", entry(b".wh...", Kind::File, b""), "removes no name"),
        ("a whiteout with a way", entry(b"a/.wh.b/c", Kind::File, b""), ""),
        ("an opaque root as a directory", entry(b".wh..wh..opq", Kind::Dir, b""), ""),
        ("a whiteout that is a device", entry(b".wh.x", Kind::BlockDevice, b""), ""),
        ("a hard link to itself", entry(b"h", Kind::HardLink, b"h"), "does not exist"),
        ("a hard link to the root", entry(b"h", Kind::HardLink, b"/"), "to the layer's root"),
        (
            "attributes that overlayfs reads",
            with(&[(b"trusted.overlay.metacopy", b""), (b"user.overlay.redirect", b"/")]),
            "",
        ),
        ("an attribute without a name", with(&[(b"user.", b"")]), "Invalid argument"),
        ("an attribute of no class", with(&[(b"evil.x", b"1"), (b"security.selinux", b"x")]), ""),
        ("nobody's", Entry { gid: u32::MAX, ..entry(b"x", Kind::File, b"") }, "id is too large"),
        ("a wrong capability", with(&[(b"security.capability", b"nonsense")]), "Invalid argument"),
    ];
    for (n, (what, entry, want)) in cases.into_iter().enumerate() {
        let mut writer = Writer::new(Vec::new());
        writer.append(&entry, &b""[..]).unwrap();
        let bytes = writer.finish().unwrap();
        match unpack_bytes(&dir, &format!("e{n}"), &bytes, &[], &Limits { reserve: 0, ..Limits::default() }) {
            Ok((at, _)) => {
                assert_eq!(want, "", "{what}");
                let mut value = [0; 64];
                for name in ["trusted.overlay.metacopy", "user.overlay.redirect", "security.selinux"] {
                    assert!(rustix::fs::lgetxattr(at.join("x"), name, &mut value).is_err(), "{what}");
                }
            }
            Err(error) => assert!(!want.is_empty() && error.chain().contains(want), "{what}: {}", error.chain()),
        }
    }
}

/// Many names, and few bytes that stand for many.
#[test]
fn large_in_one_way_only() {
    // In memory: a disk's search for free inodes is not what is tried.
    let dir = Dir(PathBuf::from(format!("/dev/shm/sampan-unpack-{}-large", std::process::id())));
    fs::create_dir_all(&dir.0).unwrap();
    let limits = Limits { reserve: 0, ..Limits::default() };
    let many: Vec<String> = (0..20_000).map(|n| format!("f d/{n} ")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (_, survey) = unpack_bytes(&dir, "many", &layer(&many), &[], &limits).unwrap();
    assert_eq!(survey.inodes, 20_002);
    // GNU's sparse format: a file of so many bytes, of which none is stored.
    let sparse = |real: u64| {
        let mut bytes = layer(&["f sparse "]);
        let at = bytes.len() - 1024 - 512;
        bytes[at + 156] = b'S';
        bytes[at + 483..at + 495].copy_from_slice(format!("{real:011o} ").as_bytes());
        bytes[at + 148..at + 156].fill(b' ');
        let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
        bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    };
    let error = unpack_bytes(&dir, "beyond", &sparse(8_000_000_000), &[], &Limits { bytes: 1 << 32, ..limits.clone() });
    assert!(error.unwrap_err().chain().contains("4294967296 bytes"));
    let (at, survey) = unpack_bytes(&dir, "sparse", &sparse(2 << 30), &[], &limits).unwrap();
    assert_eq!(fs::metadata(at.join("sparse")).unwrap().len(), 2 << 30);
    assert!(survey.disk_bytes < 1 << 20, "{survey:?}");
    // A window of two gigabytes, wanted for a frame of a few bytes.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8];
    frame.extend([1, 0, 0]);
    let error = unpack_bytes(&dir, "window", &frame, &[], &limits).unwrap_err();
    assert!(error.chain().contains("too much memory"), "{}", error.chain());
}

#[test]
fn damage_in_the_stream_is_noticed() {
    use std::io::Write as _;
    let dir = Dir::new("damage");
    let tar = layer(&["f a 1", "f b 2"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::stream::encode_all(tar.as_slice(), 1).unwrap();
    let diff = Digest::of(&tar);
    let cases: Vec<(&str, Vec<u8>, &Digest, &str)> = vec![
        ("gzip", gzip.clone(), &diff, ""),
        ("zstd", zstd.clone(), &diff, ""),
        ("plain", tar.clone(), &diff, ""),
        (
            "two-members",
            [gzip.clone(), {
                let e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                e.finish().unwrap()
            }]
            .concat(),
            &diff,
            "",
        ),
        ("cut-gzip", gzip[..gzip.len() / 2].to_vec(), &diff, ""),
        ("cut-zstd", zstd[..zstd.len() / 2].to_vec(), &diff, ""),
        ("cut-tar", tar[..700].to_vec(), &diff, ""),
        ("not-a-tar", vec![b'x'; 2000], &diff, "checksum"),
        ("empty", Vec::new(), &diff, "digest is sha256:e3b0c442"),
    ];
    for (name, bytes, diff, want) in cases {
        let (blob, into) = (dir.0.join(format!("{name}.blob")), dir.0.join(name));
        fs::write(&blob, bytes).unwrap();
        fs::create_dir(&into).unwrap();
        let result = unpack(&blob, diff, &into, &Limits { reserve: 0, ..Limits::default() }, &AtomicBool::new(false));
        let good = matches!(name, "gzip" | "zstd" | "plain" | "two-members");
        match result {
            Ok(_) => assert!(good, "{name} was taken"),
            Err(error) => assert!(!good && error.chain().contains(want), "{name}: {}", error.chain()),
        }
    }
    let other = Digest::of(b"other");
    let error =
        unpack(&dir.0.join("gzip.blob"), &other, &dir.0.join("gzip"), &Limits::default(), &AtomicBool::new(false))
            .err()
            .unwrap();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[test]
fn the_survey_sees_changes() {
    let dir = Dir::new("survey");
    let bytes = layer(&["f a 1", "d d", "l s t"]);
    let (at, first) = unpack_bytes(&dir, "l", &bytes, &[], &Limits::default()).unwrap();
    assert_eq!(survey(&at).unwrap(), first);
    let (_, again) = unpack_bytes(&dir, "m", &bytes, &[], &Limits::default()).unwrap();
    assert_eq!(again.fingerprint, first.fingerprint, "the same layer is the same tree");
    let changes: [&dyn Fn(); 3] =
        [&|| fs::write(at.join("a"), "").unwrap(), &|| fs::remove_file(at.join("a")).unwrap(), &|| {
            fs::write(at.join("d/new"), "").unwrap()
        }];
    for change in changes {
        let before = survey(&at).unwrap().fingerprint;
        change();
        assert_ne!(survey(&at).unwrap().fingerprint, before);
    }
}

/// Headers changed at random (with right checksums): whatever comes of it stays in the layer, and nothing panics.
#[test]
fn mutated_archives_stay_inside() {
    let dir = Dir::new("mutants");
    let victim = dir.0.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "safe").unwrap();
    let out = victim.display().to_string();
    let seed = layer(&[
        "d a",
        "f a/b content",
        &format!("l a/up {out}"),
        "f a/up/file evil",
        "h a/c a/b",
        "f .wh.gone ",
        "f a/.wh..wh..opq ",
        "l door ../../victim",
        "f door/file evil",
        "d door",
        "c null 1",
        "h door/file a/up/file",
        &format!("f {}/x 1", "deep/".repeat(30)),
    ]);
    let headers: Vec<usize> = (0..seed.len()).step_by(512).filter(|at| &seed[at + 257..at + 262] == b"ustar").collect();
    let alphabet = b"./wh.\0door00123457 xgLKS=\xff";
    for run in 0..120u64 {
        let mut state = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut bytes = seed.clone();
        for _ in 0..1 + next(4) {
            let at = headers[next(headers.len())];
            // Name, mode, size, type, link or prefix.
            let (from, length) = [(0, 12), (100, 8), (124, 12), (156, 1), (157, 20), (345, 10)][next(6)];
            bytes[at + from + next(length)] = alphabet[next(alphabet.len())];
            bytes[at + 148..at + 156].fill(b' ');
            let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
            bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let name = format!("m{run}");
        let _ = unpack_bytes(&dir, &name, &bytes, &[], &Limits { reserve: 0, bytes: 1 << 20, ..Limits::default() });
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "safe", "seed {run}");
        assert_eq!((fs::read_dir(&victim).unwrap().count(), opaque(&victim)), (1, false), "seed {run}");
        assert_eq!(fs::metadata(victim.join("file")).unwrap().nlink(), 1, "seed {run}");
        let _ = fs::remove_dir_all(dir.0.join(&name));
    }
}
