//! `--authorization-config` and the flags that it replaces: who is asked, one after another.

use std::path::Path;
use std::time::Duration;

use schema::Value;
use schema::validate::{FieldError, aggregate, names};

use super::webhook::{Conditions, Webhook};
use crate::configuration::{self, Fields, Shape};
use crate::outside::{Endpoint, Read};

const FIELDS: Fields = &[(
    "authorizers",
    Shape::Objects(&[
        ("type", Shape::Text),
        ("name", Shape::Text),
        (
            "webhook",
            Shape::Object(&[
                ("authorizedTTL", Shape::Text),
                ("cacheAuthorizedRequests", Shape::Flag),
                ("unauthorizedTTL", Shape::Text),
                ("cacheUnauthorizedRequests", Shape::Flag),
                ("timeout", Shape::Text),
                ("subjectAccessReviewVersion", Shape::Text),
                ("matchConditionSubjectAccessReviewVersion", Shape::Text),
                ("failurePolicy", Shape::Text),
                ("connectionInfo", Shape::Object(&[("type", Shape::Text), ("kubeConfigFile", Shape::Text)])),
                ("matchConditions", Shape::Objects(&[("expression", Shape::Text)])),
            ]),
        ),
    ]),
)];

/// ABAC is not among them: its policy file was given up for RBAC long ago.
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const TIMEOUT_MAX: i64 = 30 * SECOND;
const SECOND: i64 = 1_000_000_000;

/// One who is asked.
pub struct Link {
    pub name: String,
    pub kind: Kind,
}

pub enum Kind {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<Webhook>),
}

impl Link {
    /// One that needs nothing but its type's name.
    fn of(mode: &str) -> Option<Link> {
        let kind = match mode {
            "Node" => Kind::Node,
            "RBAC" => Kind::Rbac,
            "AlwaysAllow" => Kind::AlwaysAllow,
            "AlwaysDeny" => Kind::AlwaysDeny,
            _ => return None,
        };
        Some(Link { name: mode.to_lowercase(), kind })
    }

    fn mode(&self) -> &'static str {
        match self.kind {
            Kind::Node => "Node",
            Kind::Rbac => "RBAC",
            Kind::AlwaysAllow => "AlwaysAllow",
            Kind::AlwaysDeny => "AlwaysDeny",
            Kind::Webhook(_) => "Webhook",
        }
    }
}

/// Node, then RBAC: `--authorization-mode` if it is not given.
pub fn default() -> Vec<Link> {
    ["Node", "RBAC"].into_iter().filter_map(Link::of).collect()
}

/// Reads a file. `required` are those whom it must have: they stay as long as the server runs.
///
/// # Errors
/// Everything that is wrong with it, each with its field.
pub fn parse(text: &str, required: &[Link], read: Read<'_>) -> Result<Vec<Link>, Vec<String>> {
    let file = configuration::parse(text, "AuthorizationConfiguration", FIELDS)?;
    let list = file.list_at(&["authorizers"]);
    let mut errors = Vec::new();
    if list.is_empty() {
        errors.push(FieldError::required("authorizers", "at least one authorization mode must be defined"));
    }
    let (mut links, mut problems) = (Vec::<Link>::new(), Vec::new());
    let (mut modes, mut seen) = (Vec::new(), Vec::new());
    for (at, authorizer) in list.iter().enumerate() {
        let path = format!("authorizers[{at}]");
        let field = |name: &str| format!("{path}.{name}");
        let (mode, name) = (authorizer.str_at(&["type"]), authorizer.str_at(&["name"]));
        if mode.is_empty() {
            errors.push(FieldError::required(field("type"), ""));
            continue;
        }
        if !TYPES.contains(&mode) {
            errors.push(FieldError::not_supported(field("type"), mode, &TYPES));
            continue;
        }
        if modes.contains(&mode) && mode != "Webhook" {
            errors.push(FieldError::duplicate(field("type"), mode));
            continue;
        }
        modes.push(mode);
        let wrong = names::dns1123_subdomain(name);
        if name.is_empty() {
            errors.push(FieldError::required(field("name"), ""));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(field("name"), name));
        } else if !wrong.is_empty() {
            let why = format!("authorizer name is invalid: {}", wrong.join(", "));
            errors.push(FieldError::invalid(field("name"), name, why));
        }
        seen.push(name);
        let webhook = &authorizer["webhook"];
        match (Link::of(mode), webhook.is_null()) {
            (Some(link), true) => {
                if link.name != name && !name.is_empty() {
                    problems.push(format!("expected name {} for authorizer {mode} instead of {name}", link.name));
                }
                links.push(link);
            }
            (Some(_), false) => {
                let why = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(field("webhook"), "non-null", why));
            }
            (None, true) => errors.push(FieldError::required(field("webhook"), "required when type=Webhook")),
            (None, false) => {
                let made = self::webhook(webhook, &path, &mut errors, read);
                let kind = |webhook| Kind::Webhook(Box::new(webhook));
                links.extend(made.map(|webhook| Link { name: name.to_owned(), kind: kind(webhook) }));
            }
        }
    }
    problems.splice(0..0, errors.iter().map(ToString::to_string));
    let has = |wanted: &Link| modes.contains(&wanted.mode());
    let mut missing: Vec<&str> = required.iter().filter(|l| l.mode() != "Webhook" && !has(l)).map(Link::mode).collect();
    if !missing.is_empty() {
        missing.sort_unstable();
        problems.push(format!("missing required types: [{}]", missing.join(" ")));
    }
    if problems.is_empty() { Ok(links) } else { Err(problems) }
}

/// A time that must be above nothing; `standard` stands in for none.
fn duration(value: &Value, path: &str, standard: Option<i64>, errors: &mut Vec<FieldError>) -> Option<i64> {
    let text = value.as_str().unwrap_or_default();
    let nanos = if text.is_empty() { Some(0) } else { schema::time::parse_duration(text) };
    match (nanos, standard) {
        (None, _) => errors.push(FieldError::invalid(path, text, format!("time: invalid duration {text:?}"))),
        (Some(0), Some(standard)) => return Some(standard),
        (Some(0), None) => errors.push(FieldError::required(path, "")),
        (Some(nanos), _) if nanos < 0 => errors.push(FieldError::invalid(path, text, "must be > 0s")),
        (nanos, _) => return nanos,
    }
    None
}

fn webhook(webhook: &Value, path: &str, errors: &mut Vec<FieldError>, read: Read<'_>) -> Option<Webhook> {
    let field = |name: &str| format!("{path}.{name}");
    let text = |name: &str| webhook.str_at(&[name]);
    let timeout = duration(&webhook["timeout"], &field("timeout"), None, errors);
    if timeout.is_some_and(|nanos| nanos > TIMEOUT_MAX) {
        errors.push(FieldError::invalid(field("timeout"), text("timeout"), "must be > 0s and <= 30s"));
    }
    let authorized = duration(&webhook["authorizedTTL"], &field("authorizedTTL"), Some(300 * SECOND), errors);
    let unauthorized = duration(&webhook["unauthorizedTTL"], &field("unauthorizedTTL"), Some(30 * SECOND), errors);
    let conditions = webhook.list_at(&["matchConditions"]);
    let mut one_of = |name: &str, allowed: &[&str], required: Option<&str>| match (text(name), required) {
        ("", Some(why)) => errors.push(FieldError::required(field(name), why)),
        ("", None) => {}
        (value, _) if allowed.contains(&value) => {}
        (value, _) => errors.push(FieldError::not_supported(field(name), value, allowed)),
    };
    one_of("subjectAccessReviewVersion", &VERSIONS, Some(""));
    let why = (!conditions.is_empty()).then_some("required if match conditions are specified");
    one_of("matchConditionSubjectAccessReviewVersion", &["v1"], why);
    one_of("failurePolicy", &["NoOpinion", "Deny"], Some(""));
    let endpoint = connection(&webhook["connectionInfo"], &field("connectionInfo"), errors, read);
    let (conditions, wrong) = Conditions::new(conditions, &field("matchConditions"));
    errors.extend(wrong);
    let lifetime = |nanos: i64, remember: &str| match webhook[remember].as_bool() {
        Some(false) => Duration::ZERO,
        _ => Duration::from_nanos(nanos.unsigned_abs()),
    };
    Some(Webhook {
        endpoint: endpoint?,
        version: text("subjectAccessReviewVersion").to_owned(),
        timeout: Duration::from_nanos(timeout?.unsigned_abs()),
        authorized: lifetime(authorized?, "cacheAuthorizedRequests"),
        unauthorized: lifetime(unauthorized?, "cacheUnauthorizedRequests"),
        denies_on_error: text("failurePolicy") == "Deny",
        conditions,
        answers: Webhook::remembered(),
    })
}

fn connection(info: &Value, path: &str, errors: &mut Vec<FieldError>, read: Read<'_>) -> Option<Endpoint> {
    const FILE: &str = "KubeConfigFile";
    let (kind, field) = (info.str_at(&["type"]), format!("{path}.type"));
    let file = info.str_at(&["kubeConfigFile"]);
    let at_file = format!("{path}.kubeConfigFile");
    let error = match (kind, file) {
        ("", _) => FieldError::required(field, ""),
        (FILE, "") => FieldError::required(at_file, ""),
        (FILE, file) if !file.starts_with('/') => FieldError::invalid(at_file, file, "must be an absolute path"),
        (FILE, file) => match Endpoint::from_kubeconfig(Path::new(file), read) {
            Ok(endpoint) => return Some(endpoint),
            Err(why) => FieldError::invalid(at_file, file, format!("error loading file: {why}")),
        },
        // Upstream's own server has no use for its other one, InClusterConfig.
        (other, _) => FieldError::not_supported(field, other, &[FILE]),
    };
    errors.push(error);
    None
}

/// What the older flags say.
pub struct Flags<'a> {
    /// `--authorization-mode`
    pub modes: Vec<&'a str>,
    /// `--authorization-webhook-config-file`
    pub webhook_file: Option<&'a str>,
    /// `--authorization-webhook-version`
    pub version: &'a str,
    pub authorized: Duration,
    pub unauthorized: Duration,
}

/// # Errors
/// Everything that is wrong with the flags.
pub fn from_flags(flags: &Flags<'_>, read: Read<'_>) -> Result<Vec<Link>, Vec<String>> {
    let mut problems = Vec::new();
    let mut links: Vec<Link> = Vec::new();
    for (at, mode) in flags.modes.iter().enumerate() {
        if flags.modes[..at].contains(mode) {
            problems.push(format!("authorization-mode {:?} has mode specified more than once", flags.modes));
            continue;
        }
        match (Link::of(mode), *mode, flags.webhook_file) {
            (Some(link), ..) => links.push(link),
            (_, "Webhook", None) => {
                problems.push("authorization-mode Webhook's authorization config file not passed".into());
            }
            (_, "Webhook", Some(file)) => match Endpoint::from_kubeconfig(Path::new(file), read) {
                Ok(endpoint) => {
                    let webhook = Webhook {
                        endpoint,
                        version: flags.version.to_owned(),
                        timeout: Duration::from_secs(30),
                        authorized: flags.authorized,
                        unauthorized: flags.unauthorized,
                        denies_on_error: false,
                        conditions: Conditions::default(),
                        answers: Webhook::remembered(),
                    };
                    links.push(Link { name: "default".into(), kind: Kind::Webhook(Box::new(webhook)) });
                }
                Err(why) => problems.push(why),
            },
            _ => problems
                .push(format!("authorization-mode {mode:?} is not a valid mode; known are {}", TYPES.join(", "))),
        }
    }
    if flags.webhook_file.is_some() && !flags.modes.contains(&"Webhook") {
        problems.push("cannot specify --authorization-webhook-config-file without mode Webhook".into());
    }
    if !VERSIONS.contains(&flags.version) {
        problems
            .push(aggregate(&[FieldError::not_supported("authorization-webhook-version", flags.version, &VERSIONS)]));
    }
    if problems.is_empty() { Ok(links) } else { Err(problems) }
}
