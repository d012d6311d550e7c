//! Facts of a pod that several stages ask for: what it refers to, its containers, its quality of service.

use std::collections::BTreeMap;

use schema::{Value, quantity::Quantity};

use crate::view;

pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod that stands for one of the kubelet's own files.
pub fn is_mirror(pod: &Value) -> bool {
    view::annotation(pod, MIRROR).is_some()
}

/// All containers of a pod spec with the field they are in: init, regular, ephemeral.
pub fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |field| spec.list_at(&[field]).iter().enumerate().map(move |(i, c)| (field, i, c)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
}

/// Secrets, ConfigMaps, claims and resource claims of the pod's namespace that it names.
pub fn references(pod: &Value, visit: &mut dyn FnMut(Reference, &str)) {
    let mut name = |kind, name: &str| {
        if !name.is_empty() {
            visit(kind, name);
        }
    };
    let spec = &pod["spec"];
    for secret in spec.list_at(&["imagePullSecrets"]) {
        name(Reference::Secret, secret.str_at(&["name"]));
    }
    for (_, _, container) in containers(spec) {
        for source in container.list_at(&["envFrom"]) {
            name(Reference::Secret, source.str_at(&["secretRef", "name"]));
            name(Reference::ConfigMap, source.str_at(&["configMapRef", "name"]));
        }
        for variable in container.list_at(&["env"]) {
            name(Reference::Secret, variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
            name(Reference::ConfigMap, variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    for volume in spec.list_at(&["volumes"]) {
        name(Reference::Secret, volume.str_at(&["secret", "secretName"]));
        name(Reference::ConfigMap, volume.str_at(&["configMap", "name"]));
        for source in volume.list_at(&["projected", "sources"]) {
            name(Reference::Secret, source.str_at(&["secret", "name"]));
            name(Reference::ConfigMap, source.str_at(&["configMap", "name"]));
        }
        name(Reference::Secret, volume.str_at(&["azureFile", "secretName"]));
        name(Reference::Secret, volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        for source in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            name(Reference::Secret, volume.str_at(&[source, "secretRef", "name"]));
        }
        name(Reference::Claim, volume.str_at(&["persistentVolumeClaim", "claimName"]));
        if volume.get(&["ephemeral"]).is_some_and(|e| !e.is_null()) {
            name(Reference::Claim, &format!("{}-{}", view::name(pod), volume.str_at(&["name"])));
        }
    }
    for claim in spec.list_at(&["resourceClaims"]) {
        name(Reference::ResourceClaim, claim.str_at(&["resourceClaimName"]));
    }
    for made in pod.list_at(&["status", "resourceClaimStatuses"]) {
        name(Reference::ResourceClaim, made.str_at(&["resourceClaimName"]));
    }
    name(Reference::ResourceClaim, pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]));
}

/// Secrets that a kubelet needs for a PersistentVolume; no namespace means that of the claim.
pub fn volume_secrets(volume: &Value) -> Vec<(Option<String>, String)> {
    let spec = &volume["spec"];
    let mut found = Vec::new();
    let mut add = |source: &[&str], name: &str, namespace: &str| {
        let Some(reference) = spec.get(source) else { return };
        let text = |field| reference.str_at(&[field]).to_owned();
        if !text(name).is_empty() {
            found.push((Some(text(namespace)).filter(|n| !n.is_empty()), text(name)));
        }
    };
    add(&["azureFile"], "secretName", "secretNamespace");
    for source in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        add(&[source, "secretRef"], "name", "namespace");
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&["csi", reference], "name", "namespace");
    }
    found
}

/// Quantities by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources(pub BTreeMap<String, Quantity>);

impl Resources {
    /// From a member (`requests`, `limits`, `max`, `hard`) of an object; what cannot be read is left out.
    pub fn of(object: &Value, member: &str) -> Self {
        let list = object.object_at(&[member]).into_iter().flatten();
        Self(list.filter_map(|(name, text)| Some((name.to_string(), Quantity::parse(text.as_str()?).ok()?))).collect())
    }

    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub fn add(&mut self, other: &Self) {
        for (name, quantity) in &other.0 {
            let sum = self.get(name).map_or(*quantity, |held| held.plus(*quantity));
            self.0.insert(name.clone(), sum);
        }
    }

    pub fn raise_to(&mut self, other: &Self) {
        for (name, quantity) in &other.0 {
            if self.get(name).is_none_or(|held| held.compare(*quantity).is_lt()) {
                self.0.insert(name.clone(), *quantity);
            }
        }
    }

    pub fn to_value(&self) -> Value {
        Value::object(self.0.iter().map(|(name, quantity)| (name.as_str(), quantity.to_string().into())))
    }
}

/// What a pod asks for in all (`requests` or `limits`), without its overhead: containers run together with sidecars,
/// other init containers one after another before them.
pub fn total(spec: &Value, member: &str) -> Resources {
    let mut sum = Resources::default();
    for container in spec.list_at(&["containers"]) {
        sum.add(&Resources::of(&container["resources"], member));
    }
    let mut sidecars = Resources::default();
    let mut most = Resources::default();
    for container in spec.list_at(&["initContainers"]) {
        let mut own = Resources::of(&container["resources"], member);
        if container.str_at(&["restartPolicy"]) == "Always" {
            sum.add(&own);
            sidecars.add(&own);
            own = sidecars.clone();
        } else {
            own.add(&sidecars);
        }
        most.raise_to(&own);
    }
    sum.raise_to(&most);
    for (name, quantity) in Resources::of(&spec["resources"], member).0 {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.0.insert(name, quantity);
        }
    }
    sum
}
