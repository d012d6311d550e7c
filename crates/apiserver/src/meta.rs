//! `ObjectMeta`: what the server fills in, and how it reads it.

use schema::{Value, time};

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// Takes away what only the server sets.
pub fn wipe_system_fields(value: &mut Value) {
    let meta = value.make_object(&["metadata"]);
    for name in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(name);
    }
}

pub fn set_generation(value: &mut Value, generation: i64) {
    value.set(&["metadata", "generation"], generation);
}

/// Counts a change that the server's own code made to the specification.
pub fn bump_given(counted: bool, new: &mut Value, old: &Value) {
    if counted {
        crate::behaviours::bump_generation(new, old);
    }
}

pub fn generation(value: &Value) -> i64 {
    value.i64_at(&["metadata", "generation"]).unwrap_or(0)
}

pub fn is_deleting(value: &Value) -> bool {
    !value["metadata"]["deletionTimestamp"].is_null()
}

pub fn has_finalizers(value: &Value) -> bool {
    !value.list_at(&["metadata", "finalizers"]).is_empty()
}

/// Seconds of an RFC 3339 time in a value.
pub fn seconds_at(value: &Value, path: &[&str]) -> Option<i64> {
    time::parse(value.str_at(path)).map(|(seconds, _)| seconds)
}

/// Upstream's alphabet for generated names: no vowels, no look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_NAME_BASE_MAX: usize = 58;

/// `base` and five random characters.
pub fn generated_name(base: &str, random: &dyn crate::seams::Random) -> String {
    let mut end = base.len().min(GENERATED_NAME_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0; 5];
    random.fill(&mut bytes);
    let suffix = bytes.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char);
    base[..end].chars().chain(suffix).collect()
}

/// A random (version 4) UUID.
pub fn uid(random: &dyn crate::seams::Random) -> String {
    let mut b = [0u8; 16];
    random.fill(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = |r: &[u8]| r.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(&b[..4]), hex(&b[4..6]), hex(&b[6..8]), hex(&b[8..10]), hex(&b[10..]))
}

/// Drops repeated owner references, of which it gives the uids.
pub fn dedup_owners(value: &mut Value) -> Vec<String> {
    let mut repeated = Vec::new();
    let Some(list) = value.get_mut(&["metadata", "ownerReferences"]).and_then(Value::as_list_mut) else {
        return repeated;
    };
    let mut seen: Vec<Value> = Vec::with_capacity(list.len());
    list.retain(|owner| {
        let fresh = !seen.contains(owner);
        if fresh {
            seen.push(owner.clone());
        } else {
            repeated.push(owner.str_at(&["uid"]).to_owned());
        }
        fresh
    });
    repeated
}

/// Sets a condition of the status; what does not change keeps its time.
pub fn set_condition(object: &mut Value, ty: &str, status: &str, reason: &str, message: &str, now: &str) {
    let conditions = object.make_list(&["status", "conditions"]);
    let mut condition = Value::object([("type", ty.into()), ("status", status.into())]);
    for (name, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition.set(&[name], text);
        }
    }
    let Some(old) = conditions.iter_mut().find(|c| c.str_at(&["type"]) == ty) else {
        condition.set(&["lastTransitionTime"], now);
        return conditions.push(condition);
    };
    let same = old.str_at(&["status"]) == status;
    let since = if same { old["lastTransitionTime"].clone() } else { now.into() };
    condition.set(&["lastTransitionTime"], since);
    if let Some(generation) = old.get(&["observedGeneration"]) {
        condition.set(&["observedGeneration"], generation.clone());
    }
    *old = condition;
}
