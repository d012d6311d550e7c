//! Which resources the API serves now, by aggregated discovery.

use reconcile::io::{Client, Error};
use serde_json::Value as Json;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource in the version its group prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|able| able == verb)
    }

    /// Path of the collection (`namespace` empty: of all namespaces) or of one object.
    pub fn path(&self, namespace: &str, name: Option<&str>) -> String {
        reconcile::path(&self.group, &self.version, &self.plural, self.namespaced.then_some(namespace), name)
    }
}

/// What was found, and the group versions that did not say what they serve.
#[derive(Debug, Default, PartialEq)]
pub struct Discovered {
    pub resources: Vec<Resource>,
    pub failed: Vec<String>,
}

pub async fn discover(client: &Client) -> Result<Discovered, Error> {
    let mut all = Discovered::default();
    for root in ["/api", "/apis"] {
        parse(&client.json(root.to_owned(), AGGREGATED).await?, &mut all);
    }
    Ok(all)
}

fn parse(document: &Json, all: &mut Discovered) {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    for group in list(&document["items"]) {
        let name = text(&group["metadata"]["name"]);
        let first = all.resources.len();
        for version in list(&group["versions"]) {
            let number = text(&version["version"]);
            if version["freshness"] == "Stale" {
                all.failed.push(if name.is_empty() { number } else { format!("{name}/{number}") });
                continue;
            }
            for resource in list(&version["resources"]) {
                let plural = text(&resource["resource"]);
                // The first version that has it is the preferred one.
                if all.resources.get(first..).unwrap_or_default().iter().any(|known| known.plural == plural) {
                    continue;
                }
                all.resources.push(Resource {
                    group: name.clone(),
                    version: number.clone(),
                    plural,
                    kind: text(&resource["responseKind"]["kind"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: list(&resource["verbs"]).iter().map(text).collect(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
