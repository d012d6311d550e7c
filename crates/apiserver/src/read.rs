//! `get` and `list`: from the cache, at the revision that was asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{Value, json};
use store::Revision;

use crate::cache::{Entry, Span, Storage};
use crate::call::Call;
use crate::encode::ListMeta;
use crate::kind::Kind;
use crate::options::{ListOptions, Match, parse_revision};
use crate::reply::{self, Reply};
use crate::status::Result;
use crate::{Server, Status, negotiate};

/// How long a read waits for a revision that has not come yet.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

impl Server {
    /// Waits until the cache has everything that was committed before this call.
    pub(crate) async fn consistent(&self) -> Result<Revision> {
        let revision = self.inner.config.store.revision().await.map_err(store_error)?;
        self.inner.publisher.reach(revision).await;
        Ok(revision)
    }

    /// Waits for a revision that a client has seen elsewhere.
    pub(crate) async fn fresh(&self, revision: Revision) -> Result<()> {
        let publisher = &self.inner.publisher;
        if publisher.applied() >= revision {
            return Ok(());
        }
        match tokio::time::timeout(FRESHNESS_WAIT, publisher.reach(revision)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Status::resource_version_too_large(revision, publisher.applied())),
        }
    }
}

/// What a failing store means to a client.
pub fn store_error(error: store::Error) -> Status {
    if !matches!(error, store::Error::Closed) {
        tracing::error!(%error, "datastore");
    }
    match error {
        store::Error::ReadOnly(_) | store::Error::Closed => Status::unavailable(error.to_string()),
        error => Status::internal(error),
    }
}

pub async fn get(call: &Call) -> Result<Reply> {
    let storage = call.kind.storage()?;
    let asked = parse_revision(call.query.get("resourceVersion").unwrap_or(""));
    // Upstream does not expect a client to make it up.
    match asked
        .map_err(|status| Status::plain_internal(status.message.trim_start_matches("invalid resource version: ")))?
    {
        None => {
            call.server.consistent().await?;
        }
        Some(revision) => call.server.fresh(revision).await?,
    }
    let entry = storage
        .get(&storage.key(&call.info.namespace, &call.info.name))
        .ok_or_else(|| Status::not_found(&call.kind.group_resource(), &call.info.name))?;
    let entry = call.server.one_in_version(&call.kind, &entry).await?;
    let body = call.view().object(&entry)?;
    Ok(reply::bytes(200, call.accepted.encoding.content_type(), body))
}

/// Where a page of a list begins.
struct Token {
    /// `None`: whatever is newest, as an inconsistent token asks.
    revision: Option<Revision>,
    start: String,
}

impl Token {
    fn decode(text: &str, prefix: &str) -> Result<Token> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let data = URL_SAFE_NO_PAD.decode(text).map_err(|e| bad(&e.to_string()))?;
        let value = json::parse(&data).map_err(|e| bad(&e.message))?;
        if value.str_at(&["v"]) != "meta.k8s.io/v1" {
            let version = value.str_at(&["v"]);
            return Err(bad(&format!("server does not recognize this encoded version {version}")));
        }
        let revision = match value.i64_at(&["rv"]) {
            None | Some(0) => return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
            Some(revision) => u64::try_from(revision).ok(),
        };
        let start = value.str_at(&["start"]);
        if start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let clean = start.trim_start_matches('/').split('/').all(|s| !s.is_empty() && s != "." && s != "..");
        if !clean {
            return Err(bad(start));
        }
        Ok(Token { revision, start: format!("{prefix}{}", start.trim_start_matches('/')) })
    }

    fn encode(start: &str, prefix: &str, revision: Option<Revision>) -> String {
        let value = Value::object([
            ("v", "meta.k8s.io/v1".into()),
            ("rv", revision.map_or(-1, |r| r as i64).into()),
            ("start", start.strip_prefix(prefix).unwrap_or(start).into()),
        ]);
        URL_SAFE_NO_PAD.encode(value.to_string())
    }
}

const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Objects of a span at a past revision: from the ring if it reaches back, else from the store.
async fn at(server: &Server, storage: &Storage, span: &Span, revision: Revision) -> Result<Option<Vec<Arc<Entry>>>> {
    if let Ok(entries) = storage.at(span, revision) {
        return Ok(Some(entries));
    }
    match server.inner.config.store.range(&span.prefix, Some(revision), &span.start, 0).await {
        Ok(range) => {
            let entries = range.items.into_iter().map(|kv| Arc::new(Entry::new(kv.key, kv.modified, &kv.value)));
            Ok(Some(entries.collect()))
        }
        Err(store::Error::Compacted { .. }) => Ok(None),
        Err(store::Error::Future { asked, newest }) => Err(Status::resource_version_too_large(asked, newest)),
        Err(error) => Err(store_error(error)),
    }
}

/// Does an object fit the selectors?
pub fn matches(storage: &Storage, entry: &Entry, options: &ListOptions) -> bool {
    options.labels.matches(|name| entry.label(name))
        && (options.fields.terms.is_empty() || options.fields.matches(|path| storage.field(entry, path).into()))
}

/// What a list has selected.
pub struct Selected {
    pub entries: Vec<Arc<Entry>>,
    pub meta: ListMeta,
}

/// Selects the objects of a list request, at the revision it names and in the version of the kind.
pub async fn select(server: &Server, kind: &Kind, namespace: &str, options: &ListOptions) -> Result<Selected> {
    let storage = &**kind.storage()?;
    let namespace = if namespace.is_empty() { options.single_namespace().unwrap_or("") } else { namespace };
    let mut span = storage.span(namespace);
    let base = span.prefix.clone();
    let asked = options.revision()?;
    let mut fixed = None;
    if !options.continue_token.is_empty() {
        if asked.is_some_and(|r| r != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(&options.continue_token, &base)?;
        span.start = token.start;
        match token.revision {
            Some(revision) => fixed = Some(revision),
            None => {
                server.consistent().await?;
            }
        }
    } else {
        match (asked, options.version_match) {
            (None, _) => {
                server.consistent().await?;
            }
            (Some(0), _) => {}
            (Some(revision), Some(Match::Exact)) => fixed = Some(revision),
            // A limit with a revision and no match means "exact", as it always has.
            (Some(revision), None) if options.limit > 0 => fixed = Some(revision),
            (Some(revision), _) => server.fresh(revision).await?,
        }
    }
    if let Some(revision) = fixed {
        server.fresh(revision).await?;
    }
    let paging = !options.continue_token.is_empty();
    let (all, revision) = match fixed {
        Some(revision) => {
            let kept = !paging || revision >= server.inner.pages_since.load(Ordering::Relaxed);
            match if kept { at(server, storage, &span, revision).await? } else { None } {
                Some(entries) => (entries, revision),
                None if !paging => return Err(Status::expired(EXPIRED)),
                None => {
                    let mut status = Status::expired(INCONSISTENT);
                    status.continue_token = Some(Token::encode(&span.start, &base, None));
                    return Err(status);
                }
            }
        }
        None => {
            let applied = server.inner.publisher.applied();
            if let Some(name) = options.single_name().filter(|_| !namespace.is_empty() || !storage.namespaced) {
                let entry = storage.get(&storage.key(namespace, name));
                let newest = entry.as_ref().map_or(0, |e| e.revision);
                (entry.into_iter().collect(), applied.max(newest))
            } else {
                let (entries, newest) = storage.newest(&span);
                (entries, applied.max(newest))
            }
        }
    };
    let mut meta = ListMeta { revision, ..ListMeta::default() };
    let everything = options.selects_everything();
    // Whatever is at hand is sent whole.
    let at_hand = asked == Some(0) && options.continue_token.is_empty();
    if options.limit == 0 || at_hand {
        let mut entries = server.in_version(kind, all).await?;
        if !everything {
            entries.retain(|e| matches(storage, e, options));
        }
        return Ok(Selected { entries, meta });
    }
    // Selectors look at objects as they are served.
    let all = if everything { all } else { server.in_version(kind, all).await? };
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let mut entries = Vec::with_capacity(limit.min(all.len()));
    let total = all.len();
    for (at, entry) in all.into_iter().enumerate() {
        if entries.len() == limit {
            // Something follows the last item, whether it fits or not: so upstream pages through a filtered range too.
            let last = entries.last().map_or("", |e: &Arc<Entry>| &*e.key);
            meta.continue_token = Token::encode(&format!("{last}\0"), &base, Some(revision));
            meta.remaining = everything.then_some((total - at) as u64);
            break;
        }
        if everything || matches(storage, &entry, options) {
            entries.push(entry);
        }
    }
    let entries = if everything { server.in_version(kind, entries).await? } else { entries };
    Ok(Selected { entries, meta })
}

pub async fn list(call: &Call) -> Result<Reply> {
    let options = ListOptions::parse(&call.query, &call.kind, "", false)?;
    let selected = select(&call.server, &call.kind, &call.info.namespace, &options).await?;
    let chunks = call.view().list(selected.entries, selected.meta);
    let gzip = negotiate::accepts_gzip(&call.headers);
    reply::chunks(call.accepted.encoding.content_type(), chunks.bytes_hint(), gzip, chunks)
}
