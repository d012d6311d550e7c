//! How other objects name an object.

use schema::api::Object;
use schema::api::core::v1::ObjectReference;
use schema::api::meta::v1::OwnerReference;

/// As events and bindings do.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        kind: K::KIND.to_owned(),
        api_version: K::api_version(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// As what goes with it does.
pub fn owner<K: Object>(object: &K) -> OwnerReference {
    let meta = object.metadata();
    OwnerReference {
        api_version: K::api_version(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..OwnerReference::default()
    }
}
