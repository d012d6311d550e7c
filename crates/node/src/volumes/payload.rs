//! What stands in ConfigMap, Secret, downwardAPI and projected volumes: pure, path → content.

use std::{collections::BTreeMap, path::Component, path::Path};

use schema::api::certificates::v1::ClusterTrustBundle;
use schema::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume};

use super::anchors::anchors;
use super::certificates::Bundles;
use crate::env::{self, Sources};
use crate::objects::Snapshot;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Instead of root.
    pub user: Option<u32>,
}

pub type Payload = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("invalid path: {0}")]
    Path(String),
    #[error(transparent)]
    Field(#[from] env::Error),
    #[error("no token for audience \"{0}\" yet")]
    NoToken(String),
    #[error("no certificate for source {0} yet")]
    NoCertificate(usize),
    #[error("{0}")]
    Anchors(String),
}

const DEFAULT_MODE: i32 = 0o644;

fn mode(mode: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(mode.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777
}

fn checked(path: &str) -> Result<String, Error> {
    let fine = !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if fine { Ok(path.to_owned()) } else { Err(Error::Path(path.to_owned())) }
}

/// What a volume shows of a ConfigMap or a Secret.
struct Shown<'a> {
    name: &'a str,
    items: &'a [KeyToPath],
    default: Option<i32>,
    optional: bool,
}

impl Shown<'_> {
    /// The keys that are asked for, or all.
    fn pick<'a>(
        &self,
        kind: &'static str,
        data: Option<BTreeMap<&'a str, &'a [u8]>>,
        out: &mut Payload,
    ) -> Result<(), Error> {
        let Some(data) = data else {
            let kind = if kind == "config" { "configmap" } else { kind };
            return if self.optional { Ok(()) } else { Err(Error::NoObject { kind, name: self.name.into() }) };
        };
        if self.items.is_empty() {
            for (key, value) in data {
                out.insert(checked(key)?, File { data: value.to_vec(), mode: mode(None, self.default), user: None });
            }
            return Ok(());
        }
        for item in self.items {
            match data.get(item.key.as_str()) {
                Some(value) => {
                    let user = item.user.and_then(|user| u32::try_from(user).ok());
                    let mode = mode(item.mode, self.default);
                    out.insert(checked(&item.path)?, File { data: value.to_vec(), mode, user });
                }
                None if self.optional => {}
                None => return Err(Error::NoKey { kind, key: item.key.clone() }),
            }
        }
        Ok(())
    }

    fn config_map(&self, objects: &Snapshot, out: &mut Payload) -> Result<(), Error> {
        let data = objects.config_maps.get(self.name).map(|map| {
            let text = map.data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
            text.chain(map.binary_data.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).collect()
        });
        self.pick("config", data, out)
    }

    fn secret(&self, objects: &Snapshot, out: &mut Payload) -> Result<(), Error> {
        let data = objects.secrets.get(self.name);
        let data = data.map(|of| of.data.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect());
        self.pick("secret", data, out)
    }
}

fn downward(
    sources: &Sources<'_>,
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
    out: &mut Payload,
) -> Result<(), Error> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            env::field_value(sources, field)?
        } else if let Some(resource) = &item.resource_field_ref {
            let container = schema::api::core::v1::Container::default();
            env::resource_value(sources, resource, &container)?
        } else {
            continue;
        };
        let user = item.user.and_then(|user| u32::try_from(user).ok());
        out.insert(checked(&item.path)?, File { data: value.into_bytes(), mode: mode(item.mode, default), user });
    }
    Ok(())
}

/// Tokens by audience and asked seconds, as `TokenRequest` gave them.
pub type Tokens = BTreeMap<(String, i64), String>;

/// What the API gave for one pod beside ConfigMaps and Secrets.
pub struct Fetched {
    pub tokens: Tokens,
    pub certificates: Bundles,
    pub bundles: Vec<ClusterTrustBundle>,
}

/// The seconds that a projected token lives if its volume does not say.
pub const TOKEN_SECONDS: i64 = 3600;

/// The whole content of a volume; `None` if it is of another kind.
pub fn payload(sources: &Sources<'_>, fetched: &Fetched, volume: &Volume) -> Result<Option<Payload>, Error> {
    let (source, objects) = (&volume.volume_source, sources.objects);
    let mut out = Payload::new();
    let shown = |name, items, default, optional| Shown { name, items, default, optional: optional == Some(true) };
    if let Some(of) = &source.config_map {
        let name = &of.local_object_reference.name;
        shown(name, &of.items, of.default_mode, of.optional).config_map(objects, &mut out)?;
    } else if let Some(of) = &source.secret {
        shown(&of.secret_name, &of.items, of.default_mode, of.optional).secret(objects, &mut out)?;
    } else if let Some(of) = &source.downward_api {
        downward(sources, &of.items, of.default_mode, &mut out)?;
    } else if let Some(all) = &source.projected {
        for (at, of) in all.sources.iter().enumerate() {
            let own = |user: Option<i64>, text| own_file(sources, all.default_mode, user.or(all.default_user), text);
            if let Some(of) = &of.config_map {
                let name = &of.local_object_reference.name;
                shown(name, &of.items, all.default_mode, of.optional).config_map(objects, &mut out)?;
            } else if let Some(of) = &of.secret {
                let name = &of.local_object_reference.name;
                shown(name, &of.items, all.default_mode, of.optional).secret(objects, &mut out)?;
            } else if let Some(of) = &of.downward_api {
                downward(sources, &of.items, all.default_mode, &mut out)?;
            } else if let Some(of) = &of.service_account_token {
                let key = (of.audience.clone(), of.expiration_seconds.unwrap_or(TOKEN_SECONDS));
                let token = fetched.tokens.get(&key).ok_or_else(|| Error::NoToken(of.audience.clone()))?;
                out.insert(checked(&of.path)?, own(of.user, token.clone()));
            } else if let Some(of) = &of.cluster_trust_bundle {
                let anchors = anchors(&fetched.bundles, of).map_err(Error::Anchors)?;
                out.insert(checked(&of.path)?, own(of.user, anchors));
            } else if let Some(of) = &of.pod_certificate {
                let bundle = fetched.certificates.get(&(volume.name.clone(), at)).ok_or(Error::NoCertificate(at))?;
                let (key, chain) = (bundle.key.clone(), bundle.chain.clone());
                let files = [
                    (&of.credential_bundle_path, format!("{key}{chain}")),
                    (&of.key_path, key),
                    (&of.certificate_chain_path, chain),
                ];
                for (path, text) in files.into_iter().filter(|(path, _)| !path.is_empty()) {
                    out.insert(checked(path)?, own(of.user, text));
                }
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

/// A file that its user may read, or the pod's one user, or its group.
fn own_file(sources: &Sources<'_>, default: Option<i32>, user: Option<i64>, text: String) -> File {
    let security = sources.desired.pod.spec.security_context.as_ref();
    let user = user.or_else(|| one_user(sources)).and_then(|user| u32::try_from(user).ok());
    let shared = security.is_some_and(|security| security.fs_group.is_some());
    let mode = if shared || user.is_some() { 0o600 } else { mode(None, default) };
    File { data: text.into_bytes(), mode, user }
}

/// The user that all containers run as, if they agree on one.
fn one_user(sources: &Sources<'_>) -> Option<i64> {
    let pod = sources.desired.pod.spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let contexts = sources.desired.members.iter().map(|member| member.container.security_context.as_ref());
    let mut users = contexts.map(|security| security.and_then(|security| security.run_as_user).or(pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}
