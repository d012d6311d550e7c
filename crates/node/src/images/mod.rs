//! Getting a container's image: policies, pull secrets, who may use what is here, back-off, one pull of a name at a time.

pub mod keyring;
pub mod pulling;
mod records;
pub mod verify;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, sleep};

use crate::config::{Config, Ports};
use crate::events::Recorder;
use crate::memory::{Crash, Failure, PULL_BACKOFF_MAX, SECOND};
use crate::metrics::{self, Count, Metrics};
use crate::objects::{Snapshot, lock};
use crate::plan::go_duration;
use crate::pod::Desired;
use crate::ports::{Clock, Credentials, Image, Images, Nanos, Providers, PullError, Pulled};
use keyring::Login;
use pulling::{Room, Watched};
use records::{Intent, Records};
use serde_json::json;
use verify::{Access, Policy, Verdict};

use crate::volumes::Volumes;

/// How soon after a failed pull its reason turns into the back-off's.
const SHOWN: Nanos = 2 * SECOND;

/// A pull that takes longer says how far it is, and then every time it has taken twice as long, or this much.
const PROGRESS: Duration = Duration::from_secs(30);
const PROGRESS_MAX: Duration = Duration::from_secs(300);

/// The back-off, when the last pull failed, and what it said.
type Failures = (Crash, Nanos, String);

pub struct Puller {
    images: Arc<dyn Images>,
    providers: Option<Arc<dyn Providers>>,
    clock: Arc<dyn Clock>,
    volumes: Arc<Volumes>,
    events: Recorder,
    metrics: Arc<Metrics>,
    policy: Policy,
    records: Arc<Records>,
    room: mpsc::Sender<Room>,
    /// Who wants room for a pull; the node's upkeep makes it.
    pub rooms: AsyncMutex<mpsc::Receiver<Room>>,
    /// By pod and image: failures, and what the last one said.
    failures: Mutex<HashMap<(String, String), Failures>>,
    /// A pull of a name waits for the one before it, which mostly leaves nothing to fetch.
    pulls: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Puller {
    pub fn new(config: &Config, ports: &Ports, volumes: Arc<Volumes>, events: Recorder, metrics: Arc<Metrics>) -> Self {
        let (room, rooms) = mpsc::channel(8);
        Self {
            room,
            rooms: AsyncMutex::new(rooms),
            images: ports.images.clone(),
            providers: ports.providers.clone(),
            clock: ports.clock.clone(),
            volumes,
            events,
            metrics,
            policy: config.image_verification.clone(),
            records: Arc::new(Records::new(&config.root_dir)),
            failures: Mutex::default(),
            pulls: Mutex::default(),
        }
    }

    pub fn forget(&self, uid: &str) {
        lock(&self.failures).retain(|(of, _), _| of != uid);
    }

    /// The image of a container (which is at `path` in the pod) or of a volume.
    pub async fn ensure(
        &self,
        desired: &Desired,
        name: &str,
        policy: &str,
        path: &str,
        objects: &Snapshot,
    ) -> Result<Image, Failure> {
        let pod = &*desired.pod;
        let mut logins = keyring::logins(desired, objects, &*self.images, name);
        let (mut present, mut required) = ("unknown", "true");
        let mut found = None;
        if policy != "Always" {
            match self.images.find(name).await {
                Ok(Some(image)) => {
                    present = "true";
                    if !self.must_pull(desired, name, &image, &mut logins).await {
                        required = "false";
                        found = Some(image);
                    }
                }
                Ok(None) => {
                    present = "false";
                    required = if policy == "Never" { "unknown" } else { required };
                }
                Err(error) => {
                    self.count(policy, present, "unknown");
                    let message = format!("Failed to inspect image \"{name}\": {error}");
                    self.events.note(pod, path, true, "InspectFailed", message.clone());
                    self.events.note(pod, path, true, "Failed", "Error: ImageInspectError");
                    return Err(self.failure("ImageInspectError", message, 10 * SECOND));
                }
            }
        }
        self.count(policy, present, required);
        if let Some(image) = found {
            let message =
                format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
            self.events.note(pod, path, false, "Pulled", message);
            return Ok(image);
        }
        // Who may not have the image is not told that it is here.
        if policy == "Never" {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            self.events.note(pod, path, true, "ErrImageNeverPull", message.clone());
            self.events.note(pod, path, true, "Failed", "Error: ErrImageNeverPull");
            return Err(self.failure("ErrImageNeverPull", message, 60 * SECOND));
        }
        let key = (desired.uid().to_owned(), name.to_owned());
        let known = lock(&self.failures).get(&key).cloned();
        if let Some((crash, failed_at, said)) = known
            && let Some(until) =
                crash.until(failed_at).filter(|until| *until > self.clock.now() && failed_at <= self.clock.now())
        {
            self.events.note(pod, path, false, "BackOff", format!("Back-off pulling image \"{name}\""));
            self.events.note(pod, path, true, "Failed", "Error: ImagePullBackOff");
            let message = format!("Back-off pulling image \"{name}\": {said}");
            return Err(Failure { reason: "ImagePullBackOff".into(), message, retry_at: until });
        }
        if logins.iter().all(|login| matches!(login.source, Access::Secret(_))) {
            logins.extend(self.provided(desired, name).await);
        }
        let pulled = self.pull(desired, name, path, key, &logins).await;
        let names = pod.spec.image_pull_secrets.iter().map(|secret| &*secret.name);
        let missing: Vec<&str> =
            names.filter(|name| !name.is_empty() && !objects.secrets.contains_key(*name)).collect();
        if !missing.is_empty() && pulled.as_ref().is_err_and(|failure| failure.reason == "ErrImagePull") {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.events.note(pod, "", true, "FailedToRetrieveImagePullSecret", message);
        }
        pulled
    }

    fn count(&self, policy: &str, present: &str, required: &str) {
        let policy = policy.to_lowercase();
        let labels = format!("present_locally=\"{present}\",pull_policy=\"{policy}\",pull_required=\"{required}\"");
        self.metrics.count(Count::EnsureImage, labels);
    }

    /// Logins of the node's plugins, some of which know the pod's service account.
    async fn provided(&self, desired: &Desired, name: &str) -> Vec<Login> {
        let Some(providers) = &self.providers else { return Vec::new() };
        let audiences = providers.audiences(name);
        let mut account = None;
        if !audiences.is_empty() && !desired.pod.spec.service_account_name.is_empty() {
            account = Some(self.volumes.account(desired, audiences, self.clock.now()).await);
        }
        let whose = account.as_ref().map_or(Access::NodePods, |of| {
            Access::Account(json!({"uid": of.uid, "namespace": of.namespace, "name": of.name}))
        });
        let all = providers.logins(name, account.as_ref()).await.into_iter().map(|(credentials, own)| Login {
            credentials,
            source: if own { whose.clone() } else { Access::NodePods },
        });
        keyring::fitting(all, &*self.images, name)
    }

    /// Whether the registry has to say that a pod may have an image that is here. Plugins are asked where secrets do not do.
    async fn must_pull(&self, desired: &Desired, name: &str, image: &Image, logins: &mut Vec<Login>) -> bool {
        let (repository, known) = (verify::repository(name), self.records.known(name, &image.id));
        let pulled = known.as_ref().map_or(true, |(pulled, _)| *pulled);
        let verdict = match known {
            _ if !self.policy.demands(repository, pulled) => Verdict::PolicyAllowed,
            Err(error) => {
                tracing::warn!(image = name, %error, "who may have an image cannot be read");
                Verdict::Error
            }
            Ok((_, Some(record))) => match verify::check(&record, repository, logins) {
                Verdict::MustAuthenticate => {
                    logins.extend(self.provided(desired, name).await);
                    verify::check(&record, repository, logins)
                }
                verdict => verdict,
            },
            Ok((_, None)) => Verdict::MustAuthenticate,
        };
        self.metrics.count(Count::MustPullChecks, format!("result=\"{}\"", verdict.name()));
        let must_pull = verdict.must_pull();
        if let Verdict::Found(Some(secret)) = verdict {
            let (records, name, id, now) = (self.records.clone(), name.to_owned(), image.id.clone(), self.now());
            let note = move || records.note(&name, &id, &Access::Secret(secret), &now);
            let _ = tokio::task::spawn_blocking(note).await;
        }
        must_pull
    }

    fn now(&self) -> String {
        schema::time::format(self.clock.now().div_euclid(SECOND))
    }

    /// Finds out what became of pulls that were cut off, and forgets what was known of images that are gone.
    pub async fn tidy(&self) {
        let begun = self.records.begun();
        let Ok(images) = self.images.list().await else { return };
        let ids: Vec<String> = images.into_iter().map(|image| image.id).collect();
        let records = self.records.clone();
        let left = tokio::task::spawn_blocking(move || {
            records.prune(&ids, begun);
            records.left()
        });
        for name in left.await.unwrap_or_default() {
            let Ok(found) = self.images.find(&name).await else { continue };
            let (records, now) = (self.records.clone(), self.now());
            let settle = move || records.settle(&name, found.as_ref().map(|image| &*image.id), &now);
            let _ = tokio::task::spawn_blocking(settle).await;
        }
    }

    /// How many records there are, for the metrics.
    pub fn metrics(&self, text: &mut String) {
        let (intents, records) = self.records.counts();
        let help = "Number of ImagePullIntents stored on disk.";
        metrics::family(text, "kubelet_imagemanager_ondisk_pullintents", "gauge", help, [("", intents)]);
        let help = "Number of ImagePulledRecords stored on disk.";
        metrics::family(text, "kubelet_imagemanager_ondisk_pulledrecords", "gauge", help, [("", records)]);
    }

    async fn pull(
        &self,
        desired: &Desired,
        name: &str,
        path: &str,
        key: (String, String),
        logins: &[Login],
    ) -> Result<Image, Failure> {
        let pod = &*desired.pod;
        self.events.note(pod, path, false, "Pulling", format!("Pulling image \"{name}\""));
        let waited = Instant::now();
        let turn = lock(&self.pulls).entry(name.to_owned()).or_default().clone();
        let guard = turn.lock().await;
        let begun = Instant::now();
        let pulled = self.pull_noted(desired, name, path, logins).await;
        drop(guard);
        lock(&self.pulls).retain(|_, turn| Arc::strong_count(turn) > 1);
        let error = match pulled {
            Ok(image) => {
                lock(&self.failures).remove(&key);
                let (all, size) = (waited.elapsed(), image.size_bytes);
                let (took, waited) = (short(begun.elapsed()), short(all));
                let message = format!(
                    "Successfully pulled image \"{name}\" in {took} ({waited} including waiting). Image size: {size} bytes."
                );
                self.events.note(pod, path, false, "Pulled", message);
                let labels = format!("image_size_in_bytes=\"{}\"", size_bucket(size));
                self.metrics.took(metrics::Time::ImagePull, labels, all);
                return Ok(image);
            }
            Err(error) => error,
        };
        let (reason, said) = match error {
            PullError::InvalidName(said) => ("InvalidImageName", said),
            PullError::Signature(said) => ("SignatureValidationFailed", said),
            PullError::Failed(said) => ("ErrImagePull", said),
        };
        let now = self.clock.now();
        if reason == "InvalidImageName" {
            let message = format!("Failed to apply default image tag \"{name}\": {said}");
            self.events.note(pod, path, true, "InspectFailed", message.clone());
            self.events.note(pod, path, true, "Failed", "Error: InvalidImageName");
            return Err(self.failure(reason, message, 60 * SECOND));
        }
        self.events.note(pod, path, true, "Failed", format!("Failed to pull image \"{name}\": {said}"));
        self.events.note(pod, path, true, "Failed", format!("Error: {reason}"));
        let mut failures = lock(&self.failures);
        let entry = failures.entry(key).or_insert_with(|| (Crash::default(), now, String::new()));
        entry.0.next(entry.1, now, PULL_BACKOFF_MAX);
        tracing::debug!(image = name, delay = %go_duration(entry.0.delay), "a pull failed");
        entry.1 = now;
        entry.2 = format!("{reason}: {said}");
        drop(failures);
        Err(self.failure(reason, said, SHOWN))
    }

    /// A pull, and on the disk that it begins, and for whom the image is that came.
    async fn pull_noted(&self, of: &Desired, name: &str, path: &str, logins: &[Login]) -> Result<Image, PullError> {
        let (records, image) = (self.records.clone(), name.to_owned());
        let begun = tokio::task::spawn_blocking(move || Intent::begin(&records, &image)).await;
        let intent = begun.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into())).map_err(|error| {
            let why = format!("failed to record image pull intent: {error}");
            PullError::Failed(format!("Failed to record image pull intent for container image \"{name}\": {why}"))
        })?;
        let credentials: Vec<Credentials> = logins.iter().map(|login| login.credentials.clone()).collect();
        let watched = Arc::new(Watched::new(self.room.clone()));
        let mut pulling = self.images.pull(name, &credentials, watched.clone());
        let mut pause = PROGRESS;
        let pulled = loop {
            tokio::select! {
                pulled = &mut pulling => break pulled,
                () = sleep(pause) => {
                    if let Some(words) = watched.words() {
                        let message = format!("Pulling image \"{name}\": {words}");
                        self.events.progress(&*of.pod, path, "Pulling", message);
                    }
                    pause = (pause * 2).min(PROGRESS_MAX);
                }
            }
        };
        let now = self.now();
        let (noted, image) = match pulled {
            Ok(Pulled { image, login }) => {
                let used = login.and_then(|at| logins.get(at));
                let access = used.map_or(Access::NodePods, |login| login.source.clone());
                let id = image.id.clone();
                (tokio::task::spawn_blocking(move || intent.done(&id, &access, &now)), Ok(image))
            }
            Err(error) => (tokio::task::spawn_blocking(move || intent.failed()), Err(error)),
        };
        let _ = noted.await;
        image
    }

    fn failure(&self, reason: &str, message: String, after: Nanos) -> Failure {
        Failure { reason: reason.into(), message, retry_at: self.clock.now() + after }
    }
}

/// How the metric of pulls names an image's size.
fn size_bucket(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    let bounds = [
        (100 << 10, "GT100GB"),
        (60 << 10, "60GB-100GB"),
        (40 << 10, "40GB-60GB"),
        (30 << 10, "30GB-40GB"),
        (20 << 10, "20GB-30GB"),
        (10 << 10, "10GB-20GB"),
        (5 << 10, "5GB-10GB"),
        (1 << 10, "1GB-5GB"),
        (500, "500MB-1GB"),
        (100, "100MB-500MB"),
        (10, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    bounds.into_iter().find(|(above, _)| bytes > above * MIB).map_or("N/A", |(_, name)| name)
}

/// As Go prints short durations: `1.234s`, `87ms`.
fn short(took: Duration) -> String {
    let millis = took.as_millis();
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{}.{:03}s", millis / 1000, millis % 1000).trim_end_matches('0').to_owned()
    }
}
