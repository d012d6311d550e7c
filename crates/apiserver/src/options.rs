//! Query parameters of each verb, read and checked as upstream's `*Options` are.

use schema::Value;
use schema::selector::{FieldSelector, LabelSelector};
use schema::validate::{ErrorKind, FieldError, field_manager};
use store::Revision;

use crate::kind::Kind;
use crate::request::Query;
use crate::status::{Result, Status, field_error};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Create-, Update- and PatchOptions.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    /// The request names its manager.
    pub names_manager: bool,
    pub field_validation: FieldValidation,
    /// As it was asked for.
    pub validation: String,
    /// Apply patches only.
    pub force: bool,
}

const FIELD_MANAGER_MAX: usize = 128;

impl WriteOptions {
    /// `kind` names the options in errors (`CreateOptions`); `user_agent` stands in for a missing manager.
    pub fn parse(query: &Query, kind: &str, user_agent: &str) -> Result<Self> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation") {
            None | Some("") | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.push(field_error(
                    ErrorKind::NotSupported,
                    "fieldValidation",
                    other.into(),
                    "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                ));
                FieldValidation::Warn
            }
        };
        let manager = query.get("fieldManager").unwrap_or("");
        errors.extend(field_manager(manager, "fieldManager"));
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", errors));
        }
        Ok(WriteOptions {
            dry_run,
            field_manager: if manager.is_empty() { manager_of(user_agent) } else { manager.into() },
            names_manager: !manager.is_empty(),
            field_validation,
            validation: query.get("fieldValidation").unwrap_or("").to_owned(),
            force: query.flag("force"),
        })
    }

    /// What managedFields call the writer.
    pub fn manager(&self) -> &str {
        if self.field_manager.is_empty() { "unknown" } else { &self.field_manager }
    }

    /// The options object that admission sees.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut out = Value::object([("apiVersion", "meta.k8s.io/v1".into()), ("kind", kind.into())]);
        if self.dry_run {
            out.set(&["dryRun"], Value::list(["All"]));
        }
        if self.names_manager {
            out.set(&["fieldManager"], self.field_manager.as_str());
        }
        if !self.validation.is_empty() {
            out.set(&["fieldValidation"], self.validation.as_str());
        }
        out
    }
}

/// A user agent up to its slash.
fn manager_of(user_agent: &str) -> String {
    let prefix = user_agent.split('/').next().unwrap_or("");
    let printable: String = prefix.chars().filter(|c| !c.is_control()).collect();
    let mut end = printable.len().min(FIELD_MANAGER_MAX);
    while !printable.is_char_boundary(end) {
        end -= 1;
    }
    printable[..end].to_owned()
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(FieldError::not_supported("dryRun", Value::list(values.iter().copied()), &["All"]));
    }
    values.contains(&"All")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// Empty, or a number.
    pub resource_version: String,
    pub version_match: Option<Match>,
    pub limit: u64,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn parse(query: &Query, kind: &Kind, name: &str, watch: bool) -> Result<Self> {
        let text = |n: &str| query.get(n).unwrap_or("").to_owned();
        let labels = LabelSelector::parse(&text("labelSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(&text("fieldSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        for term in &fields.terms {
            // Only custom resources without a namespace cannot be asked for one.
            let named = term.path == "metadata.name"
                || term.path == "metadata.namespace" && (kind.custom.is_none() || kind.resource.namespaced);
            let known = named || kind.resource.selectable.iter().any(|s| **s == term.path);
            if !known {
                return Err(Status::bad_request(if kind.custom.is_none() && kind.resource.selectable.is_empty() {
                    format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.path
                    )
                } else {
                    match kind.kind() {
                        "Job" => format!("field label {:?} not supported for Job", term.path),
                        name @ "ResourceSlice" => {
                            format!("field label not supported for {}, Kind={name}: {}", kind.api_version, term.path)
                        }
                        _ => format!("field label not supported: {}", term.path),
                    }
                }));
            }
        }
        // A watch of one named object: that is what was permitted, and nothing else.
        if !name.is_empty() {
            let path = "metadata.name";
            let exact = fields.terms.iter().find(|term| term.path == path && !term.negated);
            if fields.terms.is_empty() {
                let term = schema::selector::FieldTerm { path: path.into(), value: name.into(), negated: false };
                fields.terms.push(term);
            } else if exact.is_none_or(|term| term.value != name) {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
        }
        let mut errors = Vec::new();
        let version_match = match query.get("resourceVersionMatch") {
            None | Some("") => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            // A watch says it below.
            Some(_) if watch => None,
            Some(other) => {
                let detail = "supported values: \"Exact\", \"NotOlderThan\", \"\"";
                errors.push(field_error(ErrorKind::NotSupported, "resourceVersionMatch", other.into(), detail));
                None
            }
        };
        let number = |n: &str| -> Result<Option<u64>> {
            match query.get(n) {
                None | Some("") => Ok(None),
                Some(v) => v
                    .parse::<i64>()
                    .map(|v| Some(v.max(0) as u64))
                    .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))),
            }
        };
        let options = ListOptions {
            labels,
            fields,
            resource_version: text("resourceVersion"),
            version_match,
            limit: number("limit")?.unwrap_or(0),
            continue_token: text("continue"),
            timeout_seconds: number("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        };
        options.check(watch, query.get("resourceVersionMatch").unwrap_or(""), &mut errors);
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors)) }
    }

    fn check(&self, watch: bool, match_text: &str, errors: &mut Vec<FieldError>) {
        let mut forbid = |field: &str, detail: &str| {
            errors.push(field_error(ErrorKind::Forbidden, field, Value::Null, detail));
        };
        if watch {
            if self.send_initial_events.is_some() && match_text != "NotOlderThan" {
                forbid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if !match_text.is_empty() && self.send_initial_events.is_none() {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            // Who does not say where to begin is taken to ask for what is there first.
            let from_list = self.send_initial_events.is_none() && matches!(&*self.resource_version, "" | "0");
            if (from_list || !match_text.is_empty()) && !self.continue_token.is_empty() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(match_text, "" | "NotOlderThan") {
                errors.push(FieldError::not_supported("resourceVersionMatch", match_text, &["NotOlderThan"]));
            }
            return;
        }
        if self.send_initial_events.is_some() {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !match_text.is_empty() {
            if self.resource_version.is_empty() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if match_text == "Exact" && self.resource_version == "0" {
                forbid("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
    }

    /// The resourceVersion as a number; `None` if unset.
    pub fn revision(&self) -> Result<Option<Revision>> {
        parse_revision(&self.resource_version)
    }

    pub fn selects_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.terms.is_empty()
    }

    /// The one name that the field selector leaves.
    pub fn single_name(&self) -> Option<&str> {
        self.single("metadata.name")
    }

    pub fn single_namespace(&self) -> Option<&str> {
        self.single("metadata.namespace")
    }

    fn single(&self, path: &str) -> Option<&str> {
        self.fields.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }
}

pub fn parse_revision(text: &str) -> Result<Option<Revision>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<Revision>().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    pub fn from_query(query: &Query) -> Result<Self> {
        let mut value = Value::object::<&str>([]);
        if let Some(grace) = query.get("gracePeriodSeconds").filter(|v| !v.is_empty()) {
            let grace = grace
                .parse::<i64>()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {grace:?}: invalid syntax")))?;
            value.set(&["gracePeriodSeconds"], grace);
        }
        if query.get("orphanDependents").is_some_and(|v| !v.is_empty()) {
            value.set(&["orphanDependents"], query.flag("orphanDependents"));
        }
        if let Some(policy) = query.get("propagationPolicy").filter(|v| !v.is_empty()) {
            value.set(&["propagationPolicy"], policy);
        }
        let dry: Vec<&str> = query.all("dryRun").collect();
        if !dry.is_empty() {
            value.set(&["dryRun"], Value::list(dry));
        }
        Self::from_value(&value)
    }

    pub fn from_value(value: &Value) -> Result<Self> {
        let mut errors = Vec::new();
        let dry: Vec<&str> = value.list_at(&["dryRun"]).iter().filter_map(Value::as_str).collect();
        let text = |path: &[&str]| value.get(path).and_then(Value::as_str).map(str::to_owned);
        let propagation = match value.str_at(&["propagationPolicy"]) {
            "" => None,
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            other => {
                let detail = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
                errors.push(field_error(ErrorKind::NotSupported, "propagationPolicy", other.into(), detail));
                None
            }
        };
        let options = DeleteOptions {
            grace_period_seconds: value.i64_at(&["gracePeriodSeconds"]).map(|s| if s < 0 { 1 } else { s }),
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            orphan_dependents: value.get(&["orphanDependents"]).and_then(Value::as_bool),
            propagation,
            dry_run: dry_run(dry.into_iter(), &mut errors),
        };
        if options.orphan_dependents.is_some() && options.propagation.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field_error(
                ErrorKind::Invalid,
                "propagationPolicy",
                value["propagationPolicy"].clone(),
                detail,
            ));
        }
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors)) }
    }

    pub fn to_value(&self) -> Value {
        let mut out = Value::object([("apiVersion", "meta.k8s.io/v1".into()), ("kind", "DeleteOptions".into())]);
        if let Some(grace) = self.grace_period_seconds {
            out.set(&["gracePeriodSeconds"], grace);
        }
        if let Some(uid) = &self.uid {
            out.set(&["preconditions", "uid"], uid.as_str());
        }
        if let Some(rv) = &self.resource_version {
            out.set(&["preconditions", "resourceVersion"], rv.as_str());
        }
        if let Some(orphan) = self.orphan_dependents {
            out.set(&["orphanDependents"], orphan);
        }
        if let Some(policy) = self.propagation {
            out.set(&["propagationPolicy"], format!("{policy:?}"));
        }
        if self.dry_run {
            out.set(&["dryRun"], Value::list(["All"]));
        }
        out
    }
}
