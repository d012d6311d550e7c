use super::*;

#[test]
fn mounts_are_found_below_and_taken_in_reverse() {
    let table = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
                 2 1 0:1 / /data rw - tmpfs tmpfs rw\n\
                 3 2 0:2 / /data/a rw - tmpfs tmpfs rw\n\
                 4 2 0:3 / /data/a/b\\040c rw - tmpfs tmpfs rw\n\
                 5 1 0:4 / /database rw - tmpfs tmpfs rw\n";
    let found = mounts_below(table, &[Path::new("/data")]);
    assert_eq!(found, [PathBuf::from("/data/a/b c"), PathBuf::from("/data/a")]);
}
