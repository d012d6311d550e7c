//! Subresources with a type or a meaning of their own: binding, eviction, token, and parts of an object.

use http::Method;
use schema::validate::{FieldError, aggregate, names};
use schema::{Type, Value, apply, selector::LabelSelector};

use crate::admission::Operation;
use crate::call::Call;
use crate::delete::check_preconditions;
use crate::encode::message_of;
use crate::kind::builtin;
use crate::options::{DeleteOptions, WriteOptions};
use crate::patch::patch as patch_object;
use crate::reply::{self, Reply};
use crate::request::GroupResource;
use crate::status::Result;
use crate::versions::Versions;
use crate::write::{self, Part, Produced, Update};
use crate::{Status, meta, read};

pub async fn serve(call: Call, method: Method, body: &[u8]) -> Result<Reply> {
    let name = call.info.name.clone();
    let subresource = call.info.subresource.clone();
    let verb = call.info.verb.clone();
    let allowed = call.kind.subresource(&subresource).is_some_and(|s| s.verbs.iter().any(|v| **v == verb));
    if !allowed || name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    match (subresource.as_str(), &method) {
        ("scale", _) => crate::scale::serve(call, method, body).await,
        ("binding", &Method::POST) => {
            let binding = call.decode_other(body, "v1", "Binding")?;
            bind(call, &name, binding).await
        }
        ("eviction", &Method::POST) => evict(call, body).await,
        ("token", &Method::POST) => token(call, body).await,
        (_, &Method::GET | &Method::HEAD) => read::get(&call).await,
        (_, &Method::PUT) => write::update(call, body, Part::Other).await,
        (_, &Method::PATCH) => patch_object(call, body, Part::Other).await,
        _ => Err(Status::method_not_allowed()),
    }
}

impl Call {
    pub(crate) fn update_of(&self, subresource: &'static str, options: WriteOptions) -> Update<'static> {
        Update {
            kind: self.kind.clone(),
            namespace: self.info.namespace.clone(),
            name: self.info.name.clone(),
            part: Part::Given,
            subresource,
            replaces: false,
            options,
            may_create: false,
            admission: false,
            versions: Versions::default(),
        }
    }

    /// The object that the request names, as it is now.
    pub(crate) async fn current(&self) -> Result<Value> {
        self.server.consistent().await?;
        let storage = self.kind.storage()?;
        let entry = storage.get(&storage.key(&self.info.namespace, &self.info.name));
        let entry = entry.ok_or_else(|| Status::not_found(&self.kind.group_resource(), &self.info.name))?;
        self.server.object(&self.kind, &entry).await
    }
}

// ---- binding

/// Binds a pod to a node.
pub async fn bind(mut call: Call, name: &str, mut binding: Value) -> Result<Reply> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", call.user_agent())?;
    let registry = call.server.registry();
    let pods = registry.get("", "v1", "pods").cloned().ok_or_else(Status::no_such_resource)?;
    if binding.str_at(&["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let namespace = binding.str_at(&["metadata", "namespace"]);
    if !namespace.is_empty() && namespace != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let (kind, node) = (binding.str_at(&["target", "kind"]), binding.str_at(&["target", "name"]));
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    match node {
        "" => errors.push(FieldError::required("target.name", "")),
        _ if errors.is_empty() => {
            let problems = names::dns1123_subdomain(node).into_iter();
            errors.extend(problems.map(|problem| FieldError::invalid("target.name", node, problem)));
        }
        _ => {}
    }
    if !errors.is_empty() {
        // Upstream does not tell it as a validation of the object.
        return Err(Status::plain_internal(aggregate(&errors)));
    }
    let mut request = call.admission(
        &pods,
        Operation::Create,
        name,
        &call.info.namespace,
        "binding",
        options.to_value("CreateOptions"),
        options.dry_run,
    );
    binding.set(&["metadata", "namespace"], call.info.namespace.as_str());
    request.object = binding;
    call.server.mutate(&mut request).await?;
    call.server.validate(&mut request).await?;
    let binding = request.object;
    let node = binding.str_at(&["target", "name"]).to_owned();
    let uid = binding.str_at(&["metadata", "uid"]).to_owned();
    let version = binding.str_at(&["metadata", "resourceVersion"]).to_owned();
    let now = call.server.now_text();
    call.kind = pods.clone();
    call.info.name = name.into();
    let update = call.update_of("binding", options);
    let gr = GroupResource::new("", "pods/binding");
    let produce = |old: Option<&Value>| {
        let pod = old.ok_or_else(|| Status::not_found(&pods.group_resource(), name))?;
        let conflict = |why: String| Err(Status::conflict(&gr, name, &why));
        for (wanted, field, label) in [(&uid, "uid", "UID"), (&version, "resourceVersion", "ResourceVersion")] {
            let found = pod.str_at(&["metadata", field]);
            if !wanted.is_empty() && wanted != found {
                return conflict(format!(
                    "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
                ));
            }
        }
        if meta::is_deleting(pod) {
            return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let bound = pod.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return conflict(format!("pod {name} is already assigned to node {bound:?}"));
        }
        if !pod["spec"]["schedulingGates"].is_empty() {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut pod = pod.clone();
        pod.set(&["spec", "nodeName"], node.as_str());
        pod.remove(&["status", "nominatedNodeName"]);
        for map in ["annotations", "labels"] {
            for (key, value) in binding.object_at(&["metadata", map]).into_iter().flatten() {
                pod.set(&["metadata", map, key], value.clone());
            }
        }
        meta::set_condition(&mut pod, "PodScheduled", "True", "", "", &now);
        Ok(Some(Produced { object: pod, managed: true }))
    };
    call.update(&update, &produce).await?;
    Ok(reply::status(&Status::created(), call.accepted.encoding))
}

// ---- eviction

async fn evict(mut call: Call, body: &[u8]) -> Result<Reply> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", call.user_agent())?;
    let mut eviction = call.decode_other(body, "policy/v1", "Eviction")?;
    let name = call.info.name.clone();
    let namespace = call.info.namespace.clone();
    if eviction.str_at(&["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    delete.dry_run |= options.dry_run;
    let mut request = call.admission(
        &call.kind,
        Operation::Create,
        &name,
        &namespace,
        "eviction",
        options.to_value("CreateOptions"),
        delete.dry_run,
    );
    eviction.set(&["metadata", "namespace"], namespace.as_str());
    request.object = eviction;
    call.server.mutate(&mut request).await?;
    call.server.validate(&mut request).await?;
    let pod = call.current().await?;
    let phase = pod.str_at(&["status", "phase"]);
    let ignores = matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_deleting(&pod);
    let own_version = delete.resource_version.clone();
    let mut guarded = false;
    if ignores {
        if !matches!(phase, "Succeeded" | "Failed") && !meta::is_deleting(&pod) && own_version.is_none() {
            delete.resource_version = Some(pod.str_at(&["metadata", "resourceVersion"]).to_owned());
        }
    } else if let Some(budget) = budget_of(&call, &pod)? {
        let ready = pod
            .list_at(&["status", "conditions"])
            .iter()
            .any(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True");
        let count = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
        let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        let enough = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        if !ready && (always || enough) {
            guarded = own_version.is_none();
            if guarded {
                delete.resource_version = Some(pod.str_at(&["metadata", "resourceVersion"]).to_owned());
            }
        } else {
            spend(&mut call, &name, &budget, delete.dry_run).await?;
        }
    }
    let result = disrupt(&mut call, &namespace, &name, delete).await;
    match result {
        Err(status) if status.is_conflict() && guarded => Err(too_many(budget_name(&call, &pod))),
        Err(status) => Err(status),
        Ok(()) => Ok(reply::status(&Status::created(), call.accepted.encoding)),
    }
}

fn budget_name(call: &Call, pod: &Value) -> String {
    budget_of(call, pod).ok().flatten().map_or(String::new(), |b| b.str_at(&["metadata", "name"]).to_owned())
}

fn too_many(budget: String) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    Status::too_many_requests(message, 10).with_cause(
        "DisruptionBudget",
        format!("The disruption budget {budget} is still being processed by the server."),
        "",
    )
}

/// The one budget that covers a pod.
fn budget_of(call: &Call, pod: &Value) -> Result<Option<Value>> {
    let labels = &pod["metadata"]["labels"];
    let budgets = call.server.read_all("policy", "poddisruptionbudgets", &call.info.namespace);
    let mut covering = budgets.into_iter().filter(|b| {
        LabelSelector::from_value(&b["spec"]["selector"])
            .is_ok_and(|s| s.matches(|name| labels.get(&[name]).and_then(Value::as_str)))
    });
    let first = covering.next();
    if covering.next().is_some() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::plain_internal(why));
    }
    Ok(first)
}

const DISRUPTED_PODS_MAX: usize = 2000;

/// Takes one disruption from a budget, or says why there is none.
async fn spend(call: &mut Call, pod: &str, budget: &Value, dry_run: bool) -> Result<()> {
    let registry = call.server.registry();
    let kind = registry.preferred("policy", "poddisruptionbudgets").cloned().ok_or_else(Status::no_such_resource)?;
    let name = budget.str_at(&["metadata", "name"]).to_owned();
    let gr = kind.group_resource();
    let now = call.server.now_text();
    let options = WriteOptions { dry_run, ..WriteOptions::default() };
    let update = Update {
        kind: kind.clone(),
        namespace: call.info.namespace.clone(),
        name: name.clone(),
        part: Part::Status,
        subresource: "status",
        replaces: false,
        options,
        may_create: false,
        admission: false,
        versions: Versions::default(),
    };
    let produce = |old: Option<&Value>| {
        let budget = old.ok_or_else(|| Status::not_found(&gr, &name))?;
        let count = |path: &[&str]| budget.i64_at(path).unwrap_or(0);
        if count(&["status", "observedGeneration"]) < count(&["metadata", "generation"]) {
            return Err(too_many(name.clone()));
        }
        let allowed = count(&["status", "disruptionsAllowed"]);
        if allowed < 0 {
            return Err(Status::forbidden(
                &GroupResource::new("policy", "poddisruptionbudget"),
                &name,
                "pdb disruptions allowed is negative",
            ));
        }
        let disrupted = budget.object_at(&["status", "disruptedPods"]).map_or(0, |o| o.len());
        if disrupted > DISRUPTED_PODS_MAX {
            return Err(Status::forbidden(
                &GroupResource::new("policy", "poddisruptionbudget"),
                &name,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            ));
        }
        if allowed == 0 {
            let (healthy, desired) = (count(&["status", "currentHealthy"]), count(&["status", "desiredHealthy"]));
            let message = "Cannot evict pod as it would violate the pod's disruption budget.";
            let cause =
                format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
            let mut status = Status::too_many_requests(message, 0).with_cause("DisruptionBudget", cause, "");
            if let Some(details) = &mut status.details {
                details.retry_after_seconds = 0;
            }
            return Err(status);
        }
        let mut budget = budget.clone();
        budget.set(&["status", "disruptionsAllowed"], allowed - 1);
        budget.set(&["status", "disruptedPods", pod], now.as_str());
        if allowed == 1 {
            let generation = count(&["metadata", "generation"]);
            let conditions = budget.make_list(&["status", "conditions"]);
            conditions.retain(|c| c.str_at(&["type"]) != "DisruptionAllowed");
            conditions.push(Value::object([
                ("type", "DisruptionAllowed".into()),
                ("status", "False".into()),
                ("reason", "InsufficientPods".into()),
                ("message", "".into()),
                ("observedGeneration", generation.into()),
                ("lastTransitionTime", now.as_str().into()),
            ]));
        }
        Ok(Some(Produced { object: budget, managed: true }))
    };
    call.update(&update, &produce).await.map(|_| ())
}

/// Marks a pod as disrupted, then deletes it.
async fn disrupt(call: &mut Call, namespace: &str, name: &str, mut delete: DeleteOptions) -> Result<()> {
    let kind = call.kind.clone();
    if !delete.dry_run {
        let now = call.server.now_text();
        let update = call.update_of("eviction", WriteOptions::default());
        let wanted = delete.clone();
        let produce = |old: Option<&Value>| {
            let pod = old.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
            check_preconditions(&kind, &wanted, pod)?;
            let mut pod = pod.clone();
            let message = "Eviction API: evicting";
            meta::set_condition(&mut pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", message, &now);
            Ok(Some(Produced { object: pod, managed: true }))
        };
        let written = call.update(&update, &produce).await?;
        if delete.resource_version.is_some() {
            delete.resource_version = Some(written.entry.revision.to_string());
        }
    }
    call.delete_object(&kind, namespace, name, delete, None).await.map(|_| ())
}

// ---- token

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_DEFAULT: i64 = 3600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

async fn token(call: Call, body: &[u8]) -> Result<Reply> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", call.user_agent())?;
    let mut request = call.decode_other(body, "authentication.k8s.io/v1", "TokenRequest")?;
    let account = call.current().await?;
    let (name, namespace) = (call.info.name.clone(), call.info.namespace.clone());
    if request["spec"]["expirationSeconds"].is_null() {
        request.set(&["spec", "expirationSeconds"], TOKEN_SECONDS_DEFAULT);
    }
    let now = call.server.now_text();
    let writer = apply::Writer {
        manager: options.manager(),
        api_version: "authentication.k8s.io/v1",
        subresource: "token",
        now: &now,
        resets: &[],
        others: None,
    };
    if let Some(id) = message_of("authentication.k8s.io/v1", "TokenRequest") {
        apply::update(builtin(), &Type::Message(id), None, &mut request, writer);
    }
    let mut errors = Vec::new();
    for (field, own) in [("name", &name), ("namespace", &namespace)] {
        let given = request.str_at(&["metadata", field]).to_owned();
        if !given.is_empty() && given != *own {
            let detail = format!("must match the service account {field} if specified");
            errors.push(FieldError::invalid(format!("metadata.{field}"), given, detail));
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", &name, errors));
        }
        request.set(&["metadata", field], own.as_str());
    }
    request.set(&["metadata", "uid"], account.str_at(&["metadata", "uid"]));
    request.set(&["metadata", "creationTimestamp"], now);
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or_default();
    let wrong = if seconds < TOKEN_SECONDS_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > TOKEN_SECONDS_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        ""
    };
    if !wrong.is_empty() {
        errors.push(FieldError::invalid("spec.expirationSeconds", seconds, wrong));
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", errors));
    }
    let bound = bound_object(&call, &account, &request)?;
    let kind = call.kind.clone();
    let mut admission = call.admission(
        &kind,
        Operation::Create,
        &name,
        &namespace,
        "token",
        options.to_value("CreateOptions"),
        options.dry_run,
    );
    admission.object = request;
    call.server.mutate(&mut admission).await?;
    call.server.validate(&mut admission).await?;
    let mut request = admission.object;
    call.server.config().issue_token.issue(&call.server, &account, bound.as_ref(), &mut request)?;
    Ok(reply::value(201, &request, call.accepted.encoding))
}

/// The Pod, Secret or Node to whose life a token is bound.
fn bound_object(call: &Call, account: &Value, request: &Value) -> Result<Option<Value>> {
    let reference = &request["spec"]["boundObjectRef"];
    if reference.is_empty() {
        return Ok(None);
    }
    let (kind, name) = (reference.str_at(&["kind"]), reference.str_at(&["name"]));
    let (plural, namespace) = match (reference.str_at(&["apiVersion"]), kind) {
        ("v1" | "", "Pod") => ("pods", call.info.namespace.as_str()),
        ("v1" | "", "Secret") => ("secrets", call.info.namespace.as_str()),
        ("v1" | "", "Node") => ("nodes", ""),
        (version, _) => {
            let group = if version.contains('/') { "" } else { "/" };
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}{version}, Kind={kind}"
            )));
        }
    };
    let gr = GroupResource::new("", plural);
    let object = call.server.read("", plural, namespace, name).ok_or_else(|| Status::not_found(&gr, name))?;
    let uid = reference.str_at(&["uid"]);
    let found = object.str_at(&["metadata", "uid"]);
    if !uid.is_empty() && uid != found {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, &why));
    }
    if plural == "pods" {
        let own = object.str_at(&["spec", "serviceAccountName"]);
        let account = account.str_at(&["metadata", "name"]);
        if own != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
    }
    Ok(Some(object))
}
