//! The three patches: RFC 6902, RFC 7386 and strategic merge.

mod strategic;

use crate::value::unescape;
use crate::{Object, Value};

pub use strategic::{go_print, strategic};

/// Upstream's limit of a JSON patch's length.
pub const MAX_OPERATIONS: usize = 10_000;
/// What `copy` may add to a document, as upstream's server sets it: copies of copies grow fast.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// 422: the patch does not fit the object (`test` failed, path not there).
    #[error("{0}")]
    Unprocessable(String),
    /// 413: more operations than upstream allows.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {got}")]
    TooManyOperations { max: usize, got: usize },
    /// 500: what upstream does not classify, such as a list item without its merge key.
    #[error("{0}")]
    Failed(String),
}

impl PatchError {
    /// A `test` of a JSON patch found another value.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, PatchError::Unprocessable(why) if why.ends_with("failed: test failed"))
    }
}

type Result<T> = std::result::Result<T, PatchError>;

/// RFC 7386.
pub fn merge_patch(original: Value, patch: &Value) -> Result<Value> {
    match patch {
        Value::Null => Err(PatchError::Malformed("Invalid JSON Patch".to_owned())),
        _ => Ok(merge(Some(original), patch)),
    }
}

fn merge(original: Option<Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut object = match original {
        Some(Value::Object(object)) => object,
        _ => Object::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            let merged = merge(object.remove(key), value);
            object.insert(key.clone(), merged);
        }
    }
    Value::Object(object)
}

/// RFC 6902 with the habits of upstream's library: negative indices, and `replace` of a missing member sets it.
pub fn json_patch(original: Value, patch: &Value) -> Result<Value> {
    let Value::List(operations) = patch else {
        let found = patch.kind_name();
        let message = format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Patch");
        return Err(PatchError::Malformed(message));
    };
    if let Some(wrong) = operations.iter().find(|o| !matches!(o, Value::Object(_) | Value::Null)) {
        let found = wrong.kind_name();
        let message = format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Operation");
        return Err(PatchError::Malformed(message));
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { max: MAX_OPERATIONS, got: operations.len() });
    }
    let mut document = original;
    let mut copied_bytes = 0;
    for operation in operations {
        operate(&mut document, operation, &mut copied_bytes).map_err(PatchError::Unprocessable)?;
    }
    Ok(document)
}

type Applied<T> = std::result::Result<T, String>;

fn operate(document: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Applied<()> {
    let kind = operation.member("op").and_then(Value::as_str).unwrap_or("unknown");
    let path = || operation.member("path").and_then(Value::as_str);
    let from = || {
        let from = operation.member("from").and_then(Value::as_str);
        from.ok_or_else(|| {
            format!("{kind} operation failed to decode from: operation, missing from field: missing value")
        })
    };
    let no_path = |cause: &str| format!("{kind} operation failed to decode path: {cause}");
    let missing = "operation missing path field: missing value";
    let value = operation.member("value");
    match kind {
        "add" => {
            let path = path().ok_or_else(|| no_path("missing value"))?;
            let place = find(document, path).ok_or_else(|| {
                format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
            })?;
            add(place, value.cloned().unwrap_or_default()).map_err(|e| format!("error in add for path: '{path}': {e}"))
        }
        "remove" => {
            let path = path().ok_or_else(|| no_path("missing value"))?;
            let place = find(document, path).ok_or_else(|| {
                format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
            })?;
            remove(place).map(drop).map_err(|e| format!("error in remove for path: '{path}': {e}"))
        }
        "replace" => {
            let path = path().ok_or_else(|| no_path(missing))?;
            if path.is_empty() {
                return match value {
                    Some(value @ (Value::Object(_) | Value::List(_))) => {
                        *document = value.clone();
                        Ok(())
                    }
                    _ => Err("replace operation value must be object or array: %!w(<nil>)".to_owned()),
                };
            }
            let place = find(document, path).ok_or_else(|| {
                format!("replace operation does not apply: doc is missing path: {path}: missing value")
            })?;
            replace(place, value.cloned().unwrap_or_default())
                .map_err(|()| format!("replace operation does not apply: doc is missing key: {path}: missing value"))
        }
        "move" => {
            let from = from()?;
            let place = find(document, from).ok_or_else(|| {
                format!("move operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            let key = place.key.to_string();
            let moved = remove(place).map_err(|e| format!("error in move for path: '{key}': {e}"))?;
            let path = path().ok_or_else(|| no_path(missing))?;
            let place = find(document, path).ok_or_else(|| {
                format!("move operation does not apply: doc is missing destination path: {path}: missing value")
            })?;
            add(place, moved).map_err(|e| format!("error in move for path: '{path}': {e}"))
        }
        "copy" => {
            let from = from()?;
            let place = find(document, from).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            let copied = get(&place).map_err(|e| format!("error in copy for from: '{from}': {e}"))?.cloned();
            let path = path().ok_or_else(|| no_path("missing value"))?;
            let place = find(document, path).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
            })?;
            let copied = copied.unwrap_or_default();
            *copied_bytes += copied.to_string().len();
            if *copied_bytes > MAX_COPIED_BYTES {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {MAX_COPIED_BYTES}"
                ));
            }
            add(place, copied).map_err(|e| format!("error while adding value during copy: {e}"))
        }
        "test" => {
            let path = path().ok_or_else(|| no_path(missing))?;
            let failed = || format!("testing value {path} failed: test failed");
            if path.is_empty() {
                return if value == Some(document) { Ok(()) } else { Err(failed()) };
            }
            let place = find(document, path)
                .ok_or_else(|| format!("test operation does not apply: is missing path: {path}: missing value"))?;
            let found = get(&place).map_err(|e| format!("error in test for path: '{path}': {e}"))?;
            let (found, wanted) = (found.unwrap_or(&Value::Null), value.unwrap_or(&Value::Null));
            if found == wanted { Ok(()) } else { Err(failed()) }
        }
        _ => Err(format!("Unexpected kind: {kind}")),
    }
}

/// The last step of a pointer, and the object or list in which it is taken.
struct Place<'d> {
    container: &'d mut Value,
    key: String,
    /// How many steps it took to get here.
    depth: usize,
}

impl Place<'_> {
    /// Operations must not build what no parser would let in: moves and copies nest without a limit of their own.
    fn check_depth(&self, value: &Value) -> Applied<()> {
        let left = crate::json::MAX_DEPTH.checked_sub(self.depth);
        if left.is_none_or(|left| value.is_deeper_than(left)) { Err("exceeded max depth".to_owned()) } else { Ok(()) }
    }
}

fn find<'d>(document: &'d mut Value, path: &str) -> Option<Place<'d>> {
    let (parents, key) = path.rsplit_once('/')?;
    let mut container = document;
    for part in parents.split('/').skip(1) {
        let part = unescape(part);
        container = match container {
            Value::Object(object) => object.get_mut(&part)?,
            Value::List(list) => {
                let at = index(&part, list.len(), list.len()).ok()?;
                list.get_mut(at)?
            }
            _ => return None,
        };
    }
    matches!(container, Value::Object(_) | Value::List(_)).then(|| Place {
        container,
        key: unescape(key).into_owned(),
        depth: path.matches('/').count(),
    })
}

/// An index of a list, from its end if negative; `limit` is the first one out of bounds.
fn index(key: &str, len: usize, limit: usize) -> Applied<usize> {
    let at: i64 = key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let invalid = || format!("Unable to access invalid index: {at}: invalid index referenced");
    let from_start = if at < 0 { at + len as i64 } else { at };
    usize::try_from(from_start).ok().filter(|at| *at < limit).ok_or_else(invalid)
}

fn add(place: Place<'_>, value: Value) -> Applied<()> {
    place.check_depth(&value)?;
    match place.container {
        Value::Object(object) => drop(object.insert(place.key, value)),
        Value::List(list) if place.key == "-" => list.push(value),
        Value::List(list) => {
            if place.key.parse::<i64>().is_err() {
                return Err(format!(
                    "value was not a proper array index: '{0}': strconv.Atoi: parsing {0:?}: invalid syntax",
                    place.key
                ));
            }
            let size = list.len() + 1;
            list.insert(index(&place.key, size, size)?, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(place: Place<'_>) -> Applied<Value> {
    match place.container {
        Value::Object(object) => object
            .remove(&place.key)
            .ok_or_else(|| format!("Unable to remove nonexistent key: {}: missing value", place.key)),
        Value::List(list) => {
            let at = index(&place.key, list.len(), list.len())?;
            Ok(list.remove(at))
        }
        _ => Ok(Value::Null),
    }
}

fn replace(place: Place<'_>, value: Value) -> std::result::Result<(), ()> {
    place.check_depth(&value).map_err(drop)?;
    match place.container {
        Value::Object(object) => drop(object.insert(place.key, value)),
        Value::List(list) => {
            let at = index(&place.key, list.len(), list.len()).map_err(|_| ())?;
            list[at] = value;
        }
        _ => {}
    }
    Ok(())
}

fn get<'p>(place: &'p Place<'_>) -> Applied<Option<&'p Value>> {
    match &*place.container {
        Value::Object(object) => Ok(object.get(&place.key)),
        Value::List(list) => Ok(list.get(index(&place.key, list.len(), list.len())?)),
        _ => Ok(None),
    }
}
