//! Reads `schema-data/overlay/*.yaml` and holds it against the facts: an orphan on either side is an error.

use crate::facts::{Facts, Result};
use crate::yaml::{self, Node};

/// Kinds that upstream's API server does not serve: the metrics server's, and versions that only clients still know.
const UNSERVED: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io/v1alpha1", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io/v1alpha1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1beta1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1beta1", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io/v1beta1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1beta1", "ValidatingWebhookConfiguration"),
    ("certificates.k8s.io/v1beta1", "CertificateSigningRequest"),
    ("coordination.k8s.io/v1beta1", "Lease"),
    ("scheduling.k8s.io/v1beta1", "PriorityClass"),
    ("metrics.k8s.io/v1beta1", "NodeMetrics"),
    ("metrics.k8s.io/v1beta1", "PodMetrics"),
];

#[derive(Default)]
pub struct Overlay {
    /// One a file: `apps/v1` and its rows.
    pub versions: Vec<(String, Node)>,
}

impl Overlay {
    pub fn add(&mut self, file: &str, text: &str) -> Result<()> {
        let node = yaml::parse(text).map_err(|e| format!("{file}: {e}"))?;
        let (group, version) = (node.str("group"), node.str("version"));
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        self.versions.push((api_version, node));
        Ok(())
    }

    /// Fills in what rows leave unsaid. `like` stands for the row of the same name in another version.
    pub fn complete(&mut self, facts: &Facts) -> Result<()> {
        for (api_version, node) in &mut self.versions {
            for (plural, row) in node.map_mut("resources").iter_mut().filter(|(_, row)| row.get("like").is_none()) {
                complete(facts, api_version, plural, row)
                    .map_err(|e| format!("overlay: {api_version} {plural}: {e}"))?;
            }
        }
        let said = self.versions.clone();
        for (plural, row) in self.versions.iter_mut().flat_map(|(_, node)| node.map_mut("resources")) {
            if let Some(other) = row.get("like").map(Node::text) {
                let found = said.iter().find(|(version, _)| version == other);
                let found = found.and_then(|(_, node)| node.map("resources").iter().find(|(name, _)| name == plural));
                *row = found.ok_or_else(|| format!("overlay: {other} has no {plural}"))?.1.clone();
            }
        }
        Ok(())
    }

    /// Plural and scope of a kind that is served as a resource.
    pub fn names(&self, api_version: &str, kind: &str) -> Option<(&str, bool)> {
        let (_, node) = self.versions.iter().find(|(v, _)| v == api_version)?;
        let (plural, row) = node.map("resources").iter().find(|(_, r)| r.str("kind") == kind)?;
        Some((plural, row.str("namespaced") == "true"))
    }

    /// The rows below `types:` of one file, with full message names. A short name is one of the file's own package.
    pub fn types<'o>(&'o self, facts: &Facts, version: usize) -> Result<Vec<(String, &'o Node)>> {
        let (api_version, node) = &self.versions[version];
        let package = node.map("resources").iter().find_map(|(_, r)| facts.kind(api_version, r.str("kind")));
        let package = package.and_then(|k| k.message.rsplit_once('.')).map(|(p, _)| p).unwrap_or_default();
        let full = |name: &str| if name.contains('.') { name.to_owned() } else { format!("{package}.{name}") };
        Ok(node.map("types").iter().map(|(name, row)| (full(name), row)).collect())
    }

    pub fn check(&self, facts: &Facts) -> Result<()> {
        for (api_version, node) in &self.versions {
            for (plural, row) in node.map("resources") {
                let kind = row.str("kind");
                let fact = facts.kind(api_version, kind);
                let fact = fact.ok_or_else(|| format!("overlay: {api_version} {plural}: facts have no kind {kind}"))?;
                let scope = if row.str("namespaced") == "true" { "namespaced" } else { "cluster" };
                for path in paths(row) {
                    resolve(facts, &fact.message, path)
                        .map_err(|e| format!("overlay: {api_version} {plural}: {path}: {e}"))?;
                }
                if fact.scope != "-" && fact.scope != scope {
                    return Err(format!("overlay: {api_version} {plural} is {scope}, the facts say {}", fact.scope));
                }
            }
        }
        let mut orphans = Vec::new();
        for kind in facts.kinds.iter().filter(|k| k.scope != "-") {
            let served = self.names(&kind.api_version, &kind.kind).is_some()
                || self.versions.iter().any(|(_, node)| {
                    node.map("resources")
                        .iter()
                        .flat_map(|(_, row)| row.map("subresources"))
                        .any(|(_, sub)| sub.str("kind") == kind.kind && sub.str("apiVersion") == kind.api_version)
                });
            if !served && !UNSERVED.contains(&(kind.api_version.as_str(), kind.kind.as_str())) {
                orphans.push(format!("{} {}", kind.api_version, kind.kind));
            }
        }
        if orphans.is_empty() {
            Ok(())
        } else {
            Err(format!("overlay: nothing says how these are served: {}", orphans.join(", ")))
        }
    }
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A kind has the usual verbs; what can be deleted is stored, in its own version; and the first column is the name.
fn complete(facts: &Facts, api_version: &str, plural: &str, row: &mut Node) -> Result<()> {
    let fact = facts.kind(api_version, row.str("kind")).ok_or("facts have no such kind")?;
    let text = |text: &str| Node::Scalar(text.to_owned(), true);
    row.or("namespaced", Node::Scalar((fact.scope == "namespaced").to_string(), false));
    row.or("verbs", Node::List(VERBS.map(text).into()));
    if row.list("verbs").iter().any(|verb| verb.text() == "delete") {
        row.or("storage", text(api_version));
        row.or("prefix", text(&format!("/registry/{plural}")));
    }
    if let Some(Node::List(columns)) = row.get_mut("columns")
        && !columns.iter().any(|column| column.str("name") == "Name")
    {
        let name = [("name", "Name"), ("type", "string"), ("format", "name"), ("source", ".metadata.name")];
        columns.insert(0, Node::Map(name.map(|(key, value)| (key.to_owned(), text(value))).into()));
    }
    Ok(())
}

/// Selectors that name no field: what upstream computes from others.
const COMPUTED: &[&str] = &["source", "status.successful"];

/// The JSON paths of a resource's row.
fn paths(row: &Node) -> impl Iterator<Item = &str> {
    let selectable = row.list("selectable").iter().map(Node::text).filter(|p| !COMPUTED.contains(p));
    let sources = row.list("columns").iter().flat_map(|c| c.str("source").split(' '));
    selectable.chain(sources.filter_map(|word| word.strip_prefix('.')))
}

fn resolve(facts: &Facts, message: &str, path: &str) -> Result<()> {
    let mut owner = Some(message);
    for step in path.split('.') {
        let Some(name) = owner else { return Err(format!("{step} is below a scalar")) };
        let field = match facts.field(name, step) {
            Ok(field) => field,
            // A map's key: `.spec.capacity.storage`.
            Err(_) if facts.message(name).is_ok_and(|m| m.form != "struct") => return Ok(()),
            Err(e) => return Err(e),
        };
        owner = field.ty.message();
    }
    Ok(())
}
