use super::*;

#[test]
fn a_key_is_looked_at_again_once() {
    let (start, key) = (Instant::now(), Key::new("n", "a"));
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut queue = Queue::default();
    for asked in [50, 20, 60] {
        queue.push_at(at(asked), key.clone());
    }
    assert_eq!(queue.due(at(59)), Some(at(60)));
    assert_eq!(queue.take(), None);
    assert_eq!(queue.due(at(60)), None);
    assert_eq!((queue.take(), queue.take()), (Some(key.clone()), None));
    queue.done(&key);
    assert!(queue.later.is_empty() && queue.times.is_empty());
}
