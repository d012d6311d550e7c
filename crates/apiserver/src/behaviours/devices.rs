//! Devices: claims for them, classes and slices of them.

use schema::Value;
use schema::validate::{FieldError, NameRule};

use super::{Cx, PLAIN, Strategy, bump_generation, wipe_for_create};
use crate::cel::{Env, Program, Type};

pub static CLAIM: Strategy = Strategy {
    validate: |cx, new, old| {
        let mut errors = expressions(cx, new, old);
        errors.extend(admin_access(cx, new, old));
        errors
    },
    returns_deleted: true,
    ..PLAIN
};
pub static CLASS: Strategy =
    Strategy { validate: expressions, returns_deleted: true, generation: true, name_rule: NameRule::LongName, ..PLAIN };
pub static SLICE: Strategy = Strategy { returns_deleted: true, ..TAINTED };
pub static TAINT_RULE: Strategy = Strategy { unconditional_update: false, ..TAINTED };
/// A taint that comes without a time has this one.
const TAINTED: Strategy = Strategy {
    generation: true,
    wipe_for_create: |cx, object| {
        stamp(cx, object);
        wipe_for_create(cx, object);
    },
    prepare_update: |cx, new, old| {
        stamp(cx, new);
        bump_generation(new, old);
        Ok(())
    },
    ..PLAIN
};

fn stamp(cx: &Cx<'_>, object: &mut Value) {
    let mut add = |taint: &mut Value| {
        if taint["timeAdded"].is_null() {
            taint.set(&["timeAdded"], cx.server.now_text());
        }
    };
    object.get_mut(&["spec", "taint"]).into_iter().for_each(&mut add);
    for device in object.get_mut(&["spec", "devices"]).and_then(Value::as_list_mut).into_iter().flatten() {
        device.get_mut(&["taints"]).and_then(Value::as_list_mut).into_iter().flatten().for_each(&mut add);
    }
}

/// Selectors are expressions that compile. What is stored was looked at when it came.
fn expressions(_: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_none_or(|old| old["spec"] != new["spec"]) {
        selectors(&new["spec"], "spec", &mut errors);
    }
    errors
}

fn selectors(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::List(list) => {
            list.iter().enumerate().for_each(|(i, item)| selectors(item, &format!("{path}[{i}]"), errors));
        }
        Value::Object(object) => {
            if let Some(expression) = object.get("cel").filter(|cel| !cel.is_null()) {
                let text = expression.str_at(&["expression"]);
                if let Err(why) = Program::compile_to(text, &Env::new([("device", Type::Dyn)]), &[]) {
                    errors.push(FieldError::invalid(format!("{path}.cel.expression"), text, why));
                }
            }
            // What a driver is told is its own.
            for (name, inner) in object.iter().filter(|(name, _)| *name != "opaque") {
                selectors(inner, &format!("{path}.{name}"), errors);
            }
        }
        _ => {}
    }
}

/// What serves others already is for administrators only, who have namespaces of their own.
fn admin_access(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LABEL: &str = "resource.kubernetes.io/admin-access";
    let (spec, path) = match &new["spec"]["spec"] {
        Value::Null => (&new["spec"], "spec"),
        inner => (inner, "spec.spec"),
    };
    let asks = |(_, request): &(usize, &Value)| request.bool_at(&["exactly", "adminAccess"]);
    let Some((at, _)) = spec.list_at(&["devices", "requests"]).iter().enumerate().find(asks) else { return Vec::new() };
    let namespace = cx.server.read("", "namespaces", "", new.str_at(&["metadata", "namespace"]));
    if old.is_some() || namespace.is_some_and(|of| of.str_at(&["metadata", "labels", LABEL]) == "true") {
        return Vec::new();
    }
    let detail = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    vec![FieldError::forbidden(format!("{path}.devices.requests[{at}].adminAccess"), detail)]
}
