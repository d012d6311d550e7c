//! Files of a log: their mode, and what becomes of full ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use super::{Log, Rotation, prune};

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123)
}

#[test]
fn full_files_are_put_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("new/audit.log");
    let name = path.to_str().expect("a path");
    let rotation = Rotation { bytes_max: 10, days_max: 1, backups_max: 2, compress: true };
    let mut log = Log::open(name, false, rotation.clone(), noon).expect("a log");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    log.write(b"12345\n").expect("written");
    assert!(log.write(b"longer than a file\n").is_err());
    log.write(b"67890\n").expect("written");
    assert_eq!(fs::read(&path).expect("a file"), b"67890\n");
    let aside = path.with_file_name("audit-2027-01-15T08-00-00.123.log.gz");
    for _ in 0..500 {
        if aside.exists() && !aside.with_extension("").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(aside.exists() && !aside.with_extension("").exists());

    for stamp in ["2027-01-13T00-00-00.000", "2027-01-15T01-00-00.000", "2027-01-15T02-00-00.000"] {
        fs::write(path.with_file_name(format!("audit-{stamp}.log")), "").expect("a file");
    }
    fs::write(path.with_file_name("audit-other.log"), "").expect("a file");
    let left = |rotation: &Rotation, oldest| {
        prune(&path, rotation, oldest);
        fs::read_dir(path.parent().expect("a parent")).expect("a directory").count()
    };
    assert_eq!(left(&Rotation::default(), noon().checked_sub(Duration::from_secs(86_400))), 5);
    assert_eq!(left(&rotation, None), 4);
}
