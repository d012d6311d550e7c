//! Getting a container's image: policies, pull secrets, back-off, one pull of a name at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::api::core::v1::Secret;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use crate::events::Recorder;
use crate::memory::{Crash, Failure, PULL_BACKOFF_MAX, SECOND};
use crate::objects::{Snapshot, lock};
use crate::plan::go_duration;
use crate::pod::Desired;
use crate::ports::{Clock, Credentials, Image, Images, Nanos, PullError};

/// How soon after a failed pull its reason turns into the back-off's.
const SHOWN: Nanos = 2 * SECOND;

/// The back-off, when the last pull failed, and what it said.
type Failures = (Crash, Nanos, String);

pub struct Puller {
    images: Arc<dyn Images>,
    clock: Arc<dyn Clock>,
    events: Recorder,
    /// By pod and image: failures, and what the last one said.
    failures: Mutex<HashMap<(String, String), Failures>>,
    /// A pull of a name waits for the one before it, which mostly leaves nothing to fetch.
    pulls: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Puller {
    pub fn new(images: Arc<dyn Images>, clock: Arc<dyn Clock>, events: Recorder) -> Self {
        Self { images, clock, events, failures: Mutex::default(), pulls: Mutex::default() }
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
        if policy != "Always" {
            match self.images.find(name).await {
                Ok(Some(image)) => {
                    let message =
                        format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
                    self.events.note(pod, path, false, "Pulled", message);
                    return Ok(image);
                }
                Ok(None) => {}
                Err(error) => {
                    let message = format!("Failed to inspect image \"{name}\": {error}");
                    self.events.note(pod, path, true, "InspectFailed", message.clone());
                    self.events.note(pod, path, true, "Failed", "Error: ImageInspectError");
                    return Err(self.failure("ImageInspectError", message, 10 * SECOND));
                }
            }
        }
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
        self.pull(desired, name, path, key, objects).await
    }

    async fn pull(
        &self,
        desired: &Desired,
        name: &str,
        path: &str,
        key: (String, String),
        objects: &Snapshot,
    ) -> Result<Image, Failure> {
        let pod = &*desired.pod;
        self.events.note(pod, path, false, "Pulling", format!("Pulling image \"{name}\""));
        let waited = Instant::now();
        let turn = lock(&self.pulls).entry(name.to_owned()).or_default().clone();
        let guard = turn.lock().await;
        let begun = Instant::now();
        let login = credentials(desired, objects);
        let pulled = self.images.pull(name, &login).await;
        drop(guard);
        lock(&self.pulls).retain(|_, turn| Arc::strong_count(turn) > 1);
        let error = match pulled {
            Ok(image) => {
                lock(&self.failures).remove(&key);
                let took = |since: Instant| short(begun.max(since).elapsed().max(Duration::ZERO));
                let (took, waited, size) = (took(begun), short(waited.elapsed()), image.size_bytes);
                let message = format!(
                    "Successfully pulled image \"{name}\" in {took} ({waited} including waiting). Image size: {size} bytes."
                );
                self.events.note(pod, path, false, "Pulled", message);
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

    fn failure(&self, reason: &str, message: String, after: Nanos) -> Failure {
        Failure { reason: reason.into(), message, retry_at: self.clock.now() + after }
    }
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

/// Logins of the pod's pull secrets, the longest registry prefix first.
pub fn credentials(desired: &Desired, objects: &Snapshot) -> Vec<Credentials> {
    let names = desired.pod.spec.image_pull_secrets.iter();
    let mut all: Vec<Credentials> =
        names.filter_map(|of| objects.secrets.get(&of.name)).flat_map(|secret| logins(secret)).collect();
    all.sort_by_key(|login| std::cmp::Reverse(login.registry.len()));
    all
}

/// `.dockerconfigjson` or `.dockercfg`.
fn logins(secret: &Secret) -> Vec<Credentials> {
    let parse = |key: &str| secret.data.get(key).and_then(|raw| serde_json::from_slice::<serde_json::Value>(raw).ok());
    let auths = match parse(".dockerconfigjson") {
        Some(config) => config["auths"].clone(),
        None => parse(".dockercfg").unwrap_or_default(),
    };
    let Some(auths) = auths.as_object() else { return Vec::new() };
    auths
        .iter()
        .map(|(registry, entry)| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let both =
                STANDARD.decode(text("auth")).ok().and_then(|raw| String::from_utf8(raw).ok()).unwrap_or_default();
            let (user, password) = both.split_once(':').unwrap_or_default();
            let or =
                |own: String, other: &str| if own.is_empty() { other.trim_end_matches('\0').to_owned() } else { own };
            let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
            let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            Credentials {
                registry: if registry == "index.docker.io" { "docker.io" } else { registry }.to_owned(),
                username: or(text("username"), user),
                password: or(text("password"), password),
                identity_token: text("identitytoken"),
                registry_token: text("registrytoken"),
            }
        })
        .collect()
}
