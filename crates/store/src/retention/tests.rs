use std::time::Duration;

use super::Retention;

/// (seconds, newest revision, what to compact to)
fn check(window_s: u64, limit: u64, steps: &[(u64, u64, Option<u64>)]) {
    let mut retention = Retention::new(Duration::from_secs(window_s), limit);
    for &(at, newest, expected) in steps {
        assert_eq!(retention.observe(Duration::from_secs(at), newest), expected, "at {at} s with {newest}");
    }
}

#[test]
fn by_age() {
    check(
        300,
        1_000_000,
        &[
            (0, 10, None),
            (60, 20, None),
            (299, 30, None),
            (300, 40, Some(10)),
            // Nothing was written: what is compacted already may be said again, but never less.
            (320, 40, None),
            (360, 40, Some(20)),
            (10_000, 50, Some(40)),
        ],
    );
}

#[test]
fn by_number() {
    check(
        300,
        100,
        &[(0, 50, None), (1, 101, Some(1)), (2, 500, Some(400)), (300, 500, Some(400)), (301, 700, Some(600))],
    );
}
