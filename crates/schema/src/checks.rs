//! Validation that no single rule can say: what fields of one object demand of each other. The overlay names these
//! functions (`check=toleration`) beside the rules of a type, and [`crate::validate::object`] calls them.

mod cluster;
mod devices;
mod events;
mod flow;
mod pods;
mod storage;
mod workloads;

use crate::Value;
use crate::quantity::Quantity;
use crate::validate::{ErrorKind, FieldError};

/// A value to check, and what was found wrong with it.
pub struct Check<'a> {
    pub value: &'a Value,
    /// What it was, on an update.
    pub old: Option<&'a Value>,
    /// `spec.containers[0]`
    pub path: &'a str,
    pub errors: &'a mut Vec<FieldError>,
}

pub type Function = fn(&mut Check<'_>);

/// The place of a function in the table, by its name in the overlay.
pub fn find(name: &str) -> Option<usize> {
    FUNCTIONS.iter().position(|(n, _)| *n == name)
}

pub(crate) static FUNCTIONS: &[(&str, Function)] = &[
    ("certificateSigningRequest", cluster::certificate_signing_request),
    ("claim", storage::claim),
    ("clusterRole", cluster::cluster_role),
    ("clusterRoleBinding", cluster::cluster_role_binding),
    ("configMap", storage::config_map),
    ("container", pods::container),
    ("containerResource", workloads::container_resource),
    ("containerPort", pods::container_port),
    ("cronJob", workloads::cron_job),
    ("csiDriver", storage::csi_driver),
    ("csiNodeDriver", storage::csi_node_driver),
    ("daemonSetUpdate", workloads::daemon_set_update),
    ("deploymentSpec", workloads::deployment),
    ("deploymentUpdate", workloads::deployment_update),
    ("deviceAttribute", devices::device_attribute),
    ("deviceClaim", devices::device_claim),
    ("deviceRequest", devices::device_request),
    ("disruptionBudget", workloads::disruption_budget),
    ("downwardFiles", pods::downward_files),
    ("endpointSubset", cluster::endpoint_subset),
    ("endpoints", cluster::endpoint_slice),
    ("envVar", pods::env_var),
    ("event", events::event),
    ("exitCodes", workloads::exit_codes),
    ("failureRule", workloads::failure_rule),
    ("families", cluster::families),
    ("flowNamespace", flow::flow_namespace),
    ("flowSchema", flow::flow_schema),
    ("handler", pods::handler),
    ("hostPath", storage::host_path),
    ("httpGet", pods::http_get),
    ("ingress", cluster::ingress),
    ("ingressClass", cluster::ingress_class),
    ("ingressPath", cluster::ingress_path),
    ("ingressRule", cluster::ingress_rule),
    ("job", workloads::job),
    ("lease", cluster::lease),
    ("limitRangeItem", cluster::limit_range_item),
    ("limitResponse", flow::limit_response),
    ("metric", workloads::metric),
    ("metricTarget", workloads::metric_target),
    ("namespace", cluster::namespace),
    ("networkPolicy", cluster::network_policy),
    ("networkPolicyPeer", cluster::network_policy_peer),
    ("networkPolicyPort", cluster::network_policy_port),
    ("newEvent", events::new_event),
    ("nodeSelectorRequirement", pods::node_selector_requirement),
    ("persistentVolume", storage::persistent_volume),
    ("podAffinityTerm", pods::pod_affinity_term),
    ("podAutoscaler", workloads::pod_autoscaler),
    ("podCertificate", storage::pod_certificate),
    ("podCertificateRequest", cluster::pod_certificate_request),
    ("podMounts", pods::pod_mounts),
    ("podSpec", pods::pod_spec),
    ("podTemplate", pods::pod_template),
    ("policyRule", cluster::policy_rule),
    ("priorityClass", cluster::priority_class),
    ("priorityLevel", flow::priority_level),
    ("probe", pods::probe),
    ("projected", storage::projected),
    ("queuing", flow::queuing),
    ("quotaSpec", cluster::quota_spec),
    ("resourceSlice", devices::resource_slice),
    ("resources", pods::resources),
    ("revisionData", storage::revision_data),
    ("role", cluster::role),
    ("roleBinding", cluster::role_binding),
    ("ruleResources", cluster::rule_resources),
    ("runsOn", workloads::runs_on),
    ("schedulingGates", pods::scheduling_gates),
    ("seccompProfile", pods::seccomp_profile),
    ("secret", storage::secret),
    ("securityContext", pods::security_context),
    ("service", cluster::service),
    ("statefulSet", workloads::stateful_set),
    ("statefulSetUpdate", workloads::stateful_set_update),
    ("serviceCIDRs", cluster::service_cidrs),
    ("storageClass", storage::storage_class),
    ("storageMigration", cluster::storage_migration),
    ("strategy", workloads::strategy),
    ("subject", cluster::subject),
    ("sysctl", pods::sysctl),
    ("taints", cluster::taints),
    ("templateMounts", pods::template_mounts),
    ("toleration", pods::toleration),
    ("topologySpread", pods::topology_spread),
    ("validatingPolicy", cluster::validating_policy),
    ("volume", storage::volume_source),
    ("volumeAttachmentSource", storage::volume_attachment_source),
    ("volumeAttributesClass", storage::volume_attributes_class),
];

impl<'a> Check<'a> {
    fn at(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.path.to_owned(),
            _ if name.starts_with('[') => format!("{}{name}", self.path),
            _ => format!("{}.{name}", self.path),
        }
    }

    fn text(&self, name: &str) -> &'a str {
        self.value.str_at(&[name])
    }

    fn has(&self, name: &str) -> bool {
        self.value.member(name).is_some_and(|v| !v.is_null())
    }

    fn push(&mut self, kind: ErrorKind, name: &str, value: impl Into<Value>, detail: impl Into<String>) {
        let field = self.at(name);
        self.errors.push(FieldError::new(kind, field, value, detail));
    }

    fn invalid(&mut self, name: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(ErrorKind::Invalid, name, value, detail);
    }

    /// One error a problem.
    fn problems(&mut self, name: &str, value: impl Into<Value>, problems: Vec<String>) {
        let value = value.into();
        for problem in problems {
            self.invalid(name, value.clone(), problem);
        }
    }

    fn required(&mut self, name: &str, detail: &str) {
        self.push(ErrorKind::Required, name, "", detail);
    }

    fn forbidden(&mut self, name: &str, detail: &str) {
        self.push(ErrorKind::Forbidden, name, "", detail);
    }

    fn not_supported(&mut self, name: &str, value: impl Into<Value>, supported: &[&str]) {
        let field = self.at(name);
        self.errors.push(FieldError::not_supported(field, value, supported));
    }

    /// The text there is one of these; empty is left to `required`.
    fn one_of(&mut self, name: &str, supported: &[&str]) {
        let text = self.text(name);
        if !text.is_empty() && !supported.contains(&text) {
            self.not_supported(name, text.to_owned(), supported);
        }
    }

    /// Names that occur twice in a list, with the place of the second: `spec.volumes[1].name`.
    fn unique(&mut self, list: &str, key: &str) {
        let value = self.value;
        let items = value.list_at(&[list]);
        for (i, item) in items.iter().enumerate() {
            let name = item.str_at(&[key]);
            if !name.is_empty() && items[..i].iter().any(|other| other.str_at(&[key]) == name) {
                self.push(ErrorKind::Duplicate, &format!("{list}[{i}].{key}"), name, "");
            }
        }
    }

    /// Upstream compares semantically: empty and absent are one. An update changed this member.
    fn changed(&self, name: &str) -> bool {
        let Some(old) = self.old else { return false };
        !same(self.value.member(name).unwrap_or(&Value::Null), old.member(name).unwrap_or(&Value::Null))
    }

    fn immutable(&mut self, name: &str) {
        if self.changed(name) {
            // A text that is absent is an empty one.
            let text = self.old.and_then(|old| old.member(name)).is_some_and(|old| old.as_str().is_some());
            let zero = if text { Value::from("") } else { Value::Null };
            let value = self.value.member(name).cloned().unwrap_or(zero);
            self.invalid(name, value, "field is immutable");
        }
    }
}

/// Equality in which an empty list or object and an absent one are one, as upstream's semantic comparison has it. A pointer's
/// zero is something; the zero of another field is in no value of a schema's normal form, or in all of them.
pub fn same(a: &Value, b: &Value) -> bool {
    let hollow = |v: &Value| match v {
        Value::List(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        other => other.is_null(),
    };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| y.get(k).map_or_else(|| hollow(v), |w| same(v, w)))
                && y.iter().all(|(k, w)| x.contains_key(k) || hollow(w))
        }
        (Value::List(x), Value::List(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        _ => a == b || hollow(a) && hollow(b),
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| Quantity::parse(text).ok())
}
