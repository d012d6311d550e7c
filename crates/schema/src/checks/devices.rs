//! Devices: what claims ask for, and what slices offer.

use super::Check;
use crate::Value;
use crate::validate::{ErrorKind, names};

pub fn device_request(c: &mut Check<'_>) {
    let several = !c.value["firstAvailable"].is_empty();
    match (c.has("exactly"), several) {
        (false, false) => c.required("", "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => {
            let shown = c.value.clone();
            c.invalid(
                "",
                shown,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            );
        }
        _ => {}
    }
    twins(c, "firstAvailable");
}

/// Requests have names of their own, and all that names one of them finds it.
pub fn device_claim(c: &mut Check<'_>) {
    twins(c, "requests");
    let value = c.value;
    let mut known: Vec<String> = Vec::new();
    for request in value.list_at(&["requests"]) {
        let name = request.str_at(&["name"]);
        known.push(name.to_owned());
        known
            .extend(request.list_at(&["firstAvailable"]).iter().map(|sub| format!("{name}/{}", sub.str_at(&["name"]))));
    }
    for list in ["constraints", "config"] {
        for (i, item) in value.list_at(&[list]).iter().enumerate() {
            if list == "constraints" && item["matchAttribute"].is_null() && item["distinctAttribute"].is_null() {
                let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                c.required(&format!("constraints[{i}]"), detail);
            }
            for (j, name) in item.list_at(&["requests"]).iter().filter_map(Value::as_str).enumerate() {
                for part in name.splitn(2, '/') {
                    c.problems(&format!("{list}[{i}].requests[{j}]"), part, names::dns1123_label(part));
                }
                if !known.iter().any(|known| known == name) {
                    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                    c.invalid(&format!("{list}[{i}].requests[{j}]"), name, detail);
                }
            }
        }
    }
}

/// Two of one name in a list: the whole second is the duplicate.
fn twins(c: &mut Check<'_>, list: &str) {
    let value = c.value;
    let items = value.list_at(&[list]);
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|other| other["name"] == item["name"]) {
            c.push(ErrorKind::Duplicate, &format!("{list}[{i}]"), item.clone(), "");
        }
    }
}

pub fn device_attribute(c: &mut Check<'_>) {
    let set = c.value.as_object().into_iter().flat_map(|object| object.values()).filter(|v| !v.is_null()).count();
    if set == 0 {
        let detail = "must specify one of: `int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
        c.invalid("", "", detail);
    }
}

const PLACES: [&str; 4] = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];

pub fn resource_slice(c: &mut Check<'_>) {
    let places = PLACES.map(|name| format!("`{name}`")).join(", ");
    let value = c.value;
    let devices = value.list_at(&["devices"]);
    for (i, device) in devices.iter().enumerate() {
        if devices[..i].iter().any(|other| other["name"] == device["name"]) {
            c.push(ErrorKind::Duplicate, &format!("devices[{i}]"), device.str_at(&["name"]), "");
        }
    }
    if c.value.member("nodeName").and_then(Value::as_str) == Some("") {
        c.invalid("nodeName", "", "must be either unset or set to a non-empty string");
    }
    let set = PLACES.iter().filter(|name| c.value.member(name).is_some_and(|v| !v.is_empty())).count();
    if set == 0 {
        c.required("", &format!("exactly one of {places} is required"));
    }
}
