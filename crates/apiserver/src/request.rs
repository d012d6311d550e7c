//! What a request asks for: its user and its attributes, read from method, path and query as upstream's RequestInfo does.

use std::collections::BTreeMap;

use http::Method;
use schema::Value;

/// An authenticated identity. In-process callers put one into the request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        User { name: name.into(), groups: groups.iter().map(|&g| g.into()).collect(), ..User::default() }
    }

    /// Who a request without credentials is.
    pub fn anonymous() -> Self {
        User::new("system:anonymous", &["system:unauthenticated"])
    }

    /// Of a review: a UserInfo, whose name is its `username`, or an access review's spec, where it is the `user`.
    pub fn of(value: &Value, name: &str) -> Self {
        let extra = value["extra"].as_object().into_iter().flatten();
        User {
            name: value.str_at(&[name]).into(),
            uid: value.str_at(&["uid"]).into(),
            groups: value["groups"].texts(),
            extra: extra.map(|(key, values)| (key.to_string(), values.texts())).collect(),
        }
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub fn to_value(&self) -> Value {
        let texts = |list: &[String]| Value::list(list.iter().map(String::as_str));
        let mut out = Value::object([("username", self.name.as_str().into())]);
        if !self.uid.is_empty() {
            out.set(&["uid"], self.uid.as_str());
        }
        if !self.groups.is_empty() {
            out.set(&["groups"], texts(&self.groups));
        }
        if !self.extra.is_empty() {
            out.set(&["extra"], Value::object(self.extra.iter().map(|(key, values)| (key.clone(), texts(values)))));
        }
        out
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What authorization and admission decide on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get list watch create update patch delete deletecollection` for resources (or `proxy`-like connects as their
    /// HTTP verb maps); the lower-case HTTP method for other paths.
    pub verb: String,
    pub api_group: String,
    pub api_version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// What follows the subresource (`/proxy/REST`), without a leading slash.
    pub rest: String,
    pub path: String,
    pub is_resource: bool,
    /// `fieldSelector` and `labelSelector` of list, watch and deletecollection, as sent.
    pub field_selector: String,
    pub label_selector: String,
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl Attributes {
    /// Reads method, path and query. Never fails: what is no resource path is a non-resource request.
    pub fn parse(method: &Method, path: &str, query: &str) -> Self {
        let mut info =
            Attributes { verb: method.as_str().to_ascii_lowercase(), path: path.into(), ..Attributes::default() };
        let decoded: Vec<String> = path.trim_matches('/').split('/').map(percent_decode).collect();
        let mut parts: &[String] = &decoded;
        match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => parts = &parts[1..],
            Some("apis") if parts.len() >= 4 => {
                info.api_group = parts[1].clone();
                parts = &parts[2..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.api_version = parts[0].clone();
        parts = &parts[1..];
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .into();
        let mut legacy_watch = false;
        if parts.len() > 1 && (parts[0] == "watch" || parts[0] == "proxy") {
            legacy_watch = parts[0] == "watch";
            info.verb = parts[0].clone();
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            // `/namespaces/NAME/RESOURCE` names a resource in it, but for the namespace's own subresources.
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].clone();
        info.name = parts.get(1).cloned().unwrap_or_default();
        info.subresource = parts.get(2).cloned().unwrap_or_default();
        if parts.len() > 3 {
            info.rest = parts[3..].join("/");
        }
        let query = Query::parse(query);
        if info.name.is_empty() || legacy_watch {
            if matches!(info.verb.as_str(), "get" | "list" | "watch") {
                info.verb = if legacy_watch || query.flag("watch") { "watch".into() } else { "list".into() };
            } else if info.verb == "delete" {
                info.verb = "deletecollection".into();
            }
        }
        // `?watch=1` on a single object is a watch restricted to it; so is `fieldSelector=metadata.name=X` for authorization.
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            info.field_selector = query.get("fieldSelector").unwrap_or_default().into();
            info.label_selector = query.get("labelSelector").unwrap_or_default().into();
            if info.name.is_empty()
                && let Some(name) = single_name(&info.field_selector)
            {
                info.name = name.into();
            }
        }
        info
    }

    /// `deployments.apps`, or `pods`.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.api_group.clone(), resource: self.resource.clone() }
    }
}

/// The name that a field selector asks for, if it asks for one.
fn single_name(selector: &str) -> Option<&str> {
    selector
        .split(',')
        .find_map(|term| {
            let value = term.strip_prefix("metadata.name=")?;
            Some(value.strip_prefix('=').unwrap_or(value))
        })
        .filter(|name| !name.is_empty())
}

/// A resource and its group, printed as upstream's messages do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupResource {
    pub group: String,
    pub resource: String,
}

impl GroupResource {
    pub fn new(group: &str, resource: &str) -> Self {
        GroupResource { group: group.into(), resource: resource.into() }
    }
}

impl std::fmt::Display for GroupResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// Query parameters in the order they were sent.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        Query(
            query
                .split('&')
                .filter(|part| !part.is_empty())
                .map(|part| {
                    let (name, value) = part.split_once('=').unwrap_or((part, ""));
                    (percent_decode(&name.replace('+', " ")), percent_decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Upstream's reading of a boolean parameter: present and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false" && value != "0")
    }
}

/// `%41` → `A`; what is not valid stays as it is, and bytes that are no UTF-8 are replaced.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|&b| (b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
