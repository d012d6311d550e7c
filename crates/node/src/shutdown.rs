//! The machine goes down: pods end in the order of their priorities, each in the time that its phase has.

use std::time::Duration;

use tokio::time::Instant;

use crate::kubelet::Kubelet;
use crate::memory::End;
use crate::objects::lock;
use crate::plan::{is_running, is_terminal};
use crate::pod::is_static;

/// How long the last pods have to be gone once they are killed, and the API to know: the next boot starts those again whose
/// end it does not.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Pods by the phases of a shutdown, each of which takes so long at most: a pod belongs to the last phase whose priority
/// it reaches, or else to the first one.
pub fn groups(phases: &[(i32, Duration)], pods: &[(String, i32)]) -> Vec<(Duration, Vec<String>)> {
    let mut groups: Vec<(Duration, Vec<String>)> = phases.iter().map(|(_, time)| (*time, Vec::new())).collect();
    for (uid, priority) in pods {
        let at = phases.iter().rposition(|(least, _)| least <= priority).unwrap_or(0);
        if let Some((_, uids)) = groups.get_mut(at) {
            uids.push(uid.clone());
        }
    }
    groups
}

/// Follows what the machine announces; never ends.
pub async fn follow(kubelet: &Kubelet) {
    let phases = &kubelet.shared.config.shutdown;
    let whole: Duration = phases.iter().map(|(_, time)| *time).sum();
    let announced = if whole.is_zero() { None } else { kubelet.shared.ports.host.shutdowns(whole) };
    let Some((mut down, done)) = announced else { return std::future::pending().await };
    loop {
        if down.wait_for(|down| *down).await.is_err() {
            return std::future::pending().await;
        }
        tracing::info!("the machine shuts down: pods end");
        lock(&kubelet.health).shutting_down = true;
        kubelet.shared.health_changed.notify_one();
        tokio::select! {
            () = end_all(kubelet, phases) => {}
            // Somebody has called it off.
            _ = down.wait_for(|down| !*down) => {}
        }
        done();
        if down.wait_for(|down| !*down).await.is_err() {
            return std::future::pending().await;
        }
        lock(&kubelet.health).shutting_down = false;
        kubelet.shared.health_changed.notify_one();
    }
}

async fn end_all(kubelet: &Kubelet, phases: &[(i32, Duration)]) {
    let views = kubelet.views();
    let living = views.iter().filter(|view| !is_terminal(&view.status.phase));
    let pods: Vec<(String, i32)> =
        living.map(|view| (view.desired.uid().to_owned(), view.desired.pod.spec.priority.unwrap_or(0))).collect();
    for (time, uids) in groups(phases, &pods) {
        let mine = |uid: &str| uids.iter().any(|own| own == uid);
        for view in views.iter().filter(|view| mine(view.desired.uid())) {
            let most = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            let grace = view.desired.pod.spec.termination_grace_period_seconds.unwrap_or(30).min(most);
            let disrupted = Some(MESSAGE.to_owned());
            let end = End { grace_seconds: Some(grace), disrupted, ..End::new("Terminated", MESSAGE.into()) };
            kubelet.end(view.desired.uid(), "Terminated", end);
        }
        let until = Instant::now() + time;
        let runs = || {
            let own = kubelet.views().into_iter().filter(|view| mine(view.desired.uid()));
            own.into_iter()
                .any(|view| view.observed.sandbox.is_some() || view.observed.containers.iter().any(is_running))
        };
        wait_while(runs, until).await;
    }
    let unknown = || {
        let views = kubelet.views();
        views.iter().any(|view| !is_terminal(&view.desired.pod.status.phase) && !is_static(&view.desired.pod))
    };
    wait_while(unknown, Instant::now() + TOLD_WITHIN).await;
}

async fn wait_while(holds: impl Fn() -> bool, until: Instant) {
    while holds() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
