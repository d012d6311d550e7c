//! Which requests a webhook or a policy is about: rules, namespaces and labels.

use schema::{Value, selector::LabelSelector};

use super::AdmissionRequest;
use crate::Server;

pub const GROUP: &str = "admissionregistration.k8s.io";

/// Labels and names that selectors look at, of one request.
pub struct Subject<'a> {
    server: &'a Server,
    request: &'a AdmissionRequest,
    namespace_labels: Option<Value>,
}

impl<'a> Subject<'a> {
    /// `None`: what guards the guards is not asked about them.
    pub fn new(server: &'a Server, request: &'a AdmissionRequest) -> Option<Subject<'a>> {
        if request.group == GROUP {
            return None;
        }
        let namespace_labels = if request.is("", "namespaces") {
            let object = if request.object.is_null() { request.old.as_deref() } else { Some(&request.object) };
            object.map(|o| o["metadata"]["labels"].clone())
        } else if request.namespace.is_empty() {
            None
        } else {
            server.read("", "namespaces", "", &request.namespace).map(|n| n["metadata"]["labels"].clone())
        };
        Some(Subject { server, request, namespace_labels })
    }

    /// A webhook (`rules`) or a policy's constraints (`resourceRules` and `excludeResourceRules`).
    pub fn is_matched(&self, by: &Value, rules: &str) -> bool {
        let equivalent = by.str_at(&["matchPolicy"]) != "Exact";
        let covers = |rule: &Value| covers(rule, self.request, self.server, equivalent);
        // A binding without rules is about all that its policy is about.
        let named = by.list_at(&[rules]);
        (named.is_empty() && rules == "resourceRules" || named.iter().any(covers))
            && !by.list_at(&["excludeResourceRules"]).iter().any(covers)
            && self.is_selected(by)
    }

    /// `namespaceSelector` and `objectSelector`.
    pub fn is_selected(&self, by: &Value) -> bool {
        if self.namespace_labels.as_ref().is_some_and(|l| !selects(&by["namespaceSelector"], l)) {
            return false;
        }
        let selector = &by["objectSelector"];
        if ["matchLabels", "matchExpressions"].iter().all(|field| selector[*field].is_empty()) {
            return true;
        }
        // What is not there has no labels that could be wrong, and is not selected either.
        let is_selected =
            |object: &Value| !object["metadata"].is_null() && selects(selector, &object["metadata"]["labels"]);
        is_selected(&self.request.object) || self.request.old.as_deref().is_some_and(is_selected)
    }
}

fn covers(rule: &Value, request: &AdmissionRequest, server: &Server, equivalent: bool) -> bool {
    let has = |field: &str, wanted: &str| {
        rule.list_at(&[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
    };
    let resource = rule.list_at(&["resources"]).iter().filter_map(Value::as_str).any(|pattern| {
        let (main, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
        (main == "*" || main == request.resource) && (sub == "*" || sub == request.subresource)
    });
    let version = has("apiVersions", &request.version)
        || equivalent
            && server.registry().groups().iter().any(|(group, versions)| {
                let serves = |v: &String| server.registry().get(group, v, &request.resource).is_some();
                *group == request.group && versions.iter().any(|v| has("apiVersions", v) && serves(v))
            });
    let scope = match rule.str_at(&["scope"]) {
        "Cluster" => request.namespace.is_empty() || request.is("", "namespaces"),
        "Namespaced" => !request.namespace.is_empty() && !request.is("", "namespaces"),
        _ => true,
    };
    let names = rule.list_at(&["resourceNames"]);
    let named = names.is_empty() || names.iter().filter_map(Value::as_str).any(|name| name == request.name);
    resource
        && version
        && scope
        && named
        && has("apiGroups", &request.group)
        && has("operations", request.operation.as_str())
}

pub fn selects(selector: &Value, labels: &Value) -> bool {
    selector.is_null()
        || LabelSelector::from_value(selector)
            .is_ok_and(|s| s.matches(|name| labels.get(&[name]).and_then(Value::as_str)))
}
