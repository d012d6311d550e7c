//! Somebody sets the machine's clock, a day forth or back: what waits goes on waiting as long as it would have.

use super::*;
use crate::memory::SECOND;
use crate::objects::lock;
use crate::ports::PullError;

const DAY: i64 = 86_400 * SECOND;

#[tokio::test(start_paused = true)]
async fn waits_are_none_of_the_clocks() {
    for (name, by) in [("forth", DAY), ("back", -DAY)] {
        let world = World::new(&format!("clock-{name}"));
        // One waits to be restarted, one for its image.
        world.api.put(&pod("crashes", vec![container("app")]));
        world.until("crashes", "ready", is_ready).await;
        for round in 0..2 {
            world.machine.exit("uid-crashes", "app", 1);
            let again = move |pod: &Pod| pod.status.container_statuses[0].restart_count > round;
            if round == 0 {
                world.until("crashes", "restarted", again).await;
                world.settle().await;
            }
        }
        lock(&world.machine.state).broken.insert("late:1".into(), PullError::Failed("not yet".into()));
        world.api.put(&pod("pulls", vec![Container { image: "late:1".into(), ..container("app") }]));
        let waits = |pod: &Pod| {
            let state = pod.status.container_statuses.first().map(|status| status.state.clone());
            state.and_then(|state| state.waiting).is_some_and(|of| of.reason == "ImagePullBackOff")
        };
        world.until("pulls", "back-off", waits).await;
        lock(&world.machine.state).broken.clear();
        let before = tokio::time::Instant::now();
        world.machine.jump(by);
        world.until("crashes", "restarted", is_ready).await;
        world.until("pulls", "ready", is_ready).await;
        assert!(before.elapsed() < Duration::from_secs(30), "{name}: {:?}", before.elapsed());
        // Events are told as before, and the node reports.
        world.machine.exit("uid-pulls", "app", 1);
        world
            .until("pulls", "restarted", |pod| pod.status.container_statuses[0].restart_count == 1 && is_ready(pod))
            .await;
        world.settle().await;
        let started = world.api.all::<Event>().into_iter().filter(|event| event.reason == "Started");
        assert_eq!(started.map(|event| event.count).sum::<i32>(), 5, "{name}");
    }
}
