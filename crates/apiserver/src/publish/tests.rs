//! The order in which revisions become visible.

use super::*;

#[test]
fn revisions_that_nothing_has_hold_nothing_up() {
    let (publisher, registry) = (Publisher::new(5), Registry::default());
    let change = |revision| (revision, Pending { key: "/registry/a".into(), new: None });
    let expect = |changes: &[Revision], complete, applied| {
        publisher.advance(&registry, changes.iter().map(|at| change(*at)), complete);
        assert_eq!(publisher.applied(), applied, "{changes:?} up to {complete}");
    };
    expect(&[6], 0, 6);
    // 7 may still come.
    expect(&[8], 0, 6);
    expect(&[9], 0, 6);
    // It does not.
    expect(&[8, 9], 9, 9);
    expect(&[12], 0, 9);
    expect(&[11, 12], 11, 12);
    expect(&[], 15, 15);
    expect(&[3], 4, 15);
}
