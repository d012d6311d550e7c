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
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_version_counts_and_stale_ones_are_named() {
        let resource = |plural: &str, kind: &str, scope: &str| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": scope, "verbs": ["list"]});
        let document = json!({"items": [
            {"metadata": {"name": "a.io"}, "versions": [
                {"version": "v1", "resources": [resource("as", "A", "Namespaced")], "freshness": "Current"},
                {"version": "v1beta1", "resources": [resource("as", "A", "Namespaced"), resource("bs", "B", "Cluster")]}]},
            {"metadata": {"name": "gone.io"}, "versions": [{"version": "v1", "freshness": "Stale"}]},
            {"metadata": {}, "versions": [{"version": "v1", "freshness": "Stale"}]},
        ]});
        let mut all = Discovered::default();
        parse(&document, &mut all);
        let found: Vec<_> = all
            .resources
            .iter()
            .map(|r| (&*r.version, &*r.plural, r.namespaced, r.can("list"), r.path("n", None)))
            .collect();
        assert_eq!(
            found,
            [
                ("v1", "as", true, true, "/apis/a.io/v1/namespaces/n/as".to_owned()),
                ("v1beta1", "bs", false, true, "/apis/a.io/v1beta1/bs".to_owned()),
            ]
        );
        assert_eq!(all.failed, ["gone.io/v1", "v1"]);
    }
}
