//! How many seats a request needs: as upstream estimates lists, by the bytes they are made of.

use crate::request::Query;
use crate::{Attributes, Server};

const BYTES_PER_SEAT: u64 = 100_000;
/// Lists are sent piece by piece: no more of one is ever in the making.
const BYTES_MAX: u64 = 1_000_000;

/// At most `seats_max`, at least one.
pub fn seats(server: &Server, info: &Attributes, query: &Query, seats_max: u64) -> u64 {
    if !info.is_resource || !info.name.is_empty() || !lists(info, query) {
        return 1;
    }
    let registry = server.registry();
    let storage = registry.get(&info.api_group, &info.api_version, &info.resource).and_then(|k| k.storage.clone());
    // What another server serves costs this one little.
    let Some((objects, bytes)) = storage.map(|storage| storage.size()) else { return 1 };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    of_list(objects, bytes, limit).clamp(1, seats_max.max(1))
}

/// A watch that does not begin with a list is cheap.
fn lists(info: &Attributes, query: &Query) -> bool {
    match info.verb.as_str() {
        "list" => true,
        "watch" => query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), None | Some("" | "0")),
        _ => false,
    }
}

pub fn of_list(objects: u64, bytes: u64, limit: Option<u64>) -> u64 {
    let sent = match limit {
        Some(limit) if limit < objects => bytes / objects * limit,
        _ => bytes,
    };
    sent.min(BYTES_MAX).div_ceil(BYTES_PER_SEAT)
}
