use bytes::Bytes;

use schema::api::core::v1::Event;

use super::*;
use crate::io::{Body, BoxError, Transport};
use crate::world::Objects;

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

#[test]
fn an_answer_that_comes_after_the_news_of_the_end_is_no_news() {
    let object = |revision: &str| {
        let mut object = Event::default();
        object.metadata.name = "a".into();
        object.metadata.uid = "u".into();
        object.metadata.resource_version = revision.into();
        object
    };
    let (mut objects, key) = (Objects::default(), Key::new("", "a"));
    assert!(objects.put(object("1")).is_some());
    assert!(objects.remove(&key, "u", 2).is_some());
    assert!(objects.put(object("1")).is_none() && objects.put(object("3")).is_none() && objects.is_empty());
    let mut another = object("4");
    another.metadata.uid = "v".into();
    assert!(objects.put(another).is_some());
    // A list without it tells of its end as well.
    assert_eq!(objects.replace(Vec::new(), 5).len(), 1);
    let mut another = object("6");
    another.metadata.uid = "v".into();
    assert!(objects.put(another).is_none());
}

/// Nobody answers.
struct Silence;

impl Transport for Silence {
    fn call(&self, _: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Body>, BoxError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_without_actions_is_looked_at_again_in_time() {
    let (sender, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let row = Row::new("idle", "somebody", 1, Vec::new(), move |_, key, _| {
        let _ = sender.send(key.clone());
        Plan { requeue_after: Some(Duration::from_secs(60)), ..Plan::nothing() }
    });
    let client = Client::new(Arc::new(Silence), Identity("somebody".into()));
    let runner = Runner::new(client, vec![row], || (0, 0));
    let key = Key::new("n", "a");
    runner.shared.rows[0].lock().push(key.clone());
    let running = tokio::spawn(runner.run());
    for _ in 0..3 {
        let look = tokio::time::timeout(Duration::from_secs(3600), looks.recv()).await;
        assert_eq!(look, Ok(Some(key.clone())));
    }
    running.abort();
}
