//! A custom resource's object in the versions of those who own its fields: whether a change touches what they own is told
//! by the names that the fields have there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use schema::{Type, Value, apply};

use crate::Server;
use crate::kind::{Custom, Kind};
use crate::status::Result;

/// Objects as they are in other versions. A webhook's conversions take time: one that is not known yet is noted, and the
/// change is made once more when it is.
#[derive(Default)]
pub struct Versions(Mutex<Held>);

#[derive(Default)]
struct Held {
    known: Vec<(String, Value, Value)>,
    wanted: Vec<(String, Value)>,
}

impl Versions {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a change did in another version; `None`: the resource has no such version, or that is not known yet.
    pub fn compare(&self, kind: &Kind, api_version: &str, before: &Value, after: &Value) -> Option<apply::Comparison> {
        let custom = kind.custom.as_deref()?;
        let schema = custom.schemas.get(api_version)?;
        let converted = [before, after].map(|object| {
            let mut object = self.converted(custom, api_version, object)?;
            schema.prune(&mut object);
            Some(object)
        });
        let [Some(before), Some(after)] = converted else { return None };
        Some(apply::compare(&schema.table, &Type::Message(schema.root), &before, &after))
    }

    fn converted(&self, custom: &Custom, api_version: &str, object: &Value) -> Option<Value> {
        if custom.converter.is_none() {
            let mut object = object.clone();
            object.set(&["apiVersion"], api_version);
            return Some(object);
        }
        let mut held = self.held();
        let known = held.known.iter().find(|(version, from, _)| version == api_version && from == object);
        if let Some((_, _, to)) = known {
            return Some(to.clone());
        }
        held.wanted.push((api_version.to_owned(), object.clone()));
        None
    }

    /// Converts what was not known; true: something was not.
    pub async fn fetch(&self, server: &Server, kind: &Kind) -> Result<bool> {
        let wanted = std::mem::take(&mut self.held().wanted);
        let converter = kind.custom.as_deref().and_then(|custom| custom.converter.as_deref());
        let Some(converter) = converter.filter(|_| !wanted.is_empty()) else { return Ok(false) };
        for (api_version, from) in wanted {
            let converted = converter.convert(server, std::slice::from_ref(&from), &api_version).await?;
            if let Some(to) = converted.into_iter().next() {
                self.held().known.push((api_version, from, to));
            }
        }
        Ok(true)
    }
}
