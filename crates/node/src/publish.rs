//! Writes one pod's status to the API: at once, the newest only, and never over a newer pod of the same name.

use std::sync::Arc;

use reconcile::{DeleteOptions, io::Client};
use schema::api::core::v1::{Pod, PodStatus};
use tokio::{sync::watch, time::Duration};

use crate::{objects::Wake, static_pods::is_mirror, status};

/// What stands in the API is replaced by the newest of `statuses` whenever it changes. Ends with its sender, or when the
/// pod is gone; `written` says what the API has by now.
pub async fn publish(
    client: Client,
    mut pods: watch::Receiver<Arc<Pod>>,
    mut statuses: watch::Receiver<Option<PodStatus>>,
    written: watch::Sender<Option<PodStatus>>,
    wake: Arc<Wake>,
) {
    let mut known: Arc<Pod> = pods.borrow().clone();
    let mut retry = Duration::from_millis(100);
    loop {
        let mut gone = false;
        let wanted = statuses.borrow_and_update().clone();
        if let Some(wanted) = wanted {
            let newest = pods.borrow_and_update().clone();
            if version(&newest) > version(&known) {
                known = newest;
            }
            let status = status::merged(&known, &wanted);
            // A static pod may have no mirror yet.
            let there = !known.metadata.resource_version.is_empty();
            if there && status != known.status {
                let mut pod = (*known).clone();
                pod.status = status;
                match client.update_status(&pod).await {
                    Ok(stored) => {
                        known = Arc::new(stored);
                        retry = Duration::from_millis(100);
                    }
                    Err(error) if error.code() == 409 => {
                        match client.get::<Pod>(&pod.metadata.namespace, &pod.metadata.name).await {
                            Ok(stored) if stored.metadata.uid == pod.metadata.uid => {
                                known = Arc::new(stored);
                                continue;
                            }
                            Ok(_) => gone = true,
                            Err(error) if error.is_not_found() => gone = true,
                            Err(_) => tokio::time::sleep(retry).await,
                        }
                    }
                    Err(error) if error.is_not_found() => gone = true,
                    Err(error) => {
                        tracing::debug!(pod = %pod.metadata.name, %error, "a status was not written");
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(Duration::from_secs(10));
                        continue;
                    }
                }
            }
            if gone {
                if !is_mirror(&known) {
                    return;
                }
                // Another mirror will come.
                known = Arc::default();
            }
            written.send_replace(Some(wanted));
            wake.wake();
        }
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return },
            changed = pods.changed() => if changed.is_err() { return },
        }
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.parse().unwrap_or(0)
}

/// Deletes a pod whose containers are all gone; true if the API has it no more.
pub async fn finish(client: &Client, pod: &Pod) -> bool {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    match client.delete(pod, &options).await {
        Ok(()) => true,
        Err(error) if error.is_stale() => true,
        Err(error) => {
            tracing::debug!(pod = %pod.metadata.name, %error, "a pod was not deleted");
            false
        }
    }
}
