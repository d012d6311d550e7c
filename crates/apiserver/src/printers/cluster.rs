//! Columns of nodes, volumes, quotas, definitions and what else belongs to the cluster.

use schema::Value;

use super::{Cell, duration, generic::access_modes};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

fn condition<'a>(object: &'a Value, ty: &str) -> Option<&'a Value> {
    object.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == ty)
}

fn or<'a>(text: &'a str, default: &'a str) -> Value {
    if text.is_empty() { default.into() } else { text.into() }
}

pub fn call(name: &str, cell: &Cell<'_>) -> Value {
    let object = cell.object;
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    match name {
        "node.status" => {
            let mut status = match condition(object, "Ready").map(|c| c.str_at(&["status"])) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            }
            .to_owned();
            if object.bool_at(&["spec", "unschedulable"]) {
                status.push_str(",SchedulingDisabled");
            }
            status.into()
        }
        "node.roles" => {
            let labels = object.object_at(&["metadata", "labels"]);
            let mut roles: Vec<&str> = labels
                .into_iter()
                .flatten()
                .filter_map(|(k, v)| match k.strip_prefix(ROLE_PREFIX) {
                    Some(role) => Some(role),
                    None => (k == "kubernetes.io/role").then(|| v.as_str()).flatten(),
                })
                .filter(|r| !r.is_empty())
                .collect();
            roles.sort_unstable();
            roles.dedup();
            or(&roles.join(","), "<none>")
        }
        "node.address" => {
            let addresses = object.list_at(&["status", "addresses"]);
            let found = addresses.iter().find(|a| a.str_at(&["type"]) == cell.arg(0));
            or(found.map_or("", |a| a.str_at(&["address"])), "<none>")
        }
        "volume.phase" => {
            if deleting {
                "Terminating".into()
            } else {
                object["status"]["phase"].clone()
            }
        }
        "volume.class" => {
            let legacy = object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
            legacy.unwrap_or(object.str_at(&["spec", "storageClassName"])).into()
        }
        "volume.claim" => {
            let claim = &object["spec"]["claimRef"];
            if claim.is_null() {
                return "".into();
            }
            format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])).into()
        }
        "claim.capacity" if object.str_at(&["spec", "volumeName"]).is_empty() => "".into(),
        "claim.capacity" => or(object.str_at(&["status", "capacity", "storage"]), "0"),
        "claim.accessModes" if object.str_at(&["spec", "volumeName"]).is_empty() => "".into(),
        "claim.accessModes" => access_modes(&object["status"]["accessModes"]).into(),
        "quota.requests" => quota(object, false).into(),
        "quota.limits" => quota(object, true).into(),
        "csr.condition" => {
            let has = |ty: &str| condition(object, ty).is_some();
            let mut text = if has("Denied") {
                "Denied"
            } else if has("Approved") {
                "Approved"
            } else {
                "Pending"
            }
            .to_owned();
            if has("Failed") {
                text.push_str(",Failed");
            }
            if !object["status"]["certificate"].is_empty() {
                text.push_str(",Issued");
            }
            text.into()
        }
        "csr.duration" => match object.i64_at(&["spec", "expirationSeconds"]) {
            Some(seconds) => duration(seconds).into(),
            None => "<none>".into(),
        },
        "apiService.service" => match object.str_at(&["spec", "service", "name"]) {
            "" => "Local".into(),
            name => format!("{}/{name}", object.str_at(&["spec", "service", "namespace"])).into(),
        },
        "apiService.available" => match condition(object, "Available") {
            None => "Unknown".into(),
            Some(c) => match (c.str_at(&["status"]), c.str_at(&["reason"])) {
                ("True", _) | (_, "") => c["status"].clone(),
                (status, reason) => format!("{status} ({reason})").into(),
            },
        },
        "crd.versions" => {
            let versions = object.list_at(&["spec", "versions"]).iter().filter(|v| v.bool_at(&["served"]));
            let told = versions.map(|v| {
                let stored = if v.bool_at(&["storage"]) { "(storage)" } else { "" };
                format!("{}{stored}", v.str_at(&["name"]))
            });
            told.collect::<Vec<_>>().join(",").into()
        }
        "crd.established" => condition(object, "Established").is_some_and(|c| c.str_at(&["status"]) == "True").into(),
        "default.name" => {
            let name = object.str_at(&["metadata", "name"]);
            let default = object["metadata"]["annotations"][cell.arg(0)].as_str() == Some("true");
            if default { format!("{name} (default)").into() } else { name.into() }
        }
        "csiDriver.tokenRequests" => {
            let requests = &object["spec"]["tokenRequests"];
            if requests.is_null() {
                return "<unset>".into();
            }
            let audiences = requests.as_list().into_iter().flatten().map(|r| r.str_at(&["audience"]));
            audiences.collect::<Vec<_>>().join(",").into()
        }
        "flowSchema.missing" => or(condition(object, "Dangling").map_or("", |c| c.str_at(&["status"])), "?"),
        "resourceClaim.state" => {
            let mut states = Vec::new();
            if deleting {
                states.push("deleted");
            }
            if object["status"]["allocation"].is_null() {
                if !deleting {
                    states.push("pending");
                }
            } else {
                states.push("allocated");
                if !object["status"]["reservedFor"].is_empty() {
                    states.push("reserved");
                }
            }
            states.join(",").into()
        }
        "policy.paramKind" => match &object["spec"]["paramKind"] {
            kind if kind.is_null() => "<unset>".into(),
            kind => format!("{}/{}", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])).into(),
        },
        "policy.paramRef" => match &object["spec"]["paramRef"] {
            reference if reference.is_null() => "<unset>".into(),
            reference => match (reference.str_at(&["namespace"]), reference.str_at(&["name"])) {
                (namespace, "") => format!("{namespace}/*").into(),
                ("", name) => format!("*/{name}").into(),
                (namespace, name) => format!("{namespace}/{name}").into(),
            },
        },
        "component.status" | "component.message" | "component.error" => {
            let healthy = object.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Healthy");
            let field = match name {
                "component.message" => "message",
                "component.error" => "error",
                _ => {
                    return if healthy.is_some_and(|c| c.str_at(&["status"]) == "True") {
                        "Healthy"
                    } else {
                        "Unhealthy"
                    }
                    .into();
                }
            };
            healthy.map_or("", |c| c.str_at(&[field])).into()
        }
        "migration.resource" => {
            let resource = &object["spec"]["resource"];
            crate::request::GroupResource::new(resource.str_at(&["group"]), resource.str_at(&["resource"]))
                .to_string()
                .into()
        }
        "storageVersion.versions" => object["status"]["storageVersions"].texts().join(",").into(),
        // Kinds of versions that are off until they are asked for show their conditions.
        _ => {
            let latest = object.list_at(&["status", "conditions"]).iter().rfind(|c| c.str_at(&["status"]) == "True");
            or(latest.map_or("", |c| c.str_at(&["type"])), "Unknown")
        }
    }
}

/// `cpu: 1/2, pods: 3/10` of what is (not) a limit.
fn quota(quota: &Value, limits: bool) -> String {
    let hard = quota.object_at(&["status", "hard"]);
    let rows = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    let rows = rows.map(|(name, hard)| {
        let used = quota["status"]["used"][name.as_str()].as_str().unwrap_or("0");
        format!("{name}: {used}/{}", hard.as_str().unwrap_or(""))
    });
    rows.collect::<Vec<_>>().join(", ")
}
