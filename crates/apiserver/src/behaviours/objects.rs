//! Small behaviours of single kinds.

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::Value;
use schema::validate::{ErrorKind, FieldError, NameRule, names};

use super::{Cx, PLAIN, Strategy, bump_generation, keep, keep_for_status, keep_for_update};
use crate::meta;
use crate::status::{Result, field_error};

/// Nothing but a generation.
pub static COUNTED: Strategy = Strategy { generation: true, ..PLAIN };
/// The old version's only metric counts where there are no others.
pub static AUTOSCALER: Strategy = Strategy {
    default: |autoscaler| {
        let others = &autoscaler["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"];
        let target = ["spec", "targetCPUUtilizationPercentage"];
        let is_old = autoscaler.str_at(&["apiVersion"]) == "autoscaling/v1";
        if is_old && others.is_null() && autoscaler.get(&target).is_none_or(Value::is_null) {
            autoscaler.set(&target, 80);
        }
    },
    generation: true,
    ..PLAIN
};
const COUNTED_STRICT_LIKE: Strategy = Strategy { generation: true, unconditional_update: false, ..PLAIN };
pub static WEBHOOKS: Strategy =
    Strategy { validate: |_, new, old| crate::webhooks::check(new, old), ..COUNTED_STRICT_LIKE };
pub static DISRUPTION_BUDGET: Strategy = Strategy { name_rule: NameRule::PathSegment, ..COUNTED_STRICT_LIKE };
pub static POLICIES: Strategy = Strategy {
    validate: |cx, new, _| match cx.subresource {
        "" => crate::admission::policies::check(cx.kind.kind(), new),
        _ => Vec::new(),
    },
    ..COUNTED_STRICT_LIKE
};
/// Slices count changes of their labels too, and have no topology: that is what `zone` and `nodeName` replaced.
pub static ENDPOINT_SLICE: Strategy = Strategy {
    generation: true,
    prepare_create: |cx, slice| {
        drop_topology(slice);
        super::prepare_create(cx, slice)
    },
    prepare_update: |_, new, old| {
        if new["metadata"]["labels"] != old["metadata"]["labels"] || super::differs_in_content(new, old) {
            meta::set_generation(new, meta::generation(old) + 1);
        }
        drop_topology(new);
        Ok(())
    },
    ..PLAIN
};

fn drop_topology(slice: &mut Value) {
    for endpoint in slice.get_mut(&["endpoints"]).and_then(Value::as_list_mut).into_iter().flatten() {
        endpoint.remove(&["deprecatedTopology"]);
    }
}

pub static STRICT: Strategy = Strategy { unconditional_update: false, ..PLAIN };
pub static CREATE_ON_UPDATE: Strategy = Strategy { create_on_update: true, ..PLAIN };
pub static RUNTIME_CLASS: Strategy = Strategy { create_on_update: true, unconditional_update: false, ..PLAIN };
pub static LEASE: Strategy = RUNTIME_CLASS_LIKE;
const RUNTIME_CLASS_LIKE: Strategy = Strategy { create_on_update: true, unconditional_update: false, ..PLAIN };
pub static RETURNS: Strategy = Strategy { returns_deleted: true, ..PLAIN };
pub static RETURNS_STRICT: Strategy = Strategy { returns_deleted: true, unconditional_update: false, ..PLAIN };
pub static CSI_DRIVER: Strategy = Strategy {
    warnings: |driver, _| {
        let spec = &driver["spec"];
        let unset = !spec["tokenRequests"].is_empty() && spec["serviceAccountTokenInSecrets"].is_null();
        unset.then(|| SECRETS_UNSET.to_owned()).into_iter().collect()
    },
    returns_deleted: true,
    unconditional_update: false,
    ..PLAIN
};
const SECRETS_UNSET: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
pub static RETURNS_COUNTED: Strategy = Strategy { returns_deleted: true, generation: true, ..PLAIN };
pub static EVENT: Strategy = Strategy { name_rule: NameRule::Late, ..EVENT_LIKE };
pub static NEW_EVENT: Strategy = EVENT_LIKE;
const EVENT_LIKE: Strategy = Strategy { create_on_update: true, dependents: super::Dependents::Unsupported, ..PLAIN };
/// One without a name gets one.
pub static LIMIT_RANGE: Strategy = Strategy {
    create_on_update: true,
    prepare_create: |cx, range| {
        if range.str_at(&["metadata", "name"]).is_empty() {
            let name = range.str_at(&["metadata", "uid"]).to_owned();
            range.set(&["metadata", "name"], name);
        }
        super::prepare_create(cx, range)
    },
    ..PLAIN
};
pub static ROLE: Strategy = Strategy { create_on_update: true, name_rule: NameRule::PathSegment, ..PLAIN };
pub static IP_ADDRESS: Strategy = Strategy { name_rule: NameRule::Ip, ..PLAIN };

pub static NAMESPACE: Strategy = Strategy {
    returns_deleted: true,
    name_rule: NameRule::Label,
    prepare_create: |_, namespace| {
        namespace.set(&["status"], Value::object([("phase", "Active".into())]));
        let list = namespace.make_list(&["spec", "finalizers"]);
        if !list.iter().any(|f| f.as_str() == Some("kubernetes")) {
            list.push("kubernetes".into());
        }
        name_label(namespace);
        Ok(())
    },
    prepare_update: |_, namespace, old| {
        keep(namespace, old, &["spec", "finalizers"]);
        name_label(namespace);
        Ok(())
    },
    keep_for_other: |_, namespace, old| {
        let asked = namespace.clone();
        keep(namespace, old, &["spec"]);
        keep(namespace, old, &["status"]);
        keep(namespace, &asked, &["spec", "finalizers"]);
    },
    may_remove: |namespace| meta::is_deleting(namespace) && namespace["spec"]["finalizers"].is_empty(),
    may_delete_on_update: |namespace| namespace["spec"]["finalizers"].is_empty(),
    marked: |namespace| {
        namespace.set(&["status", "phase"], "Terminating");
        namespace.remove(&["metadata", "deletionGracePeriodSeconds"]);
    },
    ..PLAIN
};

fn name_label(namespace: &mut Value) {
    let name = namespace.str_at(&["metadata", "name"]).to_owned();
    namespace.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
}

/// A kubelet creates its node with its status.
pub static NODE: Strategy = Strategy {
    wipe_for_create: |_, _| {},
    default: sync_pod_cidrs,
    validate: |cx, new, old| {
        let mut errors = Vec::new();
        let Some(old) = old.filter(|_| cx.subresource.is_empty()) else { return errors };
        let before = old.list_at(&["spec", "podCIDRs"]);
        if !before.is_empty() && new.list_at(&["spec", "podCIDRs"]) != before {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(field_error(ErrorKind::Forbidden, "spec.podCIDRs", Value::Null, detail));
        }
        errors
    },
    ..PLAIN
};

fn sync_pod_cidrs(node: &mut Value) {
    let single = node.str_at(&["spec", "podCIDR"]).to_owned();
    let list = node.list_at(&["spec", "podCIDRs"]);
    let first = list.first().and_then(Value::as_str).unwrap_or("").to_owned();
    if single.is_empty() && !first.is_empty() {
        node.set(&["spec", "podCIDR"], first);
    } else if !single.is_empty() && single != first {
        node.set(&["spec", "podCIDRs"], Value::list([single.as_str()]));
    }
}

pub static PERSISTENT_VOLUME: Strategy = Strategy {
    returns_deleted: true,
    prepare_create: |cx, volume| {
        volume.set(&["status"], Value::object([("phase", "Pending".into())]));
        volume.set(&["status", "lastPhaseTransitionTime"], cx.server.now_text());
        Ok(())
    },
    prepare_status: |cx, new, old| {
        if new["status"]["phase"] != old["status"]["phase"]
            && new["status"]["lastPhaseTransitionTime"] == old["status"]["lastPhaseTransitionTime"]
        {
            new.set(&["status", "lastPhaseTransitionTime"], cx.server.now_text());
        }
        Ok(())
    },
    ..PLAIN
};

/// `dataSourceRef` is the newer name of `dataSource`: who sets one has both. A new claim's `dataSource` takes less.
fn sync_data_source(claim: &mut Value, had_source: bool) {
    let spec = &claim["spec"];
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    let told = (source.str_at(&["apiGroup"]), source.str_at(&["kind"]));
    let known = matches!(told, ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"));
    match (source.is_null(), reference.is_null()) {
        (false, true) if known || had_source => claim.set(&["spec", "dataSourceRef"], source),
        (false, true) => drop(claim.remove(&["spec", "dataSource"])),
        (true, false) if reference.str_at(&["namespace"]).is_empty() => claim.set(&["spec", "dataSource"], reference),
        _ => {}
    }
}

pub static PERSISTENT_VOLUME_CLAIM: Strategy = Strategy {
    returns_deleted: true,
    prepare_update: |_, claim, old| {
        sync_data_source(claim, ["dataSource", "dataSourceRef"].iter().any(|name| !old["spec"][*name].is_null()));
        Ok(())
    },
    prepare_create: |_, claim| {
        sync_data_source(claim, false);
        claim.set(&["status"], Value::object([("phase", "Pending".into())]));
        Ok(())
    },
    ..PLAIN
};

pub static SECRET: Strategy = Strategy {
    default: |secret| {
        let Some(Value::Object(texts)) = secret.remove(&["stringData"]) else { return };
        for (name, text) in texts {
            if let Some(text) = text.as_str() {
                secret.set(&["data", &name], STANDARD.encode(text));
            }
        }
    },
    validate: |_, new, old| {
        let mut errors = sealed(new, old, &["data"]);
        if let Some(old) = old.filter(|o| o["type"] != new["type"]) {
            let _ = old;
            errors.push(field_error(ErrorKind::Invalid, "type", new["type"].clone(), "field is immutable"));
        }
        errors
    },
    ..PLAIN
};

pub static CONFIG_MAP: Strategy =
    Strategy { validate: |_, new, old| sealed(new, old, &["data", "binaryData"]), ..PLAIN };

/// What is immutable stays so, and its content with it.
fn sealed(new: &Value, old: Option<&Value>, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(old) = old.filter(|o| o.bool_at(&["immutable"])) else { return errors };
    let mut forbid = |field: &str| {
        let detail = "field is immutable when `immutable` is set";
        errors.push(field_error(ErrorKind::Forbidden, field, Value::Null, detail));
    };
    if !new.bool_at(&["immutable"]) {
        forbid("immutable");
    }
    for field in fields {
        if !schema::checks::same(&new[*field], &old[*field]) {
            forbid(field);
        }
    }
    errors
}

/// Trust bundles: the name says the signer, and there is no anchor that clients could not use.
pub static CLUSTER_TRUST_BUNDLE: Strategy = Strategy {
    unconditional_update: false,
    name_rule: NameRule::Own,
    validate: |_, bundle, old| {
        let mut errors = named(bundle, |name, prefix| trust_bundle_name(bundle, name, prefix));
        let text = bundle.str_at(&["spec", "trustBundle"]);
        if old.is_none_or(|old| old.str_at(&["spec", "trustBundle"]) != text)
            && let Some(wrong) = trust_anchors(text)
        {
            errors.push(FieldError::invalid("spec.trustBundle", "<value omitted>", wrong));
        }
        let signer = |bundle: &Value| bundle.str_at(&["spec", "signerName"]).to_owned();
        if old.is_some_and(|old| signer(old) != signer(bundle)) {
            errors.push(FieldError::invalid("spec.signerName", signer(bundle), "field is immutable"));
        }
        errors
    },
    ..PLAIN
};

/// What a kind's own rule says of a name and of the prefix of a generated one.
pub(crate) fn named(object: &Value, rule: impl Fn(&str, bool) -> Vec<String>) -> Vec<FieldError> {
    let given = ["generateName", "name"].map(|field| (field, object.str_at(&["metadata", field])));
    let given = given.into_iter().filter(|(_, name)| !name.is_empty());
    let problems = given.flat_map(|(field, name)| {
        let problems = rule(name, field == "generateName").into_iter();
        problems.map(move |problem| FieldError::invalid(format!("metadata.{field}"), name, problem))
    });
    problems.collect()
}

/// `ValidateClusterTrustBundleName`: `SIGNER:NAME` with the signer's slashes as colons.
fn trust_bundle_name(bundle: &Value, name: &str, prefix: bool) -> Vec<String> {
    let signer = bundle.str_at(&["spec", "signerName"]);
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return NameRule::Subdomain.check(name, prefix);
    }
    let start = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&start) {
        Some(rest) => NameRule::Subdomain.check(rest, prefix),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {start}")],
    }
}

/// What is wrong with a bundle of CA certificates in PEM.
fn trust_anchors(text: &str) -> Option<String> {
    let blocks = pki::Pem::parse_all(text).unwrap_or_default();
    for (at, block) in blocks.iter().enumerate() {
        if block.label != "CERTIFICATE" {
            return Some(format!("entry {at} has bad block type: {}", block.label));
        }
        match pki::Certificate::from_der(&block.contents) {
            Err(_) => return Some(format!("entry {at} does not parse as X.509")),
            Ok(certificate) if !certificate.is_ca => return Some(format!("entry {at} does not have the CA bit set")),
            Ok(_) => {}
        }
        let twins: Vec<String> = (0..blocks.len())
            .filter(|other| blocks.get(*other).is_some_and(|other| other.contents == block.contents))
            .map(|at| at.to_string())
            .collect();
        if twins.len() > 1 {
            return Some(format!("duplicate trust anchor (indices [{}])", twins.join(" ")));
        }
    }
    blocks.is_empty().then(|| "at least one trust anchor must be provided".to_owned())
}

/// A request for a certificate is made in the name of its creator and never changes.
pub static CERTIFICATE_SIGNING_REQUEST: Strategy = Strategy {
    name_rule: NameRule::PathSegment,
    prepare_create: |cx, request| {
        request.remove(&["status"]);
        let user = cx.user;
        request.set(&["spec", "username"], user.name.as_str());
        request.set(&["spec", "uid"], user.uid.as_str());
        request.set(&["spec", "groups"], Value::list(user.groups.iter().map(String::as_str)));
        let extra = user.extra.iter().map(|(k, v)| (k.clone(), Value::list(v.iter().map(String::as_str))));
        request.set(&["spec", "extra"], Value::Object(extra.collect()));
        Ok(())
    },
    keep_for_update: |kind, new, old| {
        keep_for_update(kind, new, old);
        keep(new, old, &["spec"]);
    },
    keep_for_status: |kind, new, old| {
        keep_for_status(kind, new, old);
        keep_conditions(new, old, |ty| ty != "Approved" && ty != "Denied");
    },
    keep_for_other: |_, new, old| {
        let conditions = new["status"]["conditions"].clone();
        keep(new, old, &["spec"]);
        keep(new, old, &["status"]);
        new.set(&["status", "conditions"], conditions);
    },
    prepare_status: stamp_conditions,
    prepare_other: stamp_conditions,
    validate: |_, new, old| {
        // What is stored was checked when it came.
        if let Some(old) = old {
            return signing_progress(new, old);
        }
        let text = new.str_at(&["spec", "request"]);
        let pem = STANDARD.decode(text).unwrap_or_default();
        let why = match pki::CertificateRequest::from_pem(&String::from_utf8_lossy(&pem)) {
            Ok(_) => return Vec::new(),
            Err(pki::Error::NoPem { .. }) => "PEM block type must be CERTIFICATE REQUEST".to_owned(),
            Err(error) => error.to_string(),
        };
        vec![field_error(ErrorKind::Invalid, "spec.request", new["spec"]["request"].clone(), &why)]
    },
    ..PLAIN
};

/// What was decided stays, and a certificate is given once.
fn signing_progress(new: &Value, old: &Value) -> Vec<FieldError> {
    const CONDITIONS: &str = "status.conditions";
    const CERTIFICATE: &str = "status.certificate";
    let count =
        |v: &Value, ty: &str| v.list_at(&["status", "conditions"]).iter().filter(|c| c.str_at(&["type"]) == ty).count();
    let mut errors = Vec::new();
    for (i, condition) in new.list_at(&["status", "conditions"]).iter().enumerate() {
        let known = matches!(condition.str_at(&["type"]), "Approved" | "Denied" | "Failed");
        let supported: &[&str] = if known { &["True"] } else { &["True", "False", "Unknown"] };
        let field = format!("{CONDITIONS}[{i}].status");
        match condition.str_at(&["status"]) {
            "" => errors.push(FieldError::required(field, "")),
            status if !supported.contains(&status) => {
                errors.push(FieldError::not_supported(field, status, supported));
            }
            _ => {}
        }
    }
    if count(old, "Approved").min(count(old, "Denied")) == 0 && count(new, "Approved").min(count(new, "Denied")) > 0 {
        let mut last = new.list_at(&["status", "conditions"]).iter().map(|c| c.str_at(&["type"]));
        let last = last.rfind(|ty| ["Approved", "Denied"].contains(ty)).unwrap_or_default();
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(field_error(ErrorKind::Invalid, CONDITIONS, last.into(), why));
    }
    for ty in ["Approved", "Denied", "Failed"] {
        if count(new, ty) < count(old, ty) {
            let why = format!("updates may not remove a condition of type {ty:?}");
            errors.push(field_error(ErrorKind::Forbidden, CONDITIONS, Value::Null, &why));
        }
    }
    let (given, held) = (new.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
    if given != held {
        if let Some(why) = certificate_problem(given) {
            errors.push(field_error(ErrorKind::Invalid, CERTIFICATE, "<certificate data>".into(), &why));
        }
        if !held.is_empty() {
            let why = "updates may not modify existing certificate content";
            errors.push(field_error(ErrorKind::Forbidden, CERTIFICATE, Value::Null, why));
        }
    }
    errors
}

/// What is wrong with a signed certificate: base64 of PEM.
fn certificate_problem(text: &str) -> Option<String> {
    let pem = STANDARD.decode(text).unwrap_or_default();
    let blocks = pki::Pem::parse_all(&String::from_utf8_lossy(&pem)).unwrap_or_default();
    if let Some(other) = blocks.iter().find(|block| block.label != "CERTIFICATE") {
        return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", other.label));
    }
    let problem = blocks.iter().find_map(|block| pki::Certificate::from_der(&block.contents).err());
    problem.map(|error| error.to_string()).or_else(|| {
        (!text.is_empty() && blocks.is_empty()).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
    })
}

/// Of the conditions only those of `mine` may come or change.
fn keep_conditions(new: &mut Value, old: &Value, mine: fn(&str) -> bool) {
    let of = |v: &Value, keep: bool| -> Vec<Value> {
        let list = v.list_at(&["status", "conditions"]).iter();
        list.filter(|c| mine(c.str_at(&["type"])) == keep).cloned().collect()
    };
    let mut conditions = of(old, false);
    conditions.extend(of(new, true));
    if conditions.is_empty() {
        new.remove(&["status", "conditions"]);
    } else {
        new.set(&["status", "conditions"], Value::List(conditions));
    }
}

fn stamp_conditions(cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<()> {
    let before = old.list_at(&["status", "conditions"]).to_vec();
    let now = cx.server.now_text();
    for condition in new.get_mut(&["status", "conditions"]).and_then(Value::as_list_mut).into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition.set(&["lastUpdateTime"], now.as_str());
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before.iter().find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
            let since = same.map(|c| c["lastTransitionTime"].clone()).filter(|t| !t.is_null());
            condition.set(&["lastTransitionTime"], since.unwrap_or_else(|| now.as_str().into()));
        }
    }
    Ok(())
}

/// An APIService without a service behind it is ours, and always available.
pub static API_SERVICE: Strategy = Strategy {
    prepare_create: |cx, service| {
        service.remove(&["status"]);
        if service["spec"]["service"].is_null() {
            let condition = Value::object([
                ("type", "Available".into()),
                ("status", "True".into()),
                ("reason", "Local".into()),
                ("message", "Local APIServices are always available".into()),
                ("lastTransitionTime", cx.server.now_text().into()),
            ]);
            service.set(&["status", "conditions"], Value::List(vec![condition]));
        }
        Ok(())
    },
    unconditional_update: false,
    name_rule: NameRule::Own,
    validate: |_, service, _| {
        let wanted = format!("{}.{}", service.str_at(&["spec", "version"]), service.str_at(&["spec", "group"]));
        let legacy = service.str_at(&["spec", "group"]).is_empty() && service.str_at(&["spec", "version"]) != "v1";
        let legacy = legacy.then(|| {
            FieldError::required("spec.group", "only v1 may have an empty group and it better be legacy kube")
        });
        let wrong = named(service, |name, _| match names::path_segment(name) {
            problems if problems.is_empty() && name != wanted => {
                vec![format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")]
            }
            problems => problems,
        });
        let bundle = STANDARD.decode(service.str_at(&["spec", "caBundle"])).map_or(0, |bundle| bundle.len());
        let unused = (bundle > 0 && service["spec"]["service"].is_null()).then(|| {
            FieldError::invalid("spec.caBundle", format!("{bundle} bytes"), "local APIServices may not have a caBundle")
        });
        wrong.into_iter().chain(legacy).chain(unused).collect()
    },
    ..PLAIN
};

/// Definitions: the status (names accepted, established) is the server's own work.
pub static DEFINITION: Strategy = Strategy {
    generation: true,
    dependents: super::Dependents::Unsupported,
    unconditional_update: false,
    prepare_create: |cx, definition| {
        meta::set_generation(definition, 1);
        definition.remove(&["status"]);
        let storage = definition.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"]));
        let stored: Vec<Value> = storage.map(|v| v["name"].clone()).into_iter().collect();
        definition.set(&["status", "storedVersions"], Value::List(stored));
        super::prepare_create(cx, definition)
    },
    prepare_update: |_, new, old| {
        bump_generation(new, old);
        let storage =
            new.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"])).map(|v| v["name"].clone());
        if let Some(storage) = storage {
            let list = new.make_list(&["status", "storedVersions"]);
            if !list.contains(&storage) {
                list.push(storage);
            }
        }
        Ok(())
    },
    validate: crate::crd_checks::validate,
    warnings: crate::crd::warnings,
    may_remove: |definition| meta::is_deleting(definition) && !meta::has_finalizers(definition),
    marked: crate::crd::mark,
    ..PLAIN
};
