//! Reading `EncryptionConfiguration`, with upstream's rules and words.

use std::collections::HashMap;
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::validate::{FieldError, aggregate};
use schema::{Value, yaml};

use super::ciphers::Cipher;
use super::{Key, Provider};

/// Which providers a resource has. Nobody else sees keys.
pub struct Configuration {
    /// By resource and group, of which either or both may be `*`.
    providers: HashMap<(String, String), Vec<Arc<Provider>>>,
    /// Of all others: what changes nothing.
    plain: [Arc<Provider>; 1],
}

type Resource<'a> = (&'a str, &'a str);

fn resource(text: &str) -> Resource<'_> {
    text.split_once('.').unwrap_or((text, ""))
}

fn shown((resource, group): Resource<'_>) -> String {
    match (resource, group) {
        ("*", "") => "*.".into(),
        (resource, "") => resource.into(),
        (resource, group) => format!("{resource}.{group}"),
    }
}

impl Configuration {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// Everything that is wrong, with its place; never a secret.
    pub fn parse(text: &[u8]) -> Result<Configuration, String> {
        if text.is_empty() {
            return Err("encryption provider configuration file is empty".into());
        }
        let value = yaml::parse(text).map_err(|error| error.to_string())?.value;
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        if (version, kind) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
            return Err(format!("got unexpected config type: {version}, Kind={kind}"));
        }
        let mut errors = Vec::new();
        let mut out = Configuration { providers: HashMap::new(), plain: [Arc::new(Provider::Identity)] };
        let mut masked = None;
        let entries = value.list_at(&["resources"]);
        if entries.is_empty() {
            errors.push(FieldError::required("resources", "at least one resources is required"));
        }
        for (at, entry) in entries.iter().enumerate() {
            let path = format!("resources[{at}]");
            let names: Vec<&str> = entry.list_at(&["resources"]).iter().filter_map(Value::as_str).collect();
            check_resources(&names, &format!("{path}.resources"), &mut errors);
            let own = providers(entry, &format!("{path}.providers"), &mut errors);
            for name in &names {
                let wanted = resource(name);
                let wider = [("*", wanted.1), ("*", "*")].into_iter().find(|wide| out.held(*wide).is_some());
                if let Some(wider) = wider {
                    let (inner, outer) = (shown(wanted), shown(wider));
                    masked.get_or_insert(format!("resource {inner:?} is masked by earlier rule {outer:?}"));
                }
                let held = out.providers.entry((wanted.0.into(), wanted.1.into())).or_default();
                held.extend(own.iter().cloned());
            }
        }
        match (errors.is_empty(), masked) {
            (false, _) => Err(aggregate(&errors)),
            (_, Some(masked)) => Err(masked),
            _ => Ok(out),
        }
    }

    fn held(&self, (resource, group): Resource<'_>) -> Option<&Vec<Arc<Provider>>> {
        self.providers.get(&(resource.to_owned(), group.to_owned()))
    }

    /// The resource's own, its group's, everyone's, or else the one that changes nothing.
    pub(super) fn providers(&self, resource: &str, group: &str) -> &[Arc<Provider>] {
        let candidates = [(resource, group), ("*", group), ("*", "*")];
        candidates.into_iter().find_map(|name| self.held(name)).map_or(&self.plain, Vec::as_slice)
    }
}

fn check_resources(names: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if names.is_empty() {
        errors.push(FieldError::required(path, format!("at least one {path} is required")));
    }
    let parsed: Vec<Resource<'_>> = names.iter().map(|name| resource(name)).collect();
    let pairs = || (0..parsed.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    let all = Value::list(names.iter().copied());
    if pairs().any(|(one, other)| parsed[one] == parsed[other]) {
        errors.push(FieldError::invalid(path, all.clone(), "the same resource cannot be specified multiple times"));
    }
    let overlap = |one: Resource<'_>, other: Resource<'_>| {
        one != other && ([one, other].contains(&("*", "*")) || one.1 == other.1 && (one.0 == "*" || other.0 == "*"))
    };
    if pairs().any(|(one, other)| overlap(parsed[one], parsed[other])) {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.push(FieldError::invalid(path, all, why));
    }
    for (at, (name, (resource, group))) in names.iter().zip(&parsed).enumerate() {
        let why = if name.to_lowercase() != *name {
            "resource name should not contain capital letters"
        } else if *name == "*" {
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
        } else if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"].contains(name) {
            "resources which do not have REST API/s cannot be encrypted"
        } else if *group == "events.k8s.io" {
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
        } else if *group == "extensions" {
            "'extensions' group has been removed and cannot be used for encryption"
        } else if *group == "*" && *resource != "*" {
            "encrypting the same resource across groups is not supported"
        } else {
            continue;
        };
        errors.push(FieldError::invalid(format!("{path}[{at}]"), *name, why));
    }
}

fn providers(entry: &Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<Arc<Provider>> {
    let entries = entry.list_at(&["providers"]);
    if entries.is_empty() {
        errors.push(FieldError::required(path, format!("at least one {path} is required")));
    }
    let mut out = Vec::new();
    for (at, provider) in entries.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let members: Vec<&str> = provider.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        match members.as_slice() {
            ["identity"] => out.push(Arc::new(Provider::Identity)),
            ["kms"] => errors.push(FieldError::invalid(
                format!("{path}.kms"),
                provider.str_at(&["kms", "name"]),
                "KMS providers are not supported; use aesgcm, aescbc, secretbox or identity",
            )),
            [name] if Cipher::ALL.iter().any(|(known, _)| known == name) => {
                let cipher = Cipher::ALL.iter().find(|(known, _)| known == name).map(|(_, cipher)| *cipher);
                if let Some(cipher) = cipher {
                    let keys = keys(&provider[*name], cipher, &format!("{path}.{name}.keys"), errors);
                    out.push(Arc::new(Provider::Keyed { cipher, keys }));
                }
            }
            // The secrets of what is wrong are not told.
            [] | [_] => errors.push(FieldError::invalid(
                path,
                Value::list(members),
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
            )),
            _ => errors.push(FieldError::invalid(
                path,
                Value::list(members),
                "more than one provider specified in a single element, should split into different list elements",
            )),
        }
    }
    out
}

fn keys(provider: &Value, cipher: Cipher, path: &str, errors: &mut Vec<FieldError>) -> Vec<Key> {
    let entries = provider.list_at(&["keys"]);
    if entries.is_empty() {
        errors.push(FieldError::required(path, "at least one keys is required"));
    }
    let mut out = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let (name, secret) = (entry.str_at(&["name"]), entry.str_at(&["secret"]));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), "name is a mandatory field for a key"));
        }
        let place = format!("{path}.secret");
        if secret.is_empty() {
            errors.push(FieldError::required(place, "secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(secret) {
            Err(_) => errors.push(FieldError::invalid(place, "REDACTED", "secrets must be base64 encoded")),
            Ok(secret) if !cipher.key_bytes().contains(&secret.len()) => {
                let wanted = cipher.key_bytes().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                let found = secret.len();
                let why = format!("secret is not of the expected length, got {found}, expected one of [{wanted}]");
                errors.push(FieldError::invalid(place, "REDACTED", why));
            }
            Ok(secret) => out.push(Key { name: name.to_owned(), secret }),
        }
    }
    out
}
