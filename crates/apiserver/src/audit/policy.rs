//! `audit.k8s.io/v1` Policy: which requests the audit log is told of, in which detail and at which stages.

use schema::validate::{FieldError, aggregate};
use schema::{Value, yaml};

use crate::{Attributes, User};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    /// Named in policies only: nothing here panics and goes on.
    Panic,
}

pub const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

fn names<T: Copy + PartialEq>(all: &[(&'static str, T)], wanted: T) -> &'static str {
    all.iter().find(|(_, one)| *one == wanted).map_or("", |(name, _)| name)
}

impl Level {
    pub fn name(self) -> &'static str {
        names(&LEVELS, self)
    }
}

impl Stage {
    pub fn name(self) -> &'static str {
        names(&STAGES, self)
    }
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

#[derive(Debug)]
struct Rule {
    decided: Decided,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    non_resource_urls: Vec<String>,
}

#[derive(Debug)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

const POLICY: [&str; 6] = ["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
const RULE: [&str; 9] = [
    "level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
    "omitManagedFields",
];
const RESOURCES: [&str; 3] = ["group", "resources", "resourceNames"];

/// What goes wrong while a policy is read.
#[derive(Default)]
struct Reader {
    errors: Vec<FieldError>,
    unknown: Vec<String>,
}

impl Reader {
    fn known(&mut self, value: &Value, known: &[&str], path: &str) {
        let members = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        self.unknown.extend(members.filter(|name| !known.contains(name)).map(|name| format!("{path}{name}")));
    }

    fn stages(&mut self, value: &Value, path: &str) -> Vec<Stage> {
        let mut out = Vec::new();
        for (at, name) in value["omitStages"].texts().iter().enumerate() {
            match STAGES.iter().find(|(known, _)| known == name) {
                Some((_, stage)) => out.push(*stage),
                None => {
                    let known = STAGES.map(|(name, _)| name).join(",");
                    let field = format!("{path}omitStages[{at}]");
                    self.errors.push(FieldError::invalid(field, &**name, format!("allowed stages are {known}")));
                }
            }
        }
        out
    }

    fn level(&mut self, value: &Value, path: &str) -> Level {
        let name = value.str_at(&["level"]);
        let field = format!("{path}level");
        match LEVELS.iter().find(|(known, _)| *known == name) {
            Some((_, level)) => return *level,
            None if name.is_empty() => self.errors.push(FieldError::required(field, "")),
            None => self.errors.push(FieldError::not_supported(field, name, &LEVELS.map(|(name, _)| name))),
        }
        Level::None
    }

    fn urls(&mut self, value: &Value, path: &str) -> Vec<String> {
        let urls = value["nonResourceURLs"].texts();
        let field = format!("{path}nonResourceURLs");
        for (at, url) in urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let mut wrong =
                |why: &str| self.errors.push(FieldError::invalid(format!("{field}[{at}]"), url.as_str(), why));
            if !url.starts_with('/') {
                wrong("non-resource URL rules must begin with a '/' character");
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                wrong("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        if !urls.is_empty() && (!value["resources"].is_empty() || !value["namespaces"].is_empty()) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            self.errors.push(FieldError::invalid(field, value["nonResourceURLs"].clone(), why));
        }
        urls
    }

    fn resources(&mut self, value: &Value, path: &str) -> Vec<Resources> {
        let mut out = Vec::new();
        for (at, value) in value.list_at(&["resources"]).iter().enumerate() {
            self.known(value, &RESOURCES, &format!("{path}resources[{at}]."));
            let one = Resources {
                group: value.str_at(&["group"]).to_owned(),
                resources: value["resources"].texts(),
                names: value["resourceNames"].texts(),
            };
            if one.group.contains('/') {
                let why = "a group is named without its version";
                self.errors.push(FieldError::invalid(format!("{path}resources.group"), one.group.as_str(), why));
            }
            if !one.names.is_empty() && one.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                let field = format!("{path}resources.resourceNames");
                self.errors.push(FieldError::invalid(field, value["resourceNames"].clone(), why));
            }
            out.push(one);
        }
        out
    }
}

impl Policy {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// Everything that is wrong, in upstream's words. Unknown members are warned of.
    pub fn parse(text: &[u8]) -> Result<Policy, String> {
        let value = yaml::parse(text).map_err(|error| format!("failed decoding: {error}"))?.value;
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        if (version, kind) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("unknown group version field {version}, Kind={kind} in policy"));
        }
        let mut reader = Reader::default();
        reader.known(&value, &POLICY, "");
        let everywhere = reader.stages(&value, "");
        let mut rules = Vec::new();
        for (at, value_of_rule) in value.list_at(&["rules"]).iter().enumerate() {
            let path = format!("rules[{at}].");
            reader.known(value_of_rule, &RULE, &path);
            let own = value_of_rule.get(&["omitManagedFields"]).and_then(Value::as_bool);
            let decided = Decided {
                level: reader.level(value_of_rule, &path),
                omit_stages: [everywhere.clone(), reader.stages(value_of_rule, &path)].concat(),
                omit_managed_fields: own.unwrap_or_else(|| value.bool_at(&["omitManagedFields"])),
            };
            rules.push(Rule {
                decided,
                users: value_of_rule["users"].texts(),
                user_groups: value_of_rule["userGroups"].texts(),
                verbs: value_of_rule["verbs"].texts(),
                resources: reader.resources(value_of_rule, &path),
                namespaces: value_of_rule["namespaces"].texts(),
                non_resource_urls: reader.urls(value_of_rule, &path),
            });
        }
        if !reader.errors.is_empty() {
            return Err(aggregate(&reader.errors));
        }
        if rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        if !reader.unknown.is_empty() {
            tracing::warn!(
                fields = reader.unknown.join(", "),
                "the audit policy has unknown fields, which mean nothing"
            );
        }
        Ok(Policy { rules })
    }

    /// By the first rule that fits; none: nothing is told.
    pub fn decide(&self, user: Option<&User>, info: &Attributes) -> Decided {
        let fits = self.rules.iter().find(|rule| rule.fits(user, info));
        fits.map(|rule| rule.decided.clone()).unwrap_or_default()
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

impl Rule {
    fn fits(&self, user: Option<&User>, info: &Attributes) -> bool {
        let is_user = self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name));
        let groups = &self.user_groups;
        let in_group = groups.is_empty() || user.is_some_and(|user| user.groups.iter().any(|group| has(groups, group)));
        if !is_user || !in_group || !(self.verbs.is_empty() || has(&self.verbs, &info.verb)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.fit(info)));
        }
        let urls = &self.non_resource_urls;
        urls.is_empty() || !info.is_resource && urls.iter().any(|url| crate::authz::url_matches(url, &info.path))
    }
}

impl Resources {
    fn fit(&self, info: &Attributes) -> bool {
        if self.group != "*" && self.group != info.api_group {
            return false;
        }
        let named = self.names.is_empty() || has(&self.names, &info.name);
        self.resources.is_empty() || named && self.resources.iter().any(|rule| resource_fits(rule, info))
    }
}

/// Unlike in RBAC's rules, `*` is subresources too, and `pods/*` is pods as well.
fn resource_fits(rule: &str, info: &Attributes) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || info.subresource.is_empty() && rule == info.resource,
        Some((resource, "*")) => resource == info.resource,
        Some((resource, part)) => {
            !info.subresource.is_empty() && part == info.subresource && (resource == "*" || resource == info.resource)
        }
    }
}

#[cfg(test)]
mod tests;
