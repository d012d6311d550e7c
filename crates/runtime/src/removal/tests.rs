use super::*;

#[test]
fn deeper_than_any_stack() {
    let path = Path::new("/dev/shm").join(format!("sampan-removal-{}", std::process::id()));
    std::fs::create_dir_all(path.join("deep-1/x")).unwrap();
    std::fs::write(path.join("deep-2"), "").unwrap();
    let mut at = rustix::fs::openat(CWD, &path, OPEN, Mode::empty()).unwrap();
    for n in 0..30_000 {
        rustix::fs::mkdirat(&at, "d", Mode::from(0o755)).unwrap();
        if n % 1000 == 0 {
            rustix::fs::symlinkat("/", &at, "link").unwrap();
        }
        at = rustix::fs::openat(&at, "d", OPEN, Mode::empty()).unwrap();
    }
    drop(at);
    remove_tree(&path).unwrap();
    assert!(!path.exists());
    remove_tree(&path).unwrap();
}
