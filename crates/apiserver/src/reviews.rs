//! Kinds that are only ever created, and answered at once: reviews.

use schema::Value;
use schema::selector::{FieldSelector, LabelSelector};
use schema::validate::{FieldError, names};

use crate::call::Call;
use crate::options::WriteOptions;
use crate::reply::{self, Reply};
use crate::seams::{Decision, Rule};
use crate::status::Result;
use crate::versions::Versions;
use crate::{Attributes, Status, User, negotiate};

pub async fn create(mut call: Call, body: &[u8]) -> Result<Reply> {
    let kind = call.kind.clone();
    let options = WriteOptions::parse(&call.query, "CreateOptions", call.user_agent())?;
    let encoding = negotiate::content_type(&call.headers, true)?;
    let mut review = call.decode_object(body, encoding, options.field_validation)?;
    if !matches!(kind.kind(), "Binding" | "SelfSubjectRulesReview") {
        call.record_managers(&kind, None, &mut review, "", &options, &Versions::default());
    }
    match kind.kind() {
        "TokenReview" => token_review(&call, &mut review).await?,
        "SelfSubjectReview" => {
            review.set(&["metadata", "creationTimestamp"], call.server.now_text());
            review.set(&["status", "userInfo"], call.user.to_value());
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" | "SelfSubjectAccessReview" => {
            access_review(&call, &mut review).await?;
        }
        "SelfSubjectRulesReview" => rules_review(&call, &mut review)?,
        "Binding" => {
            let name = review.str_at(&["metadata", "name"]).to_owned();
            return crate::subresources::bind(call, &name, review).await;
        }
        other => return Err(Status::internal(format_args!("no review {other}"))),
    }
    Ok(reply::value(201, &review, call.accepted.encoding))
}

/// What upstream says of a token that no authenticator accepts.
const UNKNOWN_TOKEN: &str = "invalid bearer token";

async fn token_review(call: &Call, review: &mut Value) -> Result<()> {
    let token = review.str_at(&["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review["spec"]["audiences"].texts();
    let found = call.server.config().authenticate.review(&call.server, &token, &audiences).await;
    let mut status = Value::object::<&str>([]);
    match found {
        Ok(Some((user, audiences))) => {
            status.set(&["authenticated"], true);
            status.set(&["user"], user.to_value());
            if !audiences.is_empty() {
                status.set(&["audiences"], audiences);
            }
        }
        Ok(None) => status.set(&["error"], UNKNOWN_TOKEN),
        Err(refused) => status.set(&["error"], format!("[{UNKNOWN_TOKEN}, {refused}]")),
    }
    review.set(&["status"], status);
    Ok(())
}

async fn access_review(call: &Call, review: &mut Value) -> Result<()> {
    let spec = review["spec"].clone();
    let own = call.kind.kind() == "SelfSubjectAccessReview";
    let user = if own { call.user.clone() } else { User::of(&spec, "user") };
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if call.kind.resource.namespaced && review.str_at(&["metadata", "namespace"]).is_empty() {
        review.set(&["metadata", "namespace"], call.info.namespace.as_str());
    }
    let errors = access_review_errors(call, review, &user);
    if !errors.is_empty() {
        // Upstream names no kind here.
        return Err(Status::invalid("authorization.k8s.io", "", "", errors));
    }
    if call.kind.kind() == "LocalSubjectAccessReview"
        && review.str_at(&["metadata", "namespace"]) != call.info.namespace
    {
        let namespace = &call.info.namespace;
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    let text = |v: &Value, name: &str| v.str_at(&[name]).to_owned();
    let (fields, labels) = (selector(&resource["fieldSelector"], false), selector(&resource["labelSelector"], true));
    let unread = [("fieldSelector", fields.1, &fields.0), ("labelSelector", labels.1, &labels.0)];
    let unread: Vec<String> = unread
        .into_iter()
        .filter(|(_, all, _)| !all)
        .map(|(name, _, read)| {
            let partially = if read.is_empty() { "" } else { "partially " };
            format!("spec.resourceAttributes.{name} {partially}ignored due to parse error")
        })
        .collect();
    let version = if resource.str_at(&["version"]).is_empty() { "*".into() } else { text(resource, "version") };
    let attributes = if path.is_null() {
        Attributes {
            verb: text(resource, "verb"),
            api_group: text(resource, "group"),
            api_version: version,
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            field_selector: fields.0,
            label_selector: labels.0,
            is_resource: true,
            ..Attributes::default()
        }
    } else {
        Attributes { verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() }
    };
    let (allowed, denied, reason, error) = match call.server.decide(&user, &attributes).await {
        Decision::Allow(why) => (true, false, why, String::new()),
        Decision::Deny(why) => (false, true, why, String::new()),
        Decision::NoOpinion(why) => (false, false, why, String::new()),
        Decision::Failed { denied, reason, error } => (false, denied, reason, error),
    };
    let mut status = Value::object([("allowed", allowed.into())]);
    if denied {
        status.set(&["denied"], true);
    }
    if !reason.is_empty() {
        status.set(&["reason"], reason);
    }
    let errors: Vec<String> = Some(error).filter(|error| !error.is_empty()).into_iter().chain(unread).collect();
    if !errors.is_empty() {
        status.set(&["evaluationError"], errors.join("; "));
    }
    review.set(&["status"], status);
    Ok(())
}

/// Everything wrong with a review, as upstream's validation has it.
fn access_review_errors(call: &Call, review: &Value, user: &User) -> Vec<FieldError> {
    let kind = call.kind.kind();
    let is_local = kind == "LocalSubjectAccessReview";
    let (resource, path) = (&review["spec"]["resourceAttributes"], &review["spec"]["nonResourceAttributes"]);
    let mut errors = Vec::new();
    let mut wrong = |field: &str, value: Value, why: &str| errors.push(FieldError::invalid(field, value, why));
    if resource.is_null() == path.is_null() {
        wrong("spec", path.clone(), "exactly one of nonResourceAttributes or resourceAttributes must be specified");
    }
    if kind != "SelfSubjectAccessReview" && user.name.is_empty() && user.groups.is_empty() {
        wrong("spec.user", "".into(), "at least one of user or group must be specified");
    }
    errors.extend(selector_errors(resource));
    let mut wrong = |field: &str, value: Value, why: &str| errors.push(FieldError::invalid(field, value, why));
    let metadata = review.object_at(&["metadata"]).into_iter().flatten();
    let allowed = |key: &str| key == "managedFields" || key == "creationTimestamp" || is_local && key == "namespace";
    if metadata.filter(|(key, value)| !value.is_empty() && !allowed(key)).count() > 0 {
        let why = if is_local { "must be empty except for namespace" } else { "must be empty" };
        wrong("metadata", review["metadata"].clone(), why);
    }
    let namespace = resource.str_at(&["namespace"]);
    if is_local && !resource.is_null() && namespace != review.str_at(&["metadata", "namespace"]) {
        wrong("spec.resourceAttributes.namespace", namespace.into(), "must match metadata.namespace");
    }
    if is_local && !path.is_null() {
        wrong("spec.nonResourceAttributes", path.clone(), "disallowed on this kind of request");
    }
    errors
}

/// What a review's selector asks for, in the form in which requests send theirs, and whether all of it could be read.
/// What cannot be does not narrow.
fn selector(attributes: &Value, is_labels: bool) -> (String, bool) {
    let raw = attributes.str_at(&["rawSelector"]);
    let reads = |text: &str| match is_labels {
        true => LabelSelector::parse(text).is_ok(),
        false => FieldSelector::parse(text).is_ok(),
    };
    if !raw.is_empty() {
        return if reads(raw) { (raw.into(), true) } else { (String::new(), false) };
    }
    let requirements = attributes.list_at(&["requirements"]);
    let term = |requirement: &Value| {
        let (key, values) = (requirement.str_at(&["key"]), requirement["values"].texts());
        let text = match (requirement.str_at(&["operator"]), values.as_slice(), is_labels) {
            ("In", [_, ..], true) => format!("{key} in ({})", values.join(",")),
            ("NotIn", [_, ..], true) => format!("{key} notin ({})", values.join(",")),
            ("Exists", [], true) => key.to_owned(),
            ("DoesNotExist", [], true) => format!("!{key}"),
            ("In", [value], false) => format!("{key}={}", escaped(value)),
            ("NotIn", [value], false) => format!("{key}!={}", escaped(value)),
            _ => return None,
        };
        reads(&text).then_some(text)
    };
    let terms: Vec<String> = requirements.iter().filter_map(term).collect();
    (terms.join(","), terms.len() == requirements.len())
}

/// A value in a field selector.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// What is wrong with a review's selectors.
fn selector_errors(resource: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["fieldSelector", "labelSelector"] {
        let selector = &resource[name];
        if selector.is_null() {
            continue;
        }
        let path = format!("spec.resourceAttributes.{name}");
        let (raw, requirements) = (selector.str_at(&["rawSelector"]), selector.list_at(&["requirements"]));
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{path}.requirements"), why));
        }
        for (at, requirement) in requirements.iter().enumerate() {
            let field = |name: &str| format!("{path}.requirements[{at}].{name}");
            let (key, values) = (requirement.str_at(&["key"]), requirement["values"].texts());
            let is_labels = name == "labelSelector";
            if key.is_empty() && !is_labels {
                errors.push(FieldError::required(field("key"), "must be specified"));
            }
            match (requirement.str_at(&["operator"]), values.is_empty()) {
                ("In" | "NotIn", true) => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(field("values"), why));
                }
                ("Exists" | "DoesNotExist", false) => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(field("values"), why));
                }
                _ => {}
            }
            if is_labels {
                let wrong = names::label_key(key).into_iter();
                errors.extend(wrong.map(|why| FieldError::invalid(field("key"), key, why)));
                for (i, value) in values.iter().enumerate() {
                    let wrong = names::label_value(value).into_iter();
                    errors.extend(
                        wrong.map(|why| FieldError::invalid(field(&format!("values[{i}]")), value.as_str(), why)),
                    );
                }
            }
        }
    }
    errors
}

/// The deprecated ComponentStatus: what runs in this process is healthy if it answers.
pub fn component_statuses(call: &Call) -> Result<Reply> {
    let status = |name: &str| {
        let condition =
            Value::object([("type", "Healthy".into()), ("status", "True".into()), ("message", "ok".into())]);
        Value::object([
            ("apiVersion", "v1".into()),
            ("kind", "ComponentStatus".into()),
            ("metadata", Value::object([("name", name.into())])),
            ("conditions", Value::List(vec![condition])),
        ])
    };
    const NAMES: [&str; 3] = ["scheduler", "controller-manager", "etcd-0"];
    if !call.info.name.is_empty() {
        let name = NAMES.iter().find(|n| **n == call.info.name);
        let name = name.ok_or_else(|| Status::not_found(&call.kind.group_resource(), &call.info.name))?;
        return Ok(reply::value(200, &status(name), call.accepted.encoding));
    }
    let list = Value::object([
        ("apiVersion", "v1".into()),
        ("kind", "ComponentStatusList".into()),
        ("metadata", Value::object::<&str>([])),
        ("items", Value::List(NAMES.iter().map(|n| status(n)).collect())),
    ]);
    Ok(reply::value(200, &list, call.accepted.encoding))
}

fn rules_review(call: &Call, review: &mut Value) -> Result<()> {
    let namespace = review.str_at(&["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let found = call.server.config().authorize.rules(&call.server, &call.user, &namespace);
    let list = |v: &[String]| Value::list(v.iter().map(String::as_str));
    let resource = |r: &Rule| {
        let mut out = Value::object([
            ("verbs", list(&r.verbs)),
            ("apiGroups", list(&r.api_groups)),
            ("resources", list(&r.resources)),
        ]);
        if !r.resource_names.is_empty() {
            out.set(&["resourceNames"], list(&r.resource_names));
        }
        out
    };
    let path = |r: &Rule| Value::object([("verbs", list(&r.verbs)), ("nonResourceURLs", list(&r.non_resource_urls))]);
    let paths = found.rules.iter().filter(|r| !r.non_resource_urls.is_empty()).map(path).collect();
    let resources = found.rules.iter().filter(|r| !r.resources.is_empty()).map(resource).collect();
    // The answer is an object of its own.
    review.remove(&["metadata"]);
    review.set(&["spec"], Value::object::<&str>([]));
    review.set(&["status", "resourceRules"], Value::List(resources));
    review.set(&["status", "nonResourceRules"], Value::List(paths));
    review.set(&["status", "incomplete"], found.incomplete);
    match found.errors.as_slice() {
        [] => {}
        [one] => review.set(&["status", "evaluationError"], one.as_str()),
        many => review.set(&["status", "evaluationError"], format!("[{}]", many.join(", "))),
    }
    Ok(())
}
