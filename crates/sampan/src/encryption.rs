//! `--secrets-encryption` and kube-apiserver's `--encryption-provider-config`: the file that says how values are stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiserver::encryption::{Configuration, Encrypted};
use apiserver::seams::Random;
use base64::{Engine, engine::general_purpose::STANDARD};
use schema::{Value, yaml};
use store::Store;

use crate::cli::ServerArgs;
use crate::files;
use crate::inbox::Inbox;
use crate::places::Places;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("cannot read the encryption provider configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("encryption provider configuration {}: {why}", path.display())]
    Wrong { path: PathBuf, why: String },
}

const KEY_BYTES: usize = 32;

/// Where k3s has it.
pub fn made_file(places: &Places) -> PathBuf {
    places.server().join("cred/encryption-config.json")
}

fn read(path: &Path) -> Result<Configuration, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Configuration::parse(&text).map_err(|why| Error::Wrong { path: path.to_owned(), why })
}

/// The store, with what must stand before it. A file that `--secrets-encryption` has made is used from then on.
pub fn before(
    args: &ServerArgs,
    places: &Places,
    random: Arc<dyn Random>,
    store: Arc<dyn Store>,
) -> Result<Arc<dyn Store>, Error> {
    let made = made_file(places);
    let given = args.api_server_arg("encryption-provider-config").map(PathBuf::from);
    if given.is_none() && args.secrets_encryption && !made.exists() {
        make(&made, &args.secrets_encryption_provider, &*random)?;
    }
    let follows = given.is_none() || args.api_server_arg("encryption-provider-config-automatic-reload") == Some("true");
    let Some(path) = given.or_else(|| made.exists().then_some(made)) else { return Ok(store) };
    let encrypted = Arc::new(Encrypted::new(store, random, read(&path)?));
    if follows {
        tokio::spawn(follow(path, encrypted.clone()));
    }
    Ok(encrypted)
}

/// Secrets by a new key; what is stored already stays readable.
fn make(path: &Path, cipher: &str, random: &dyn Random) -> Result<(), Error> {
    let mut secret = [0; KEY_BYTES];
    random.fill(&mut secret);
    let key = Value::object([("name", format!("{cipher}key").into()), ("secret", STANDARD.encode(secret).into())]);
    let keyed = Value::object([(cipher, Value::object([("keys", Value::list([key]))]))]);
    let plain = Value::object([("identity", Value::object::<&str>([]))]);
    let resources = [("resources", Value::list(["secrets"])), ("providers", Value::list([keyed, plain]))];
    let whole = Value::object([
        ("kind", "EncryptionConfiguration".into()),
        ("apiVersion", "apiserver.config.k8s.io/v1".into()),
        ("resources", Value::list([Value::object(resources)])),
    ]);
    if let Some(parent) = path.parent() {
        files::make_dir(parent, 0o700)?;
    }
    Ok(files::write(path, whole.to_string().as_bytes(), 0o600)?)
}

/// Takes what the file says whenever it changes; a file that says nothing good changes nothing.
async fn follow(path: PathBuf, encrypted: Arc<Encrypted>) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut news = match Inbox::open(parent) {
        Ok(news) => news,
        Err(error) => return tracing::error!(%error, "the encryption provider configuration is not followed"),
    };
    let mut last = std::fs::read(&path).unwrap_or_default();
    while news.changed().await.is_ok() {
        let now = std::fs::read(&path).unwrap_or_default();
        if now == last {
            continue;
        }
        last = now;
        match read(&path) {
            Ok(configuration) => {
                encrypted.replace(configuration);
                tracing::info!(file = %path.display(), "the encryption provider configuration was read again");
            }
            Err(error) => tracing::error!(%error, "the earlier encryption provider configuration stays"),
        }
    }
}

/// `sampan secrets-encrypt status`, as k3s prints it.
pub fn status(places: &Places) -> Result<String, Error> {
    let path = made_file(places);
    let text = files::read(&path)?.unwrap_or_default();
    let wrong = |error: yaml::YamlError| Error::Wrong { path: path.clone(), why: error.to_string() };
    let value = yaml::parse(text.as_bytes()).map_err(wrong)?.value;
    let providers = value["resources"][0].list_at(&["providers"]);
    let known = [("aesgcm", "AES-GCM"), ("aescbc", "AES-CBC"), ("secretbox", "XSalsa20-POLY1305")];
    let is_on = providers.first().is_some_and(|first| first.get(&["identity"]).is_none());
    let mut out = format!("Encryption Status: {}\n", if is_on { "Enabled" } else { "Disabled" });
    if is_on {
        out.push_str("\nActive  Key Type  Name\n------  --------  ----\n");
        let mut mark = "*";
        for (provider, (name, shown)) in providers.iter().flat_map(|p| known.iter().map(move |known| (p, known))) {
            for key in provider.list_at(&[name, "keys"]) {
                out.push_str(&format!(" {mark:<6} {shown:<9} {}\n", key.str_at(&["name"])));
                mark = " ";
            }
        }
    }
    Ok(out)
}
