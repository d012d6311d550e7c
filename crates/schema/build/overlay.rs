//! Reads `schema-data/overlay/*.yaml` and holds it against the facts: an orphan on either side is an error.

use crate::facts::{Facts, Result};
use crate::yaml::{self, Node};

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

    /// Plural and scope of a kind that is served as a resource.
    pub fn names(&self, api_version: &str, kind: &str) -> Option<(&str, bool)> {
        let (_, node) = self.versions.iter().find(|(v, _)| v == api_version)?;
        let (plural, row) = node.map("resources").iter().find(|(_, r)| r.str("kind") == kind)?;
        Some((plural, row.str("namespaced") == "true"))
    }

    pub fn check(&self, facts: &Facts) -> Result<()> {
        for (api_version, node) in &self.versions {
            for (plural, row) in node.map("resources") {
                let kind = row.str("kind");
                let fact = facts.kind(api_version, kind);
                let fact = fact.ok_or_else(|| format!("overlay: {api_version} {plural}: facts have no kind {kind}"))?;
                let scope = if row.str("namespaced") == "true" { "namespaced" } else { "cluster" };
                if fact.scope != "-" && fact.scope != scope {
                    return Err(format!("overlay: {api_version} {plural} is {scope}, the facts say {}", fact.scope));
                }
            }
        }
        Ok(())
    }
}
