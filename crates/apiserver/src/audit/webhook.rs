//! `--audit-webhook-config-file`: events in batches to a server outside.

use std::sync::Arc;
use std::time::Duration;

use schema::{Object, Value};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use super::backend::{Job, Lost, Waiting};
use crate::Server;
use crate::outside::{Endpoint, Failure};

pub struct Webhook {
    pub endpoint: Endpoint,
    pub batch_size_max: usize,
    /// How long a batch waits for more.
    pub batch_wait: Duration,
    /// Batches a second, and at once.
    pub throttle: Option<(f64, f64)>,
    /// Before the second attempt; each further pause is half as long again.
    pub initial_backoff: Duration,
}

const ATTEMPTS: u32 = 5;
const ANSWER: Duration = Duration::from_secs(30);
/// Batches that wait for an answer; what comes then waits in the buffer.
const IN_FLIGHT_MAX: usize = 16;

impl Webhook {
    /// Sends what comes until nobody can send any more.
    pub(super) async fn run(
        self,
        server: Server,
        mut jobs: mpsc::Receiver<Job>,
        waiting: Arc<Waiting>,
        lost: Arc<Lost>,
    ) {
        let mut hurry = waiting.hurry.subscribe();
        let webhook = Arc::new(self);
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let (mut tokens, mut counted) = (webhook.throttle.map_or(0.0, |(_, burst)| burst), Instant::now());
        while let Some(first) = jobs.recv().await {
            let mut batch = vec![first];
            let until = Instant::now() + webhook.batch_wait;
            while batch.len() < webhook.batch_size_max {
                let more = tokio::select! {
                    biased;
                    more = timeout_at(until, jobs.recv()) => more.ok().flatten(),
                    _ = hurry.wait_for(|is| *is) => None,
                };
                let Some(job) = more else { break };
                batch.push(job);
            }
            if let Some((rate, burst)) = webhook.throttle {
                tokens = (tokens + counted.elapsed().as_secs_f64() * rate).min(burst);
                counted = Instant::now();
                if tokens < 1.0 {
                    let pause = Duration::try_from_secs_f64((1.0 - tokens) / rate);
                    sleep(pause.unwrap_or(Duration::MAX)).await;
                }
                tokens -= 1.0;
            }
            let Ok(flight) = in_flight.clone().acquire_owned().await else { return };
            let (webhook, server, lost) = (webhook.clone(), server.clone(), lost.clone());
            tokio::spawn(async move {
                let sent = webhook.send(&server, &batch).await;
                if let Err(failure) = &sent {
                    lost.add(batch.len() as u64, failure, true);
                }
                batch.into_iter().for_each(|job| job.done(sent.is_ok()));
                drop(flight);
            });
        }
    }

    async fn send(&self, server: &Server, batch: &[Job]) -> Result<(), Failure> {
        let list = Value::object([
            ("kind", "EventList".into()),
            ("apiVersion", "audit.k8s.io/v1".into()),
            ("metadata", Value::Object(Object::new())),
            ("items", Value::List(batch.iter().map(|job| job.event.value()).collect())),
        ]);
        let mut pause = self.initial_backoff;
        for _ in 1..ATTEMPTS {
            // Whatever the reason, the next attempt may have more luck.
            if self.endpoint.tell(server, &list, ANSWER).await.is_ok() {
                return Ok(());
            }
            sleep(pause).await;
            pause = pause * 3 / 2;
        }
        self.endpoint.tell(server, &list, ANSWER).await
    }
}
