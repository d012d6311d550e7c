//! What many reconcilers ask: selectors, ownership, readiness of pods, events.

use std::collections::BTreeMap;
use std::sync::Arc;

use reconcile::{Action, Ctx, Key, Objects, Patch, Reference, World};
use schema::api::core::v1::{Event, EventSource, Pod};
use schema::api::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use schema::api::{IntOrString, MicroTime, Object, Time};
use schema::selector;
use schema::time::format;
use serde_json::json;

/// A label selector, ready to match: `None` matches nothing, an empty one everything.
pub struct Matcher(Option<Vec<selector::Requirement>>);

impl Matcher {
    /// A selector that validation let through; one that it would not matches nothing.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self(None) };
        let equal = selector.match_labels.iter().map(|(key, value)| (key, selector::Operator::In, vec![value.clone()]));
        let expressions = selector.match_expressions.iter().map(|expression| {
            let operator = match &*expression.operator {
                "In" => selector::Operator::In,
                "NotIn" => selector::Operator::NotIn,
                "Exists" => selector::Operator::Exists,
                _ => selector::Operator::DoesNotExist,
            };
            (&expression.key, operator, expression.values.clone())
        });
        Self(
            equal
                .chain(expressions)
                .map(|(key, operator, values)| selector::Requirement::new(key.clone(), operator, values).ok())
                .collect(),
        )
    }

    /// `spec.selector` of Services and ReplicationControllers: an empty one matches nothing.
    pub fn labels(labels: &BTreeMap<String, String>) -> Self {
        if labels.is_empty() {
            return Self(None);
        }
        Self::new(Some(&LabelSelector { match_labels: labels.clone(), ..LabelSelector::default() }))
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.as_ref().is_some_and(|all| {
            all.iter().all(|requirement| requirement.matches(labels.get(&requirement.key).map(String::as_str)))
        })
    }
}

/// The object of a key, unless it is being deleted.
pub fn living<'a, K: Object>(world: &'a World, key: &Key) -> Option<&'a Arc<K>> {
    world.get::<K>(key).filter(|object| object.metadata().deletion_timestamp.is_none())
}

/// The owner that manages an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().find(|owner| owner.controller == Some(true))
}

pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// A reference that makes `owner` the controller.
pub fn controller_ref<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..reconcile::owner(owner) }
}

/// Which dependents belong to `owner`, and what to do so that they do: adopt orphans that match, release what does not.
pub fn claim<'a, O: Object, K: Object>(
    owner: &O,
    matcher: &Matcher,
    all: &'a Objects<K>,
    may_adopt: impl Fn(&K) -> bool,
    actions: &mut Vec<Action>,
) -> Vec<&'a K> {
    let meta = owner.metadata();
    let mut mine = Vec::new();
    for candidate in all.in_namespace(&meta.namespace) {
        let candidate = &**candidate;
        let their = candidate.metadata();
        match controller_of(their) {
            Some(controller) if controller.uid != meta.uid => {}
            Some(_) if matcher.matches(&their.labels) => mine.push(candidate),
            Some(_) if meta.deletion_timestamp.is_none() && their.deletion_timestamp.is_none() => {
                let kept: Vec<_> =
                    their.owner_references.iter().filter(|owner| owner.uid != meta.uid).map(owner_json).collect();
                actions.push(Action::merge(candidate, None, json!({"metadata": {"ownerReferences": kept}})));
            }
            Some(_) => {}
            None if meta.deletion_timestamp.is_none()
                && their.deletion_timestamp.is_none()
                && matcher.matches(&their.labels)
                && may_adopt(candidate) =>
            {
                let mut owners: Vec<_> = their.owner_references.iter().map(owner_json).collect();
                owners.push(owner_json(&controller_ref(owner)));
                let meta = json!({"ownerReferences": owners, "resourceVersion": their.resource_version});
                actions.push(Action::merge(candidate, None, json!({"metadata": meta})));
                mine.push(candidate);
            }
            None => {}
        }
    }
    mine
}

pub(crate) fn owner_json(owner: &OwnerReference) -> serde_json::Value {
    let mut json = json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid});
    if let Some(controller) = owner.controller {
        json["controller"] = json!(controller);
    }
    if let Some(block) = owner.block_owner_deletion {
        json["blockOwnerDeletion"] = json!(block);
    }
    json
}

pub fn time(ctx: &Ctx) -> Time {
    Time { seconds: ctx.now_seconds() }
}

/// An event about `object`, as upstream's recorders write them.
pub fn event<K: Object>(
    ctx: &mut Ctx,
    object: &K,
    component: &str,
    kind: &str,
    reason: &str,
    message: impl Into<String>,
) -> Action {
    let meta = object.metadata();
    let namespace = if meta.namespace.is_empty() { "default" } else { &meta.namespace };
    let now = time(ctx);
    Action::create(Event {
        metadata: ObjectMeta {
            name: format!("{}.{:016x}", meta.name, ctx.now_ns.unsigned_abs() ^ (ctx.random() & 0xffff)),
            namespace: namespace.to_owned(),
            ..ObjectMeta::default()
        },
        involved_object: reconcile::reference(object),
        reason: reason.to_owned(),
        message: message.into(),
        source: EventSource { component: component.to_owned(), ..EventSource::default() },
        first_timestamp: now,
        last_timestamp: now,
        count: 1,
        r#type: kind.to_owned(),
        event_time: MicroTime::default(),
        reporting_component: component.to_owned(),
        ..Event::default()
    })
}

/// Says in the pod's status why it goes; `failed`: nobody is left to say how it ended.
pub fn disrupt(pod: &Pod, ctx: &Ctx, reason: &str, message: &str, failed: bool) -> Action {
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": format(ctx.now_seconds()),
    });
    if pod.metadata.generation > 0 {
        condition["observedGeneration"] = json!(pod.metadata.generation);
    }
    let mut status = json!({"conditions": [condition]});
    if failed {
        status["phase"] = json!("Failed");
    }
    Action::Patch {
        of: Reference::to(pod),
        subresource: Some("status"),
        patch: Patch::Strategic(json!({"status": status})),
    }
}

/// The pod's condition of a type: its status and since when.
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Time)> {
    let condition = pod.status.conditions.iter().find(|condition| condition.r#type == kind);
    condition.map(|condition| (&*condition.status, condition.last_transition_time))
}

pub fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// Ready for at least `min_ready_seconds`; else in how many seconds it will be (`None`: not by time alone).
pub fn availability(pod: &Pod, min_ready_seconds: i32, now_seconds: i64) -> Result<(), Option<i64>> {
    match pod_condition(pod, "Ready") {
        Some(("True", _)) if min_ready_seconds <= 0 => Ok(()),
        Some(("True", since)) => {
            let left = since.seconds + i64::from(min_ready_seconds) - now_seconds;
            if left <= 0 { Ok(()) } else { Err(Some(left)) }
        }
        _ => Err(None),
    }
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(&*pod.status.phase, "Succeeded" | "Failed")
}

/// Neither ended nor about to be.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// `3` or `25%` of a total.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(scaled).unwrap_or(i32::MAX)
        }
    }
}

/// Upstream's `rand.SafeEncodeString`: a number in letters that make no words.
pub fn safe_encode(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| LETTERS[usize::from(digit) % LETTERS.len()] as char).collect()
}

/// The object's key in its namespace.
pub fn key(namespace: &str, name: &str) -> Key {
    Key::new(namespace, name)
}
