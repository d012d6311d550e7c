//! Facts of a pod that several stages ask for: what it refers to, its containers, its quality of service.

use schema::Value;

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

pub fn containers_mut(spec: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get_mut(&[field]).and_then(Value::as_list_mut).into_iter().flatten() {
            visit(container);
        }
    }
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
