//! Custom resources between their versions, by the webhook of their definition: `spec.conversion` of strategy
//! `Webhook`, with `ConversionReview`s of apiextensions.k8s.io/v1 or v1beta1.
//!
//! What is stored stays in the storage version. [`Server::in_version`] gives whatever is read the version of a request
//! before anything else looks at it, [`Server::to_stored`] gives it back. A webhook may change labels and annotations
//! of the metadata and nothing else.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use schema::validate::{self, FieldError, names};
use schema::{Value, json};

use crate::cache::{Entry, Event};
use crate::kind::{Custom, Kind, split_api_version};
use crate::status::Result;
use crate::{Server, Status, convert, crd, encode, meta, webhooks};

const GROUP: &str = "apiextensions.k8s.io";
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Objects that are sent together: an answer of twice the size can still be read.
const BATCH_BYTES: usize = 1 << 20;

/// The webhook of a definition.
#[derive(Debug)]
pub struct Converter {
    client: Value,
    /// The version of the review: the first one that is named and known.
    review: Option<&'static str>,
}

impl Converter {
    /// `None`: the versions differ in name only.
    pub fn new(definition: &Value) -> Option<Converter> {
        let conversion = &definition["spec"]["conversion"];
        let webhook = &conversion["webhook"];
        let named = webhook.list_at(&["conversionReviewVersions"]).iter().filter_map(Value::as_str);
        let review = named.filter_map(|v| REVIEWS.into_iter().find(|known| *known == v)).next();
        (conversion.str_at(&["strategy"]) == "Webhook")
            .then(|| Converter { client: webhook["clientConfig"].clone(), review })
    }

    pub async fn convert(&self, server: &Server, objects: &[Value], to: &str) -> Result<Vec<Value>> {
        let (Some(first), Some(version)) = (objects.first(), self.review) else {
            return Err(Status::plain_internal("no supported conversion review versions"));
        };
        let of = printed(first.str_at(&["apiVersion"]), first.str_at(&["kind"]));
        let failed = |why: &str| Status::plain_internal(format!("conversion webhook for {of} {why}"));
        let api_version = format!("{GROUP}/{version}");
        let uid = meta::uid(&*server.config().random);
        let request = Value::object([
            ("uid", uid.as_str().into()),
            ("desiredAPIVersion", to.into()),
            ("objects", Value::List(objects.to_vec())),
        ]);
        let review = Value::object([
            ("kind", "ConversionReview".into()),
            ("apiVersion", api_version.as_str().into()),
            ("request", request),
        ]);
        let answer = webhooks::post(server, &self.client, TIMEOUT, &review)
            .await
            .and_then(|mut answer| accepted(&mut answer, &api_version, &uid))
            .map_err(|why| failed(&format!("failed: {why}")))?;
        restored(objects, answer, to).map_err(|why| failed(&format!("returned {why}")))
    }
}

/// What upstream's registry of types says of one that it does not know.
pub fn unregistered(api_version: &str, kind: &str) -> String {
    format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\"")
}

/// As Go prints a `GroupVersionKind`.
pub fn printed(api_version: &str, kind: &str) -> String {
    let (group, version) = split_api_version(api_version);
    format!("{group}/{version}, Kind={kind}")
}

/// The objects of an answer that belongs to the request and tells of success.
fn accepted(answer: &mut Value, api_version: &str, uid: &str) -> std::result::Result<Vec<Value>, String> {
    let of = printed(answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
    let wanted = printed(api_version, "ConversionReview");
    // v1beta1 never looked at what came back.
    let strict = api_version.ends_with("/v1");
    if of != "/, Kind=" && !REVIEWS.iter().any(|v| of == printed(&format!("{GROUP}/{v}"), "ConversionReview")) {
        return Err(unregistered(answer.str_at(&["apiVersion"]), answer.str_at(&["kind"])));
    }
    if strict && of != wanted {
        return Err(format!("expected webhook response of {wanted}, got {of}"));
    }
    let Some(mut response) = answer.remove(&["response"]).filter(|r| !r.is_null()) else {
        return Err("no response provided".into());
    };
    let given = response.str_at(&["uid"]);
    if strict && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (status, message) = (response.str_at(&["result", "status"]), response.str_at(&["result", "message"]));
    match (status, message) {
        ("Success", _) => Ok(std::mem::take(response.make_list(&["convertedObjects"]))),
        (_, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.chars().take(crate::outside::ERROR_BYTES_MAX).collect()),
    }
}

/// The converted objects, with the metadata that they had but for labels and annotations.
fn restored(originals: &[Value], converted: Vec<Value>, to: &str) -> std::result::Result<Vec<Value>, String> {
    if converted.len() != originals.len() {
        return Err(format!("{} objects, expected {}", converted.len(), originals.len()));
    }
    let single = originals.len() == 1;
    let restore = |(at, (original, mut converted)): (usize, (&Value, Value))| {
        let (object, metadata) = if single {
            ("invalid object".to_owned(), "invalid metadata".to_owned())
        } else {
            (format!("invalid converted object at index {at}"), format!("invalid metadata in object at index {at}"))
        };
        let typed = if single { format!("{object} at index 0") } else { object.clone() };
        for (field, called, wanted) in
            [("apiVersion", "groupVersion", to), ("kind", "kind", original.str_at(&["kind"]))]
        {
            let given = converted.str_at(&[field]);
            if given != wanted {
                return Err(format!("{typed}: invalid {called} (expected {wanted}, received {given})"));
            }
        }
        for (field, called) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
            let path = ["metadata", field];
            let (before, after) = (original.str_at(&path), converted.str_at(&path));
            if before != after {
                return Err(format!("{object}: must have the same {called}: {before} != {after}"));
            }
        }
        restore_metadata(original, &mut converted).map_err(|why| format!("{metadata}: {why}"))?;
        Ok(converted)
    };
    originals.iter().zip(converted).enumerate().map(restore).collect()
}

fn restore_metadata(original: &Value, converted: &mut Value) -> std::result::Result<(), String> {
    let given = converted.remove(&["metadata"]).ok_or("missing metadata in converted object")?;
    if given.as_object().is_none() {
        return Err(format!("invalid metadata of type {} in converted object", given.go_type()));
    }
    let mut metadata = original.get(&["metadata"]).cloned().unwrap_or_else(|| Value::object::<&str>([]));
    for field in ["labels", "annotations"] {
        let Some(new) = given.member(field).filter(|v| !v.is_null()) else {
            metadata.remove(&[field]);
            continue;
        };
        let Some(members) = new.as_object() else {
            return Err(format!("invalid metadata.{field} of type {} in converted object", new.go_type()));
        };
        if let Some((key, value)) = members.iter().find(|(_, v)| v.as_str().is_none()) {
            let ty = value.go_type();
            return Err(format!("metadata.{field}[{key}] must be a string, but is {ty} in converted object"));
        }
        if metadata.member(field) != Some(new) {
            let errors = match field {
                "labels" => validate::labels(Some(new), "metadata.labels"),
                _ => validate::annotations(Some(new), "metadata.annotation"),
            };
            if !errors.is_empty() {
                return Err(validate::aggregate(&errors));
            }
        }
        metadata.set(&[field], new.clone());
    }
    converted.set(&["metadata"], metadata);
    Ok(())
}

// ---- on the way in and out

impl Server {
    /// Stored objects in the version of a kind, each one where it was, with the defaults of the version they are stored
    /// in. The webhook is asked once for many, and for each of them if that fails; the error names those that it did not
    /// convert.
    async fn converted(
        &self,
        kind: &Kind,
        mut entries: Vec<Arc<Entry>>,
    ) -> std::result::Result<Vec<Arc<Entry>>, Vec<(Arc<Entry>, Status)>> {
        let Some((custom, converter)) = converter(kind) else { return Ok(entries) };
        let (mut others, mut unread) = (Vec::new(), Vec::new());
        for (at, entry) in entries.iter_mut().enumerate() {
            // What cannot be read stays as it is, for whoever encodes it to say so.
            let Ok(mut object) = json::parse(&entry.body) else { continue };
            custom.default(&mut object);
            if object.str_at(&["apiVersion"]) == &*kind.api_version {
                *entry = replaced(entry, &object);
            } else {
                others.push((at, object));
            }
        }
        let mut others = others.into_iter().peekable();
        while others.peek().is_some() {
            let (mut places, mut objects, mut bytes) = (Vec::new(), Vec::new(), 0);
            let fits = |bytes: usize, at: usize| bytes == 0 || bytes + entries[at].body.len() <= BATCH_BYTES;
            while let Some((at, object)) = others.next_if(|(at, _)| fits(bytes, *at)) {
                bytes += entries[at].body.len();
                places.push(at);
                objects.push(object);
            }
            let together = converter.convert(self, &objects, &kind.api_version).await;
            let mut results: Vec<_> = match together {
                Ok(converted) => converted.into_iter().map(Ok).collect(),
                Err(why) if objects.len() == 1 => vec![Err(why)],
                Err(_) => Vec::new(),
            };
            // Some of them may be what is wrong.
            for object in objects.iter().skip(results.len()) {
                let one = converter.convert(self, std::slice::from_ref(object), &kind.api_version).await;
                results.push(one.map(|converted| converted.into_iter().next().unwrap_or_default()));
            }
            for (at, result) in places.into_iter().zip(results) {
                match result {
                    Ok(mut object) => {
                        custom.prune(&mut object);
                        entries[at] = replaced(&entries[at], &object);
                    }
                    Err(why) => unread.push((entries[at].clone(), why)),
                }
            }
        }
        if unread.is_empty() { Ok(entries) } else { Err(unread) }
    }

    /// Stored objects in the version of a kind, as a list reads them.
    pub(crate) async fn in_version(&self, kind: &Kind, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>> {
        self.converted(kind, entries).await.map_err(|unread| {
            let rows =
                unread.iter().map(|(entry, why)| (entry.key.to_string(), corrupt(entry, &entry.key, &why.message)));
            Status::unreadable(&kind.group_resource(), rows.collect())
        })
    }

    /// A stored object in the version of a kind.
    pub(crate) async fn one_in_version(&self, kind: &Kind, entry: &Arc<Entry>) -> Result<Arc<Entry>> {
        let key = entry.key.strip_prefix("/registry").unwrap_or(&entry.key);
        let converted = self.converted(kind, vec![entry.clone()]).await;
        let converted = converted.map_err(|unread| Status::internal(corrupt(entry, key, first(&unread))))?;
        Ok(converted.into_iter().next().unwrap_or_else(|| entry.clone()))
    }

    /// Changes in the version of a kind.
    pub(crate) async fn events_in_version(&self, kind: &Kind, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>> {
        if converter(kind).is_none() {
            return Ok(events);
        }
        let entries = events.iter().flat_map(|event| [&event.new, &event.old]).flatten().cloned().collect();
        let mut converted = self.in_version(kind, entries).await?.into_iter();
        let mut next = |entry: &Option<Arc<Entry>>| entry.as_ref().and_then(|_| converted.next());
        let events = events.iter().map(|event| {
            let new = next(&event.new);
            Arc::new(Event::new(event.revision, new, next(&event.old)))
        });
        Ok(events.collect())
    }

    /// A stored object as a value in the kind's version.
    pub(crate) async fn object(&self, kind: &Kind, entry: &Arc<Entry>) -> Result<Value> {
        encode::decode(kind, &self.one_in_version(kind, entry).await?.body)
    }

    /// The same, to be changed.
    pub(crate) async fn object_to_update(&self, kind: &Kind, entry: &Arc<Entry>) -> Result<Value> {
        let converted = self.converted(kind, vec![entry.clone()]).await;
        let converted = converted.map_err(|unread| Status::plain_internal(not_decodable(entry, first(&unread))))?;
        encode::decode(kind, &converted.first().unwrap_or(entry).body)
    }

    /// An object in another version of its resource as admission shows it: fields that the version does not know stay.
    pub(crate) async fn converted_for_admission(&self, from: &Kind, to: &Kind, object: &Value) -> Result<Value> {
        if let Some((_, converter)) = converter(to) {
            let converted = converter.convert(self, std::slice::from_ref(object), &to.api_version).await;
            let converted = converted.map_err(|why| Status::internal(why.message))?;
            return Ok(converted.into_iter().next().unwrap_or_default());
        }
        let mut object = object.clone();
        if to.custom.is_none() {
            convert::convert(&mut object, &from.api_version, &to.api_version);
            object = json::typed(to.table(), to.message(), object).map_err(Status::internal)?.value;
        }
        to.stamp(&mut object);
        Ok(object)
    }

    /// What the store keeps of a value in the kind's version.
    pub(crate) async fn to_stored(&self, kind: &Kind, value: &Value) -> Result<Bytes> {
        match converter(kind).filter(|(custom, _)| *custom.storage_api_version != *kind.api_version) {
            Some((custom, converter)) => {
                let objects = std::slice::from_ref(value);
                let mut converted = converter.convert(self, objects, &custom.storage_api_version).await?;
                converted.iter_mut().for_each(|object| custom.prune(object));
                encode::to_stored(kind, converted.first().unwrap_or(value))
            }
            None => encode::to_stored(kind, value),
        }
    }
}

fn converter(kind: &Kind) -> Option<(&Custom, &Converter)> {
    let custom = kind.custom.as_deref()?;
    Some((custom, custom.converter.as_deref()?))
}

/// The entry with another body.
fn replaced(entry: &Entry, object: &Value) -> Arc<Entry> {
    let (key, revision) = (entry.key.clone(), entry.revision);
    let mut body = Vec::new();
    json::encode_untyped(object, &mut body);
    Arc::new(match revision {
        // What a dry run would have made has no resourceVersion.
        0 => Entry { key, revision, body: body.into(), labels: Box::default() },
        _ => Entry::new(key, revision, &body),
    })
}

fn first(unread: &[(Arc<Entry>, Status)]) -> &str {
    unread.first().map_or("", |(_, why)| &why.message)
}

fn not_decodable(entry: &Entry, why: &str) -> String {
    format!("object not decodable revision={}: {why}", entry.revision)
}

/// In the words of upstream's storage.
fn corrupt(entry: &Entry, key: &str, why: &str) -> String {
    let why = not_decodable(entry, why);
    format!("StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}")
}

// ---- validation

/// What is wrong with a definition's `spec.conversion`, by the names that upstream's validation has for the fields.
pub fn validate(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let conversion = &definition["spec"]["conversion"];
    let mut errors = Vec::new();
    if conversion.is_null() {
        return errors;
    }
    let at = |field: &str| format!("spec.conversion.{field}");
    let strategy = conversion.str_at(&["strategy"]);
    if strategy.is_empty() {
        errors.push(FieldError::required(at("strategy"), ""));
    } else if !["None", "Webhook"].contains(&strategy) {
        errors.push(FieldError::not_supported(at("strategy"), strategy, &["None", "Webhook"]));
    }
    let (client, reviews) = (&conversion["webhook"]["clientConfig"], review_versions(definition));
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            errors.push(FieldError::forbidden(at("webhookClientConfig"), detail));
        }
        if !reviews.is_empty() {
            errors.push(FieldError::forbidden(at("conversionReviewVersions"), detail));
        }
        return errors;
    }
    let path = at("webhookClientConfig");
    if client.is_null() {
        errors.push(FieldError::required(&*path, "required when strategy is set to Webhook"));
    } else {
        errors.extend(wrong_client(client, &path));
    }
    // A definition that is not established, or that had a bad bundle before, may still have one.
    let strict = old.is_some_and(|old| crd::is_established(old) && wrong_bundle(old).is_none());
    if let Some(why) = wrong_bundle(definition).filter(|_| strict) {
        let given = client["caBundle"].clone();
        let detail = format!("unable to load root certificates: {why}");
        errors.push(FieldError::invalid(format!("{path}.caBundle"), given, detail));
    }
    let known = old.is_none_or(|old| knows_review(&review_versions(old)));
    errors.extend(wrong_reviews(&reviews, &at("conversionReviewVersions"), "", known));
    errors
}

/// Whether one of these versions is known, or none is named.
pub fn knows_review(versions: &[&str]) -> bool {
    versions.is_empty() || versions.iter().any(|version| REVIEWS.contains(version))
}

/// What is wrong with the versions of reviews that a webhook understands, of which one should be `known`.
pub fn wrong_reviews(versions: &[&str], path: &str, missing: &str, known: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if versions.is_empty() {
        errors.push(FieldError::required(path, missing));
    }
    for (i, version) in versions.iter().enumerate() {
        let problems = match versions[..i].contains(version) {
            true => vec!["duplicate version".to_owned()],
            false => names::dns1035_label(version),
        };
        errors.extend(problems.into_iter().map(|p| FieldError::invalid(format!("{path}[{i}]"), *version, p)));
    }
    if known && !knows_review(versions) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(path, Value::list(versions.iter().copied()), detail));
    }
    errors
}

/// What is wrong with a webhook's `clientConfig`.
pub fn wrong_client(client: &Value, path: &str) -> Vec<FieldError> {
    match (client["url"].as_str(), client.get(&["service"]).filter(|service| !service.is_null())) {
        (Some(url), None) => wrong_url(url, &format!("{path}.url")),
        (None, Some(service)) => wrong_service(service, &format!("{path}.service")),
        _ => vec![FieldError::required(path, "exactly one of url or service is required")],
    }
}

fn review_versions(definition: &Value) -> Vec<&str> {
    let list = definition.list_at(&["spec", "conversion", "webhook", "conversionReviewVersions"]);
    list.iter().filter_map(Value::as_str).collect()
}

/// Why a definition's `caBundle` cannot be used, if it has one.
fn wrong_bundle(definition: &Value) -> Option<String> {
    let bundle = definition.str_at(&["spec", "conversion", "webhook", "clientConfig", "caBundle"]);
    let pem = STANDARD.decode(bundle).unwrap_or_default();
    pki::Certificate::all_from_pem(&String::from_utf8_lossy(&pem))
        .err()
        .filter(|_| !bundle.is_empty())
        .map(|e| e.to_string())
}

/// Upstream's `ValidateWebhookURL`.
fn wrong_url(url: &str, path: &str) -> Vec<FieldError> {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let authority = rest.split('/').next().unwrap_or("");
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = if scheme.is_empty() { "" } else { host };
    let mut errors = Vec::new();
    let mut wrong = |value: &str, detail: String| errors.push(FieldError::invalid(path, value, detail));
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong(host, format!("host must be specified{FORM}"));
    }
    for (part, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            wrong(part, detail.into());
        }
    }
    errors
}

/// Upstream's `ValidateWebhookService`, which takes name and namespace for each other.
fn wrong_service(service: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, told) in [("name", "namespace"), ("namespace", "name")] {
        if service.str_at(&[field]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{told}"), ""));
        }
    }
    if let Some(port) = service.i64_at(&["port"]) {
        let problems = names::port_number(port).join(", ");
        if !problems.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.port"), port, format!("port is not valid: {problems}")));
        }
    }
    let url_path = service.str_at(&["path"]);
    let mut wrong = |detail: String| errors.push(FieldError::invalid(format!("{path}.path"), url_path, detail));
    if !url_path.is_empty() && !url_path.starts_with('/') {
        wrong("must start with a '/'".into());
    }
    // The first character is cut off whatever it is.
    let steps = url_path.get(1..).unwrap_or_default();
    if !matches!(url_path, "" | "/") {
        for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
            if step.is_empty() {
                wrong(format!("segment[{i}] may not be empty"));
                continue;
            }
            names::dns1123_subdomain(step).into_iter().for_each(|p| wrong(format!("segment[{i}]: {p}")));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
