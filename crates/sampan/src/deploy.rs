//! `<data-dir>/manifests/`: what lies there is applied to the cluster, at start and whenever it changes, as by
//! `kubectl apply --server-side --force-conflicts`. As with k3s, an object that leaves a file is deleted, a file that
//! leaves the directory takes nothing with it, and `NAME.skip` beside `NAME` leaves NAME alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use reconcile::io::{Client, Error as ApiError, Identity};
use schema::{Value, yaml};
use serde::{Deserialize, Serialize};

use crate::{files, inbox::Inbox};

const MANAGER: &str = "sampan-deployer";
const MAX_FILE_BYTES: u64 = 16 << 20;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: {source}", path.display())]
    Yaml { path: PathBuf, source: yaml::YamlError },
    #[error("{}: document {number} has no {what}", path.display())]
    Nameless { path: PathBuf, number: usize, what: &'static str },
    #[error("the cluster has no kind {kind} in {api_version}")]
    NoKind { api_version: String, kind: String },
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("{path}: the answer ended early")]
    Cut { path: String },
}

/// An object that a file asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Record {
    /// What each file's objects were when all of them had been applied.
    files: BTreeMap<String, BTreeSet<Target>>,
}

/// Applies until dropped.
pub async fn run(client: Client, dir: PathBuf) {
    let mut deployer = Deployer {
        client: client.with_identity(Identity("system:sampan:deployer".into())),
        kinds: HashMap::new(),
        record: std::fs::read(dir.join(".deployed.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default(),
        done: BTreeMap::new(),
    };
    let mut inbox = match Inbox::open(&dir) {
        Ok(inbox) => inbox,
        Err(error) => return tracing::error!(dir = %dir.display(), %error, "manifests cannot be followed"),
    };
    let mut retry = FIRST_RETRY;
    loop {
        let complete = deployer.step(&dir, &inbox.files()).await;
        if complete {
            retry = FIRST_RETRY;
        }
        tokio::select! {
            changed = inbox.changed() => {
                if let Err(error) = changed {
                    return tracing::error!(dir = %dir.display(), %error, "manifests are followed no longer");
                }
                retry = FIRST_RETRY;
            }
            // A kind may come with a CRD, a namespace with another file.
            () = tokio::time::sleep(retry), if !complete => retry = (retry * 2).min(LAST_RETRY),
        }
    }
}

struct Deployer {
    client: Client,
    /// Plural and whether namespaced, by apiVersion and kind.
    kinds: HashMap<(String, String), (String, bool)>,
    record: Record,
    /// Contents that were applied in this life.
    done: BTreeMap<PathBuf, Vec<u8>>,
}

impl Deployer {
    /// Whether everything is as the files say.
    async fn step(&mut self, dir: &Path, found: &[PathBuf]) -> bool {
        let mut complete = true;
        self.done.retain(|path, _| found.contains(path));
        for path in found.iter().filter(|path| is_manifest(path) && !found.contains(&skip_mark(path))) {
            match self.file(path).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(file = %path.display(), "applied");
                    let text = serde_json::to_vec(&self.record).unwrap_or_default();
                    if let Err(error) = files::write(&dir.join(".deployed.json"), &text, 0o600) {
                        tracing::warn!(%error, "cannot note what was applied");
                    }
                }
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "not applied");
                    // Trying again does not mend a garbled file; its change will be seen.
                    complete &= !matches!(error, Error::Api(_) | Error::NoKind { .. } | Error::Cut { .. });
                }
            }
        }
        complete
    }

    /// Whether there was something to do.
    async fn file(&mut self, path: &Path) -> Result<bool, Error> {
        let bytes = read(path)?;
        if self.done.get(path) == Some(&bytes) {
            return Ok(false);
        }
        let objects = parse(path, &bytes)?;
        let mut targets = BTreeSet::new();
        let mut failure = None;
        for (mut target, mut object) in objects {
            // One object that is refused does not keep the others away.
            match self.apply(&mut target, &mut object).await {
                Ok(()) => drop(targets.insert(target)),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for gone in self.record.files.get(&name).cloned().unwrap_or_default().difference(&targets) {
            // Not if another file has it by now.
            if !self.record.files.iter().any(|(other, targets)| *other != name && targets.contains(gone)) {
                self.delete(gone).await?;
            }
        }
        self.record.files.insert(name, targets);
        self.done.insert(path.to_owned(), bytes);
        Ok(true)
    }

    async fn apply(&mut self, target: &mut Target, object: &mut Value) -> Result<(), Error> {
        let (plural, namespaced) = self.kind(&target.api_version, &target.kind).await?;
        target.namespace = match (namespaced, target.namespace.is_empty()) {
            (false, _) => String::new(),
            (true, true) => "default".to_owned(),
            (true, false) => target.namespace.clone(),
        };
        if namespaced {
            object.set(&["metadata", "namespace"], target.namespace.as_str());
        }
        let mut body = Vec::new();
        schema::json::encode_untyped(object, &mut body);
        let path = format!("{}?fieldManager={MANAGER}&force=true", path(target, &plural));
        self.send(Method::PATCH, path, Some("application/apply-patch+yaml"), body.into()).await.map(drop)
    }

    async fn delete(&mut self, target: &Target) -> Result<(), Error> {
        let plural = match self.kind(&target.api_version, &target.kind).await {
            Ok((plural, _)) => plural,
            // Its kind has gone, and it with it.
            Err(Error::NoKind { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.send(Method::DELETE, path(target, &plural), None, Bytes::new()).await {
            Err(Error::Api(error)) if error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Asks discovery when a kind is not known yet.
    async fn kind(&mut self, api_version: &str, kind: &str) -> Result<(String, bool), Error> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.get(&key) {
            return Ok(known.clone());
        }
        let no_kind = || Error::NoKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let answer = match self.send(Method::GET, group_path(api_version), None, Bytes::new()).await {
            Err(Error::Api(error)) if error.is_not_found() => return Err(no_kind()),
            answer => answer?,
        };
        let list: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        for resource in list["resources"].as_array().into_iter().flatten() {
            let (Some(name), Some(kind)) = (resource["name"].as_str(), resource["kind"].as_str()) else { continue };
            if !name.contains('/') {
                let namespaced = resource["namespaced"].as_bool().unwrap_or(false);
                self.kinds.insert((api_version.to_owned(), kind.to_owned()), (name.to_owned(), namespaced));
            }
        }
        self.kinds.get(&key).cloned().ok_or_else(no_kind)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Error::Cut { path: path.clone() })?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        }
        let response = self.client.send(request).await?;
        response.into_body().collect().await.map(|body| body.to_bytes()).map_err(|_| Error::Cut { path })
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn skip_mark(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".skip");
    name.into()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(Error::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

/// The objects of a file, lists unfolded. JSON is YAML.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(Target, Value)>, Error> {
    let documents = yaml::parse_all(bytes).map_err(|source| Error::Yaml { path: path.to_owned(), source })?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let unfolded = match document.get(&["items"]).and_then(Value::as_list) {
            Some(items) if document.str_at(&["kind"]).ends_with("List") => items.to_vec(),
            _ => vec![document],
        };
        for object in unfolded {
            let nameless = |what| Error::Nameless { path: path.to_owned(), number: index + 1, what };
            let text = |path: &[&str]| object.str_at(path).to_owned();
            let target = Target {
                api_version: text(&["apiVersion"]),
                kind: text(&["kind"]),
                namespace: text(&["metadata", "namespace"]),
                name: text(&["metadata", "name"]),
            };
            for (field, what) in
                [(&target.api_version, "apiVersion"), (&target.kind, "kind"), (&target.name, "metadata.name")]
            {
                // They become parts of a path.
                if field.is_empty() || field.contains(['?', '#', '%', ' ']) {
                    return Err(nameless(what));
                }
            }
            objects.push((target, object));
        }
    }
    // Namespaces and definitions first, as `kubectl apply` users expect of a file in any order.
    objects.sort_by_key(|(target, _)| match &*target.kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        _ => 2,
    });
    Ok(objects)
}

fn group_path(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}

fn path(target: &Target, plural: &str) -> String {
    let group = group_path(&target.api_version);
    let namespace =
        if target.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", target.namespace) };
    format!("{group}{namespace}/{plural}/{}", target.name)
}

#[cfg(test)]
mod tests;
