//! A pod as the node wants it: its containers in one list, and what upstream derives from a spec.

use std::sync::Arc;

use schema::api::Message;
use schema::api::core::v1::{Container, Pod};

/// The part that a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    App,
    Ephemeral,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub kind: Kind,
    pub container: Container,
    /// Of an ephemeral container: whose process namespace it joins.
    pub target: String,
    /// Changes when the container must be made anew.
    pub hash: u64,
}

/// A pod from the API, its members in starting order: init containers and sidecars, apps, ephemeral ones.
#[derive(Clone, Debug)]
pub struct Desired {
    pub pod: Arc<Pod>,
    pub members: Vec<Member>,
}

/// What a static pod's mirror carries: the hash of the pod that it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where a pod comes from: `file`, or of no static pod `api` or nothing.
pub const SOURCE: &str = "kubernetes.io/config.source";

pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.get(SOURCE).is_some_and(|source| source != "api")
}

/// Whose place is not given to others: static pods, and those of the highest priorities.
pub fn is_critical(pod: &Pod) -> bool {
    let mirrored = pod.metadata.annotations.contains_key(MIRROR);
    is_static(pod) || mirrored || pod.spec.priority.is_some_and(|priority| priority >= 2_000_000_000)
}

impl Desired {
    pub fn new(pod: Arc<Pod>) -> Self {
        let member = |kind, container: Container| {
            let hash = fnv(&[container.name.as_bytes(), container.image.as_bytes()]);
            Member { kind, container, target: String::new(), hash }
        };
        let init = pod.spec.init_containers.iter().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            member(if sidecar { Kind::Sidecar } else { Kind::Init }, container.clone())
        });
        let apps = pod.spec.containers.iter().map(|container| member(Kind::App, container.clone()));
        let ephemeral = pod.spec.ephemeral_containers.iter().map(|container| {
            // The common part has Container's fields under Container's numbers.
            let common = Container::decode(&container.ephemeral_container_common.to_vec()).unwrap_or_default();
            Member { target: container.target_container_name.clone(), ..member(Kind::Ephemeral, common) }
        });
        let members = init.chain(apps).chain(ephemeral).collect();
        Self { pod, members }
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.container.name == name)
    }

    pub fn of_kind(&self, kinds: &'static [Kind]) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |member| kinds.contains(&member.kind))
    }

    pub fn uid(&self) -> &str {
        &self.pod.metadata.uid
    }

    pub fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The hosts' names: `hostnameOverride`, `hostname` or the pod's name, cut to what a kernel takes.
    pub fn hostname(&self) -> String {
        let spec = &self.pod.spec;
        if let Some(name) = spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
            return name.clone();
        }
        let name = if spec.hostname.is_empty() { &self.pod.metadata.name } else { &spec.hostname };
        name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
    }

    /// `hostname.subdomain.namespace.svc.domain`, if the pod has a subdomain.
    pub fn fqdn(&self, domain: &str) -> Option<String> {
        let spec = &self.pod.spec;
        (!spec.subdomain.is_empty() && spec.hostname_override.as_ref().is_none_or(String::is_empty))
            .then(|| format!("{}.{}.{}.svc.{domain}", self.hostname(), spec.subdomain, self.pod.metadata.namespace))
    }

    /// Seconds between the stop signal and the kill, as this pod's deletion or spec says.
    pub fn grace_seconds(&self) -> i64 {
        let meta = &self.pod.metadata;
        let asked = if meta.deletion_timestamp.is_some() { meta.deletion_grace_period_seconds } else { None };
        asked.or(self.pod.spec.termination_grace_period_seconds).unwrap_or(30).max(1)
    }

    /// `name_namespace(uid)`, as upstream prints pods in messages.
    pub fn label(&self) -> String {
        let meta = &self.pod.metadata;
        format!("{}_{}({})", meta.name, meta.namespace, meta.uid)
    }
}

impl Member {
    /// Whether the container runs again after it ended so.
    pub fn restarts_after(&self, pod: &Pod, code: i32) -> bool {
        let container = &self.container;
        match self.kind {
            Kind::Ephemeral => return false,
            Kind::Sidecar => return true,
            Kind::Init | Kind::App => {}
        }
        for rule in &container.restart_policy_rules {
            let Some(codes) = &rule.exit_codes else { continue };
            let matches = match &*codes.operator {
                "In" => codes.values.contains(&code),
                "NotIn" => !codes.values.contains(&code),
                _ => false,
            };
            if matches && rule.action.starts_with("Restart") {
                return true;
            }
        }
        match container.restart_policy.as_deref().unwrap_or(&pod.spec.restart_policy) {
            "Never" => false,
            "OnFailure" => code != 0,
            _ => self.kind == Kind::App || code != 0,
        }
    }

    /// `spec.containers{name}`.
    pub fn field_path(&self) -> String {
        let list = match self.kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::App => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.container.name)
    }
}

pub(crate) fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// `Always` unless a tag other than `latest` or a digest says otherwise, as the API defaults it.
pub fn pull_policy<'a>(asked: &'a str, image: &str) -> &'a str {
    if !asked.is_empty() {
        return asked;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    match name.split_once(':') {
        _ if name.contains('@') => "IfNotPresent",
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}
