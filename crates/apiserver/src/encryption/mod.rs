//! Encryption at rest: what `apiserver.config.k8s.io/v1` EncryptionConfiguration asks for, in upstream's stored forms.
//!
//! [`Encrypted`] stands before the datastore: what goes in is transformed by the resource's first provider, what comes
//! out by the one whose prefix it has. The cache, and all else, knows plain bytes only.

mod ciphers;
mod configuration;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use store::{BoxFuture, Change, Error, Guard, KeyValue, Range, Revision, Store, Write};
use tokio::sync::watch;

use crate::kind::builtin;
use crate::seams::Random;
use ciphers::Cipher;
pub use configuration::Configuration;

/// Everything that is encrypted begins with this.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// One `providers` entry.
enum Provider {
    Identity,
    Keyed { cipher: Cipher, keys: Vec<Key> },
}

struct Key {
    name: String,
    secret: Vec<u8>,
}

impl Provider {
    /// The plain bytes of a value in this provider's form, and whether its first key would write them so; `None` if the
    /// form is another.
    fn open(&self, place: &str, stored: &[u8]) -> Option<Result<(Vec<u8>, bool), String>> {
        let (cipher, keys) = match self {
            Provider::Identity if stored.starts_with(ENCRYPTED) => return None,
            Provider::Identity => return Some(Ok((stored.to_vec(), true))),
            Provider::Keyed { cipher, keys } => (cipher, keys),
        };
        let rest = stored.strip_prefix(cipher.prefix().as_bytes())?;
        let mut why = None;
        for (at, key) in keys.iter().enumerate() {
            let named = rest.strip_prefix(key.name.as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
            match named.map(|sealed| cipher.open(&key.secret, place, sealed)) {
                Some(Ok(plain)) => return Some(Ok((plain, at == 0))),
                Some(Err(error)) => drop(why.get_or_insert_with(|| error.to_owned())),
                None => {}
            }
        }
        Some(Err(why
            .unwrap_or_else(|| format!("no matching key was found for the provided {} transformer", cipher.family()))))
    }

    fn seal(&self, place: &str, plain: &Bytes, random: &dyn Random) -> Result<Bytes, String> {
        match self {
            Provider::Identity => Ok(plain.clone()),
            Provider::Keyed { cipher, keys } => {
                let key = keys.first().ok_or("no key")?;
                let mut out = format!("{}{}:", cipher.prefix(), key.name).into_bytes();
                cipher.seal(&key.secret, place, plain, random, &mut out)?;
                Ok(out.into())
            }
        }
    }
}

/// A store whose values are transformed on their way.
pub struct Encrypted {
    store: Arc<dyn Store>,
    random: Arc<dyn Random>,
    configuration: RwLock<Arc<Configuration>>,
    /// Resource and group by the prefix of their keys.
    resources: HashMap<&'static str, (&'static str, &'static str)>,
}

impl Encrypted {
    pub fn new(store: Arc<dyn Store>, random: Arc<dyn Random>, configuration: Configuration) -> Self {
        // Events are stored as those of the core group.
        let resources = builtin().resources.iter().filter(|r| !r.prefix.is_empty() && &*r.group != "events.k8s.io");
        let resources = resources.map(|r| (&*r.prefix, (&*r.plural, &*r.group))).collect();
        Encrypted { store, random, configuration: RwLock::new(Arc::new(configuration)), resources }
    }

    /// From now on.
    pub fn replace(&self, configuration: Configuration) {
        *self.configuration.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(configuration);
    }

    fn configuration(&self) -> Arc<Configuration> {
        self.configuration.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The resource and the group that a key belongs to.
    fn resource<'a>(&self, key: &'a str) -> (Cow<'a, str>, Cow<'a, str>) {
        let mut prefix = key;
        while let Some((head, _)) = prefix.rsplit_once('/') {
            if let Some((resource, group)) = self.resources.get(head) {
                return (Cow::Borrowed(resource), Cow::Borrowed(group));
            }
            prefix = head;
        }
        // Custom resources: `/registry/GROUP/PLURAL/…`
        let mut parts = key.split('/').skip(2);
        let group = parts.next().unwrap_or("");
        (parts.next().unwrap_or("").into(), group.into())
    }

    fn open(&self, key: &str, stored: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let configuration = self.configuration();
        let (resource, group) = self.resource(key);
        let mut why = None;
        for (at, provider) in configuration.providers(&resource, &group).iter().enumerate() {
            match provider.open(key, stored) {
                Some(Ok((plain, is_first))) => return Ok((plain, !is_first || at > 0)),
                Some(Err(error)) => drop(why.get_or_insert(error)),
                None => {}
            }
        }
        Err(why.unwrap_or_else(|| "no matching prefix found".to_owned()))
    }

    /// What cannot be read stays as it is: it spoils its own object only.
    fn plain(&self, key: &str, stored: Bytes) -> Bytes {
        match self.open(key, &stored) {
            Ok((plain, _)) => plain.into(),
            Err(why) => {
                tracing::error!(key, why, "unable to transform what the datastore holds");
                stored
            }
        }
    }

    fn plain_value(&self, mut held: KeyValue) -> KeyValue {
        held.value = self.plain(&held.key, held.value);
        held
    }

    fn seal(&self, write: Write) -> store::Result<Write> {
        let Write::Put { key, value } = write else { return Ok(write) };
        let configuration = self.configuration();
        let (resource, group) = self.resource(&key);
        let Some(provider) = configuration.providers(&resource, &group).first() else {
            return Ok(Write::Put { key, value });
        };
        let sealed = provider.seal(&key, &value, &*self.random);
        let value = sealed.map_err(|why| Error::Io { action: format!("encrypt {key}"), source: why.into() })?;
        Ok(Write::Put { key, value })
    }
}

impl Store for Encrypted {
    fn revision(&self) -> BoxFuture<'_, store::Result<Revision>> {
        self.store.revision()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, store::Result<Option<KeyValue>>> {
        Box::pin(async move { Ok(self.store.get(key).await?.map(|held| self.plain_value(held))) })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
        start: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, store::Result<Range>> {
        Box::pin(async move {
            let mut range = self.store.range(prefix, at, start, limit).await?;
            range.items = range.items.into_iter().map(|held| self.plain_value(held)).collect();
            Ok(range)
        })
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, store::Result<Vec<Change>>> {
        Box::pin(async move {
            let mut changes = self.store.changes(after, limit).await?;
            for change in &mut changes {
                change.value = change.value.take().map(|value| self.plain(&change.key, value));
                change.previous = change.previous.take().map(|(at, value)| (at, self.plain(&change.key, value)));
            }
            Ok(changes)
        })
    }

    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, store::Result<Vec<Revision>>> {
        Box::pin(async move {
            let writes = writes.into_iter().map(|write| self.seal(write)).collect::<store::Result<_>>()?;
            self.store.commit(guards, writes).await.map_err(|error| match error {
                Error::Conflict { key, expected, found } => {
                    Error::Conflict { key, expected, found: found.map(|held| self.plain_value(held)) }
                }
                other => other,
            })
        })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, store::Result<()>> {
        self.store.compact(before)
    }

    fn watermark(&self) -> watch::Receiver<Revision> {
        self.store.watermark()
    }

    fn volatile_since(&self) -> Revision {
        self.store.volatile_since()
    }

    fn is_stale<'a>(&'a self, key: &'a str) -> BoxFuture<'a, store::Result<bool>> {
        Box::pin(async move {
            let held = self.store.get(key).await?;
            Ok(held.is_some_and(|held| self.open(key, &held.value).is_ok_and(|(_, stale)| stale)))
        })
    }
}

#[cfg(test)]
mod tests;
