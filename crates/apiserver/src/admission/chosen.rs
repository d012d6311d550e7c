//! Small plugins that are off by default (`--enable-admission-plugins`): AlwaysPullImages, DenyServiceExternalIPs,
//! ExtendedResourceToleration.

use std::collections::BTreeSet;

use schema::Value;

use super::AdmissionRequest;
use super::quota_usage::is_extended;
use super::rule::{Cx, NOTHING, PODS, Rule};
use crate::{Status, pods};

/// Every container pulls its image anew, so that credentials are asked for each time.
pub const ALWAYS_PULL_IMAGES: Rule = Rule { name: "AlwaysPullImages", of: PODS, mutate: always_pull, ..NOTHING };

fn always_pull(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !request.is_create() && !request.is_update() || !has_new_image(request) {
        return Ok(());
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&mut request.object, &["spec", field]) {
            container.set(&["imagePullPolicy"], "Always");
        }
    }
    for volume in list(&mut request.object, &["spec", "volumes"]) {
        if volume.get(&["image"]).is_some_and(|image| !image.is_null()) {
            volume.set(&["image", "pullPolicy"], "Always");
        }
    }
    Ok(())
}

fn list<'a>(object: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(path).and_then(Value::as_list_mut).into_iter().flatten()
}

fn has_new_image(request: &AdmissionRequest) -> bool {
    let images = |pod: &Value| -> BTreeSet<String> {
        pods::containers(&pod["spec"]).map(|(_, _, c)| c.str_at(&["image"]).to_owned()).collect()
    };
    request.old.as_deref().is_none_or(|old| !images(&request.object).is_subset(&images(old)))
}

/// Nobody takes an address of their own choice.
pub const DENY_SERVICE_EXTERNAL_IPS: Rule =
    Rule { name: "DenyServiceExternalIPs", of: &[("", "services")], validate: deny_external_ips, ..NOTHING };

fn deny_external_ips(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let held = request.old.as_deref().map_or(&[][..], |old| old.list_at(&["spec", "externalIPs"]));
    let is_write = request.is_create() || request.is_update();
    if is_write && request.object.list_at(&["spec", "externalIPs"]).iter().any(|ip| !held.contains(ip)) {
        return request.refuse("Use of external IPs is denied by admission control");
    }
    Ok(())
}

/// Who asks for an extended resource tolerates the taint that keeps its nodes free for it.
pub const EXTENDED_RESOURCE_TOLERATION: Rule =
    Rule { name: "ExtendedResourceToleration", of: PODS, mutate: tolerate_extended_resources, ..NOTHING };

fn tolerate_extended_resources(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !request.is_create() && !request.is_update() {
        return Ok(());
    }
    let mut names = BTreeSet::new();
    for (_, _, container) in pods::containers(&request.object["spec"]) {
        let asked = container.object_at(&["resources", "requests"]).into_iter().flatten();
        names.extend(asked.map(|(name, _)| name.clone()).filter(|name| is_extended(name)));
    }
    for name in names {
        let toleration =
            Value::object([("key", name.into()), ("operator", "Exists".into()), ("effect", "NoSchedule".into())]);
        let tolerations = request.object.make_list(&["spec", "tolerations"]);
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Ok(())
}
