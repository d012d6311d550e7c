//! `Impersonate-User` and its kin: a request in the name of another, where its sender may make one.
//!
//! It may be allowed in several modes, tried in upstream's order (KEP-5284): as the node of the sender's own pod, as any
//! node, as a service account, as another user, and at last as it always was, by the verb `impersonate` alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use schema::validate::{FieldError, aggregate, names};

use super::text;
use crate::handle::forbidden;
use crate::reply::Warnings;
use crate::seams::Decision;
use crate::status::Result;
use crate::{Attributes, Server, Status, User};

const MODES: [&str; 5] = ["associated-node", "arbitrary-node", "serviceaccount", "user-info", LEGACY];
const LEGACY: &str = "";
const GROUP: &str = "authentication.k8s.io";
const EXTRA: &str = "impersonate-extra-";
const MASTERS: &str = "system:masters";
/// So many things of one kind are first asked for all at once.
const MANY: usize = 4;
const REMEMBERED_MAX: usize = 10_000;

/// The mode in which each user last succeeded: it is tried first.
#[derive(Default)]
pub struct Modes(Mutex<HashMap<String, usize>>);

impl Modes {
    fn get(&self, user: &str) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(user).copied()
    }

    fn set(&self, user: &str, mode: usize) {
        let mut modes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if modes.len() >= REMEMBERED_MAX {
            modes.clear();
        }
        modes.insert(user.to_owned(), mode);
    }
}

/// The user in whose name the request is made; its headers are gone afterwards.
///
/// # Errors
/// 403 of the first mode that applies, if none allows it; 400 for headers that make no sense.
pub async fn apply(
    server: &Server,
    user: User,
    headers: &mut HeaderMap,
    info: &Attributes,
    warnings: &Warnings,
) -> Result<User> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let modes = &server.inner.impersonation;
    let last = modes.get(&user.name);
    let mut refused = None;
    for mode in last.into_iter().chain((0..MODES.len()).filter(|mode| Some(*mode) != last)) {
        let Some(attempt) = Attempt::new(server, MODES[mode], &user, &wanted) else { continue };
        match attempt.run(info).await {
            Ok(acting) => {
                if last != Some(mode) {
                    modes.set(&user.name, mode);
                }
                if let Some(trail) = &warnings.trail {
                    trail.impersonated(&acting, MODES[mode]);
                }
                return Ok(acting);
            }
            Err(status) => drop(refused.get_or_insert(status)),
        }
    }
    Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// What the headers ask for; they are taken away.
fn wanted(headers: &mut HeaderMap) -> Result<Option<User>> {
    let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut user = User { name: first("impersonate-user"), uid: first("impersonate-uid"), ..User::default() };
    user.groups = headers.get_all("impersonate-group").iter().map(text).collect();
    for (header, value) in headers.iter() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            user.extra.entry(crate::request::percent_decode(key)).or_default().push(text(value));
        }
    }
    if user.name.is_empty() {
        let nothing = user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty();
        return if nothing { Ok(None) } else { Err(Status::bad_request(nameless(&user)).for_no_page()) };
    }
    let ours = |name: &str| matches!(name, "impersonate-user" | "impersonate-uid" | "impersonate-group");
    let names = headers.keys().filter(|key| ours(key.as_str()) || key.as_str().starts_with(EXTRA));
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    Ok(Some(user))
}

/// Upstream's words for impersonated groups and the like of nobody: it prints its struct.
fn nameless(User { uid, groups, extra, .. }: &User) -> String {
    let list = |items: &[String]| {
        if items.is_empty() {
            return "[]string(nil)".to_owned();
        }
        format!("[]string{{{}}}", items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", "))
    };
    let extra = if extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let members = extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values)));
        format!("map[string][]string{{{}}}", members.collect::<Vec<_>>().join(", "))
    };
    format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{}, Extra:{extra}}} without impersonating a user name",
        list(groups)
    )
}

/// One mode, for one sender and one whom it wants to be.
struct Attempt<'a> {
    server: &'a Server,
    mode: &'static str,
    requestor: Cow<'a, User>,
    wanted: &'a User,
}

impl<'a> Attempt<'a> {
    /// `None` if the mode is not for this user.
    fn new(server: &'a Server, mode: &'static str, requestor: &'a User, wanted: &'a User) -> Option<Self> {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), account_name(&wanted.name));
        let applies = match mode {
            "associated-node" => {
                let own = requestor.extra.get("authentication.kubernetes.io/node-name").map(Vec::as_slice);
                let is_own = matches!((node, own), (Some(node), Some([own])) if node == own);
                only_name && is_own && account_name(&requestor.name).is_some()
            }
            "arbitrary-node" => only_name && node.is_some(),
            "serviceaccount" => only_name && account.is_some(),
            "user-info" => node.is_none() && account.is_none(),
            _ => true,
        };
        let mut requestor = Cow::Borrowed(requestor);
        if mode == "associated-node" {
            // Which node it is was settled here: whom authorization sees is the same on all nodes.
            let keys = requestor.extra.keys().cloned().collect();
            requestor.to_mut().extra =
                BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
        }
        applies.then_some(Attempt { server, mode, requestor, wanted })
    }

    async fn run(&self, info: &Attributes) -> Result<User> {
        let mut acting = self.wanted.clone();
        if self.mode != LEGACY {
            let verb = format!("impersonate-on:{}:{}", self.mode, info.verb);
            self.ask(&Attributes { verb, ..info.clone() }).await?;
        }
        let mut whom = self.of("users", &self.wanted.name);
        if let Some((namespace, name)) = account_name(&self.wanted.name) {
            (whom.resource, whom.namespace, whom.name) = ("serviceaccounts".into(), namespace.into(), name.into());
            if acting.groups.is_empty() {
                acting.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        } else if let Some(node) = node_name(&self.wanted.name).filter(|_| self.mode != LEGACY) {
            let any = self.mode == "associated-node";
            (whom.resource, whom.name) = ("nodes".into(), if any { "*".into() } else { node.into() });
            acting.groups = vec!["system:nodes".into()];
        }
        self.ask(&whom).await?;
        if !self.wanted.uid.is_empty() {
            self.ask(&Attributes { api_group: GROUP.into(), ..self.of("uids", &self.wanted.uid) }).await?;
        }
        self.groups().await?;
        self.extra().await?;
        let implied = match acting.name.as_str() {
            "system:anonymous" => Some("system:unauthenticated"),
            _ if acting.in_group("system:unauthenticated") => None,
            _ => Some("system:authenticated"),
        };
        if let Some(group) = implied.filter(|group| !acting.in_group(group)) {
            acting.groups.push(group.into());
        }
        Ok(acting)
    }

    async fn groups(&self) -> Result<()> {
        let groups = &self.wanted.groups;
        if self.mode != LEGACY {
            let refuse = |name: &str, why: &str| Err(forbidden(&self.requestor, &self.of("groups", name), why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if self.wanted.in_group(MASTERS) {
                return refuse(MASTERS, "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && self.ask(&self.of("groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.ask(&self.of("groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self) -> Result<()> {
        let extra = &self.wanted.extra;
        let of = |key: &str, value: &str| Attributes {
            api_group: GROUP.into(),
            subresource: key.into(),
            ..self.of("userextras", value)
        };
        if self.mode != LEGACY {
            if let Some(why) = extra.iter().find_map(|(key, values)| wrong_extra(key, values)) {
                return Err(forbidden(&self.requestor, &of("", ""), &why));
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.ask(&of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.ask(&of(key, value)).await?;
            }
        }
        Ok(())
    }

    /// The permission to be one thing. Users and groups of old are of the core group.
    fn of(&self, resource: &str, name: &str) -> Attributes {
        let (verb, group) = match self.mode {
            LEGACY => ("impersonate".to_owned(), ""),
            mode => (format!("impersonate:{mode}"), GROUP),
        };
        Attributes {
            verb,
            api_group: group.into(),
            api_version: "v1".into(),
            resource: resource.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    async fn ask(&self, wanted: &Attributes) -> Result<()> {
        let why = match self.server.decide(&self.requestor, wanted).await {
            Decision::Allow(_) => return Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => why,
            Decision::Failed { error, reason, .. } if reason.is_empty() => error,
            Decision::Failed { error, reason, .. } => format!("{error}: {reason}"),
        };
        Err(forbidden(&self.requestor, wanted, &why))
    }
}

fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".into());
    }
    let problems = domain_prefixed_path("extra.key", key);
    if !problems.is_empty() {
        return Some(format!("impersonating an invalid key in extra is not allowed: {}", aggregate(&problems)));
    }
    if key != key.to_lowercase() {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".into())
}

/// `IsDomainPrefixedPath`: `acme.io/foo`.
pub(super) fn domain_prefixed_path(field: &str, value: &str) -> Vec<FieldError> {
    if value.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let Some((host, path)) = value.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        return vec![FieldError::invalid(field, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    };
    let hosts = names::dns1123_subdomain(host).into_iter();
    let mut errors: Vec<FieldError> = hosts.map(|why| FieldError::invalid(field, host, why)).collect();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(field, path, why));
    }
    errors
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| names::dns1123_subdomain(name).is_empty())
}

/// The namespace and name of a service account's user.
fn account_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(name).is_empty();
    valid.then_some((namespace, name))
}
