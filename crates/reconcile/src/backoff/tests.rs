use super::*;

#[test]
fn doubles_up_to_the_ceiling_and_forgets() {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(30));
    let delays: Vec<_> = (0..5).map(|_| backoff.next("a").as_millis()).collect();
    assert_eq!(delays, [5, 10, 20, 30, 30]);
    backoff.forget(&"a");
    assert_eq!(backoff.next("a").as_millis(), 5);
}
