//! Which logins a pod has for an image: those of its pull secrets, in upstream's order, with upstream's hash of each.

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::api::core::v1::Secret;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::verify::Access;
use crate::objects::Snapshot;
use crate::pod::Desired;
use crate::ports::{Credentials, Images};

/// A login, and who has an image that it gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub credentials: Credentials,
    pub source: Access,
}

/// A secret's coordinates, and what one of its logins hashes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretLogin {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hash: String,
}

/// Logins of the pod's pull secrets for an image, those for longer paths before those for their parents.
pub fn logins(desired: &Desired, objects: &Snapshot, images: &dyn Images, image: &str) -> Vec<Login> {
    let names = desired.pod.spec.image_pull_secrets.iter();
    let all = names.filter_map(|of| objects.secrets.get(&of.name)).flat_map(|secret| of_secret(secret));
    fitting(all, images, image)
}

pub fn fitting(all: impl Iterator<Item = Login>, images: &dyn Images, image: &str) -> Vec<Login> {
    let mut all: Vec<Login> = all.filter(|login| images.fits(&login.credentials.registry, image)).collect();
    all.sort_by(|a, b| b.credentials.registry.cmp(&a.credentials.registry));
    all
}

/// `.dockerconfigjson` or `.dockercfg`. Entries that say nothing, or for no registry, are no logins.
fn of_secret(secret: &Secret) -> Vec<Login> {
    let parse = |key: &str| secret.data.get(key).and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
    let auths = match parse(".dockerconfigjson") {
        Some(config) => config["auths"].clone(),
        None => parse(".dockercfg").unwrap_or_default(),
    };
    let entries = auths.as_object().into_iter().flatten();
    let login = |(registry, entry): (&String, &Value)| {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let both = STANDARD.decode(text("auth")).ok().and_then(|raw| String::from_utf8(raw).ok());
        let both = both.as_deref().and_then(|both| both.split_once(':'));
        let (username, password) = match both {
            Some((user, password)) => (user.to_owned(), password.trim_end_matches('\0').to_owned()),
            None => (text("username"), text("password")),
        };
        let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
        let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let (identity_token, registry_token) = (text("identitytoken"), text("registrytoken"));
        let hash = hash(&[
            ("username", &username),
            ("password", &password),
            ("email", &text("email")),
            ("identitytoken", &identity_token),
            ("registrytoken", &registry_token),
        ]);
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry }.to_owned();
        let meta = &secret.metadata;
        Login {
            credentials: Credentials { registry, username, password, identity_token, registry_token },
            source: Access::Secret(SecretLogin {
                uid: meta.uid.clone(),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                hash,
            }),
        }
    };
    let says = |of: &Credentials| {
        let any = [&of.username, &of.identity_token, &of.registry_token].iter().any(|text| !text.is_empty());
        any && !of.registry.is_empty()
    };
    entries.map(login).filter(|login| says(&login.credentials)).collect()
}

/// Of the fields that say something, as Go writes them in JSON.
fn hash(fields: &[(&str, &str)]) -> String {
    let said = fields.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = said.map(|(name, value)| format!("\"{name}\":{}", Value::from(*value))).collect();
    let mut json = format!("{{{}}}", pairs.join(","));
    for sign in ['<', '>', '&', '\u{2028}', '\u{2029}'] {
        json = json.replace(sign, &format!("\\u{:04x}", u32::from(sign)));
    }
    hex(json.as_bytes())
}

/// SHA-256.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
