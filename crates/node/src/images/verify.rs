//! Who may use an image that is here already: KEP-2535's rules, over records in upstream's form. Nothing here touches
//! the disk.

use serde_json::{Map, Value, json};

use super::keyring::{Login, SecretLogin};

/// Secrets of one image's record, above which it is not written just because another one was seen to fit.
const WRITE_WHILE_MATCHING: usize = 100;
/// Secrets, and service accounts, that are remembered; of those beyond, one is forgotten, and has to prove itself again.
const MOST: usize = 1000;
const SECRETS: &str = "kubernetesSecrets";
const ACCOUNTS: &str = "kubernetesServiceAccounts";

/// `imagePullCredentialsVerificationPolicy`: which images need no proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    NeverVerify,
    /// Those that the kubelet has not pulled.
    #[default]
    NeverVerifyPreloadedImages,
    /// Repositories, or with `/*` at their end whatever begins so.
    NeverVerifyAllowlistedImages(Vec<String>),
    AlwaysVerify,
}

impl Policy {
    /// `pulled`: whether the kubelet has pulled it, or begun to.
    pub fn demands(&self, repository: &str, pulled: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => pulled,
            Self::NeverVerifyAllowlistedImages(list) => !list.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => repository.starts_with(beginning),
                None => repository == pattern,
            }),
            Self::AlwaysVerify => true,
        }
    }
}

/// An image's name as a pod says it, without tag and digest.
pub fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

/// What is wrong with a pattern of the allowlist.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern != pattern.trim() {
        return Err(format!("leading/trailing spaces are not allowed: {pattern}"));
    }
    let (name, wild) = match pattern.strip_suffix("/*") {
        Some(beginning) => (beginning, true),
        None => (pattern, false),
    };
    if pattern.is_empty() {
        return Err(format!("the supplied pattern is too short: {pattern}"));
    }
    if name.contains('*') {
        return Err(format!("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"));
    }
    if name.is_empty() {
        return Err("at least registry hostname is required".into());
    }
    if wild {
        return Ok(());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c)) || name.split('/').any(str::is_empty)
    {
        return Err("failed to parse as an image name: invalid reference format".into());
    }
    if repository(name) != name {
        return Err(format!("neither tag nor digest is accepted in an image reference: {pattern}"));
    }
    Ok(())
}

/// Whether a pod may use an image without asking its registry, and how that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    PolicyAllowed,
    /// Its login is known to be good; this one is new beside what is known, and worth a note.
    Found(Option<SecretLogin>),
    MustAuthenticate,
    /// The record cannot be read.
    Error,
}

impl Verdict {
    /// As the metric names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PolicyAllowed => "credentialPolicyAllowed",
            Self::Found(_) => "credentialRecordFound",
            Self::MustAuthenticate => "mustAuthenticate",
            Self::Error => "error",
        }
    }

    pub fn must_pull(&self) -> bool {
        matches!(self, Self::MustAuthenticate | Self::Error)
    }
}

fn secrets(known: &Value) -> Vec<SecretLogin> {
    let secret = |of: &Value| {
        let text = |name: &str| of[name].as_str().unwrap_or_default().to_owned();
        SecretLogin { uid: text("uid"), namespace: text("namespace"), name: text("name"), hash: text("credentialHash") }
    };
    list(known, SECRETS).iter().map(secret).collect()
}

fn list<'a>(known: &'a Value, kind: &str) -> &'a [Value] {
    known[kind].as_array().map_or(&[], Vec::as_slice)
}

fn same_secret(a: &SecretLogin, b: &SecretLogin) -> bool {
    (&a.uid, &a.namespace, &a.name) == (&b.uid, &b.namespace, &b.name)
}

/// What a record says about a pod with these logins. The same login is as good in another secret, and the same secret
/// with another login.
pub fn check(record: &Value, repository: &str, logins: &[Login]) -> Verdict {
    let known = &record["credentialMapping"][repository];
    if known["nodePodsAccessible"] == true {
        return Verdict::Found(None);
    }
    let good = secrets(known);
    for login in logins {
        let secret = match &login.source {
            Access::Secret(secret) => secret,
            Access::Account(account) if list(known, ACCOUNTS).contains(account) => return Verdict::Found(None),
            _ => continue,
        };
        for of in &good {
            let same_hash = !of.hash.is_empty() && of.hash == secret.hash;
            let same_secret = same_secret(of, secret);
            let room = good.len() < WRITE_WHILE_MATCHING;
            if same_hash {
                return Verdict::Found((!same_secret && room).then(|| secret.clone()));
            }
            if same_secret && room {
                return Verdict::Found(Some(secret.clone()));
            }
        }
    }
    Verdict::MustAuthenticate
}

/// Who has shown that he may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every pod of this node.
    NodePods,
    Secret(SecretLogin),
    /// A service account, by `uid`, `namespace` and `name`.
    Account(Value),
    /// It is not known how it came here.
    Unknown,
}

/// The record with what is new, or nothing if it says so already.
pub fn add(record: Option<Value>, id: &str, repository: &str, access: &Access, now: &str) -> Option<Value> {
    let fresh = record.is_none();
    let mut record = record.unwrap_or_else(|| json!({"imageRef": id}));
    record["kind"] = json!("ImagePulledRecord");
    record["apiVersion"] = json!(API_VERSION);
    let known = record["credentialMapping"][repository].take();
    let merged = merge(&known, access);
    let changed = merged != known;
    let mapping = record["credentialMapping"].as_object_mut()?;
    match merged {
        Value::Null => drop(mapping.remove(repository)),
        merged => drop(mapping.insert(repository.to_owned(), merged)),
    }
    record["lastUpdatedTime"] = json!(now);
    (fresh || changed).then_some(record)
}

pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

fn merge(known: &Value, access: &Access) -> Value {
    let (kind, new) = match access {
        _ if known["nodePodsAccessible"] == true => return known.clone(),
        Access::Unknown => return known.clone(),
        Access::NodePods => return json!({"nodePodsAccessible": true}),
        Access::Secret(SecretLogin { uid, namespace, name, hash }) => {
            (SECRETS, json!({"uid": uid, "namespace": namespace, "name": name, "credentialHash": hash}))
        }
        Access::Account(account) => (ACCOUNTS, account.clone()),
    };
    let mut all = list(known, kind).to_vec();
    if all.contains(&new) {
        return known.clone();
    }
    let place = |of: &Value| ["namespace", "name", "uid"].map(|key| of[key].as_str().unwrap_or_default().to_owned());
    all.retain(|of| place(of) != place(&new));
    all.truncate(MOST - 1);
    all.push(new);
    all.sort_by_key(place);
    let mut merged: Map<String, Value> = known.as_object().cloned().unwrap_or_default();
    merged.insert(kind.into(), all.into());
    Value::Object(merged)
}
