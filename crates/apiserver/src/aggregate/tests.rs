//! What remote servers tell, in both forms of discovery.

use schema::yaml;

use super::documents::{from_aggregated, from_legacy};
use super::*;

fn value(text: &str) -> Value {
    yaml::parse(text.as_bytes()).unwrap().value
}

#[test]
fn aggregated_discovery() {
    let list = value(
        "{items: [{metadata: {name: other}, versions: [{version: v1, resources: [{resource: no}]}]}, {metadata: {name: g}, versions: [{version: v2, resources: [{resource: no}]}, {version: v1, resources: [{resource: as, responseKind: {kind: A}, subresources: [{subresource: status}]}, {resource: bs}]}]}]}",
    );
    let found = Value::List(from_aggregated(&list, "g", "v1"));
    let wanted = "[{resource: as, responseKind: {kind: A}, subresources: [{subresource: status, responseKind: {}}]}, {resource: bs, responseKind: {}}]";
    assert_eq!(found, value(wanted));
    for (odd, group) in [("{}", "g"), ("{items: 1}", "g"), ("[]", "g"), ("{items: [{metadata: {name: g}}]}", "g")] {
        assert!(from_aggregated(&value(odd), group, "v1").is_empty(), "{odd}");
    }
    assert!(from_aggregated(&list, "g", "v3").is_empty());
}

#[test]
fn legacy_discovery() {
    let list = value(
        "{resources: [{name: as/scale, namespaced: true, group: autoscaling, version: v1, kind: Scale, verbs: [get]}, {name: as, singularName: a, namespaced: true, kind: A, verbs: [get, list], shortNames: [x]}, {name: alone/sub, kind: S, verbs: [create]}, {name: as/status, namespaced: true, kind: A, verbs: [update]}]}",
    );
    let found = Value::List(from_legacy(&list));
    let wanted = "[{resource: as, responseKind: {group: '', version: '', kind: A}, scope: Namespaced, singularResource: a, verbs: [get, list], shortNames: [x], subresources: [{subresource: scale, responseKind: {group: autoscaling, version: v1, kind: Scale}, verbs: [get]}, {subresource: status, responseKind: {group: '', version: '', kind: A}, verbs: [update]}]}, {resource: alone, responseKind: {}, scope: Cluster, singularResource: '', verbs: [], subresources: [{subresource: sub, responseKind: {group: '', version: '', kind: S}, verbs: [create]}]}]";
    assert_eq!(found, value(wanted));
    assert!(from_legacy(&value("{}")).is_empty());
}

#[test]
fn what_is_told_is_news_once() {
    let remotes = Remotes::default();
    let generation = || remotes.generation.load(Ordering::Relaxed);
    let told = Told { is_current: true, ..Told::default() };
    remotes.set("v1.g", told.clone());
    assert_eq!((generation(), remotes.get("v1.g").unwrap().is_current), (1, true));
    remotes.set("v1.g", told);
    assert_eq!(generation(), 1);
    remotes.set("v1.g", Told::default());
    assert_eq!((generation(), remotes.get("v1.g").unwrap().is_current), (2, false));
    remotes.retain(|name| name == "other");
    assert!(remotes.get("v1.g").is_none());
}
