//! Certificates of podCertificate projections (KEP-4317): a key that is made here, a PodCertificateRequest for it, what a
//! signer answers, and all of that anew when the certificate is to be refreshed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use reconcile::io::Client;
use schema::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use schema::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use schema::api::meta::v1::ObjectMeta;
use serde_json::{Value as Json, json};

use super::{Error, anchors};
use crate::config::Ports;
use crate::events::Recorder;
use crate::memory::SECOND;
use crate::objects::{Cache, Entry, FIRST_WORD, Seen, Wake, lock};
use crate::pod::fnv;
use crate::ports::Nanos;
use crate::store;

/// From the beginning of a certificate's refresh until it is late.
const OVERDUE: Nanos = 600 * SECOND;
/// A refresh begins within five minutes, so that not all pods ask at once.
const JITTER_SECONDS: u64 = 300;
/// Until a request for a refresh that could not be made is made again.
const RETRY: Nanos = 60 * SECOND;

/// Private key and certificates as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub key: String,
    pub chain: String,
}

/// By the volume's name and the place among its sources.
pub type Bundles = BTreeMap<(String, usize), Bundle>;

/// Pod, volume, and place among its sources.
type Place = (String, String, usize);

struct Held {
    bundle: Bundle,
    refresh_at: Nanos,
    not_after: Nanos,
    /// Its pod was told that it is late, that it has ended.
    told: (bool, bool),
}

/// A request that waits for its signer.
struct Asked {
    key: String,
    name: String,
    entry: Arc<Entry<PodCertificateRequest>>,
}

/// Of one projection.
#[derive(Default)]
struct State {
    held: Option<Held>,
    asked: Option<Asked>,
    /// Why there will be no more.
    refused: Option<String>,
}

pub struct Certificates {
    client: Client,
    node_name: String,
    ports: Ports,
    events: Recorder,
    root: PathBuf,
    requests: Cache<PodCertificateRequest>,
    states: Mutex<BTreeMap<Place, State>>,
}

impl Certificates {
    /// `root` has the directories of pods, in which certificates outlive this process.
    pub fn new(client: Client, node_name: String, ports: Ports, events: Recorder, root: PathBuf) -> Self {
        let requests = Cache::unkept(client.clone(), format!(",spec.nodeName%3D{node_name}"));
        Self { client, node_name, ports, events, root, requests, states: Mutex::default() }
    }

    /// Bundles for all projections of a pod, and when they are to be looked at again; `wake` learns of a signer's
    /// answers. The first of a projection is waited for, shortly; later ones take the place of what is held.
    pub async fn bundles(&self, pod: &Pod, wake: &Arc<Wake>) -> Result<(Bundles, Option<Nanos>), Error> {
        let uid = &pod.metadata.uid;
        let volumes =
            pod.spec.volumes.iter().filter_map(|volume| Some((volume, volume.volume_source.projected.as_ref()?)));
        let wanted: Vec<(Place, &PodCertificateProjection)> = volumes
            .flat_map(|(volume, of)| {
                let sources = of.sources.iter().enumerate();
                sources.filter_map(|(at, source)| {
                    Some(((uid.clone(), volume.name.clone(), at), source.pod_certificate.as_ref()?))
                })
            })
            .collect();
        let (mut bundles, mut again) = (Bundles::new(), None::<Nanos>);
        // All are asked for before any is waited for.
        for (place, of) in &wanted {
            let mut state = self.take(place);
            let asked = self.ask_if_due(&mut state, pod, of, wake).await;
            self.put(place, state);
            if let Err(error) = asked {
                if lock(&self.states).get(place).is_none_or(|state| state.held.is_none()) {
                    return Err(error);
                }
                tracing::warn!(pod = %pod.metadata.name, %error, "a pod's certificate was not asked for again");
            }
        }
        for (place, _) in wanted {
            let mut state = self.take(&place);
            let settled = self.settle(&mut state, pod, &place).await;
            let next = self.next_look(&mut state, pod);
            let bundle = state.held.as_ref().map(|held| held.bundle.clone());
            self.put(&place, state);
            settled?;
            again = again.into_iter().chain(next).min();
            bundles.extend(bundle.map(|bundle| ((place.1, place.2), bundle)));
        }
        Ok((bundles, again))
    }

    /// A pod's volumes are made by one at a time: nobody else misses what is taken.
    fn take(&self, place: &Place) -> State {
        let known = lock(&self.states).remove(place);
        known.unwrap_or_else(|| State { held: self.load(place), ..State::default() })
    }

    fn put(&self, place: &Place, state: State) {
        lock(&self.states).insert(place.clone(), state);
    }

    pub fn forget(&self, uid: &str) {
        lock(&self.states).retain(|(of, _, _), _| of != uid);
    }

    async fn ask_if_due(
        &self,
        state: &mut State,
        pod: &Pod,
        of: &PodCertificateProjection,
        wake: &Arc<Wake>,
    ) -> Result<(), Error> {
        let now = self.ports.clock.now();
        let due = state.held.as_ref().is_none_or(|held| held.refresh_at <= now);
        if due && state.asked.is_none() && state.refused.is_none() {
            state.asked = Some(self.ask(pod, of, wake).await?);
        }
        Ok(())
    }

    async fn ask(&self, pod: &Pod, of: &PodCertificateProjection, wake: &Arc<Wake>) -> Result<Asked, Error> {
        let failed = |what: &'static str| move |source| Error::Certificate { what, source: Box::new(source) };
        let meta = &pod.metadata;
        let account = self.client.get::<ServiceAccount>(&meta.namespace, &pod.spec.service_account_name).await;
        let account = account.map_err(failed("fetching service account"))?;
        let node: Node = self.client.get("", &self.node_name).await.map_err(failed("getting node object"))?;
        let new = self.ports.keys.make(&of.key_type).map_err(Error::Key)?;
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                namespace: meta.namespace.clone(),
                generate_name: "req-".into(),
                owner_references: vec![reconcile::owner(pod)],
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: of.signer_name.clone(),
                pod_name: meta.name.clone(),
                pod_uid: meta.uid.clone(),
                service_account_name: pod.spec.service_account_name.clone(),
                service_account_uid: account.metadata.uid,
                node_name: self.node_name.clone(),
                node_uid: node.metadata.uid,
                max_expiration_seconds: of.max_expiration_seconds,
                stub_pkcs10_request: new.request,
                unverified_user_annotations: of.user_annotations.clone(),
                ..PodCertificateRequestSpec::default()
            },
            ..PodCertificateRequest::default()
        };
        let made = self.client.create(&request).await.map_err(failed("creating PodCertificateRequest"))?;
        let entry = self.requests.follow(&meta.namespace, &made.metadata.name, wake);
        Ok(Asked { key: new.pem, name: made.metadata.name, entry })
    }

    /// Takes a signer's answer if there is one; an error if there is nothing to show yet, or ever.
    async fn settle(&self, state: &mut State, pod: &Pod, place: &Place) -> Result<(), Error> {
        if let Some(asked) = &state.asked {
            let answered = |seen: &Seen<PodCertificateRequest>| match seen {
                Seen::Present(request) => !request.status.conditions.is_empty(),
                Seen::Absent => true,
                Seen::Unknown => false,
            };
            let patience = if state.held.is_some() { std::time::Duration::ZERO } else { FIRST_WORD };
            match tokio::time::timeout(patience, asked.entry.until(answered)).await.unwrap_or(Seen::Unknown) {
                Seen::Unknown => {}
                // Somebody deleted it: another one is asked for at the next look.
                Seen::Absent => state.asked = None,
                Seen::Present(request) => {
                    self.take_answer(state, pod, place, &request);
                }
            }
        }
        match (&state.held, &state.refused) {
            (Some(_), _) => Ok(()),
            (None, Some(why)) => Err(Error::Refused(why.clone())),
            (None, None) => Err(Error::NotIssued),
        }
    }

    fn take_answer(&self, state: &mut State, pod: &Pod, place: &Place, request: &PodCertificateRequest) {
        let (Some(asked), Some(condition)) = (state.asked.take(), request.status.conditions.first()) else { return };
        let (status, reason, message) = (&request.status, &condition.reason, &condition.message);
        let refused = |how: &str| {
            let name = format!("{}/{}", pod.metadata.namespace, asked.name);
            format!("PodCertificateRequest {name} {how}, reason={reason:?}, message={message:?}")
        };
        match (&*condition.r#type, status.begin_refresh_at, status.not_after) {
            ("Issued", Some(refresh), Some(end)) => {
                let held = Held {
                    bundle: Bundle { key: asked.key, chain: anchors::certificates(&status.certificate_chain) },
                    refresh_at: (refresh.seconds + jitter(place)) * SECOND,
                    not_after: end.seconds * SECOND,
                    told: (false, false),
                };
                self.keep(place, &held);
                state.held = Some(held);
            }
            (kind, ..) => {
                let (how, event) = if kind == "Denied" { ("was denied", "Denied") } else { ("failed", "Failed") };
                let why = refused(how);
                self.events.note(pod, "", true, event, why.clone());
                state.refused = Some(why);
            }
        }
    }

    /// Tells the pod of a certificate that is late, and says when there will be something to do or to tell.
    fn next_look(&self, state: &mut State, pod: &Pod) -> Option<Nanos> {
        let now = self.ports.clock.now();
        let held = state.held.as_mut()?;
        let (overdue_at, (late, ended)) = (held.refresh_at + OVERDUE, held.told);
        if !late && overdue_at <= now {
            self.events.note(pod, "", true, "CertificateOverdueForRefresh", "PodCertificate refresh overdue");
        }
        if !ended && held.not_after <= now {
            self.events.note(pod, "", true, "CertificateExpired", "PodCertificate expired");
        }
        held.told = (late || overdue_at <= now, ended || held.not_after <= now);
        let unasked = state.asked.is_none() && state.refused.is_none() && held.refresh_at <= now;
        let retry = unasked.then_some(now + RETRY);
        [held.refresh_at, overdue_at, held.not_after].into_iter().filter(|at| *at > now).chain(retry).min()
    }

    /// Goes with the pod's directory.
    fn file(&self, (uid, volume, at): &Place) -> PathBuf {
        self.root.join("pods").join(uid).join("certificates").join(format!("{volume}-{at}"))
    }

    fn keep(&self, place: &Place, held: &Held) {
        let Bundle { key, chain } = &held.bundle;
        let text = json!({"key": key, "chain": chain, "refreshAt": held.refresh_at, "notAfter": held.not_after});
        store::write_private(&self.file(place), text.to_string().as_bytes());
    }

    /// What was held before this process began, if it is still of use.
    fn load(&self, place: &Place) -> Option<Held> {
        let kept: Json = serde_json::from_slice(&std::fs::read(self.file(place)).ok()?).ok()?;
        let text = |field: &str| kept[field].as_str().map(str::to_owned);
        let held = Held {
            bundle: Bundle { key: text("key")?, chain: text("chain")? },
            refresh_at: kept["refreshAt"].as_i64()?,
            not_after: kept["notAfter"].as_i64()?,
            told: (false, false),
        };
        (held.not_after > self.ports.clock.now()).then_some(held)
    }
}

/// The same for the same projection.
fn jitter((uid, volume, at): &Place) -> i64 {
    let hash = fnv(&[uid.as_bytes(), volume.as_bytes(), &at.to_le_bytes()]);
    i64::try_from(hash % JITTER_SECONDS).unwrap_or_default()
}
