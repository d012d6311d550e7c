//! What is wrong with a policy or a binding: expressions that do not compile, and what no table can say.

use schema::Value;
use schema::validate::{FieldError, names};

use super::{Expressions, mutating};
use crate::admission::expressions::check_conditions;
use crate::cel::{Env, Program, Type};

const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

/// Errors of an object of `admissionregistration.k8s.io`, with their field paths.
pub fn check(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match kind {
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => policy(kind, object, &mut errors),
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => binding(kind, object, &mut errors),
        _ => {}
    }
    errors
}

const UNSPECIFIED: &str = "expression is not specified";

/// `missing` is said where there is no expression.
fn compiles(text: &str, missing: &str, env: &Env, wanted: &[Type], path: String, errors: &mut Vec<FieldError>) {
    if text.trim().is_empty() {
        return errors.push(FieldError::required(path, missing));
    }
    if let Err(why) = Program::compile_to(text, env, wanted) {
        errors.push(FieldError::invalid(path, text, why));
    }
}

fn policy(kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let has_params = !spec["paramKind"].is_null();
    param_version(spec.str_at(&["paramKind", "apiVersion"]), "spec.paramKind.apiVersion", errors);
    let constraints = &spec["matchConstraints"];
    if !constraints.is_null() && constraints.list_at(&["resourceRules"]).is_empty() {
        errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
    }
    errors.extend(check_conditions(spec.list_at(&["matchConditions"]), has_params, "spec.matchConditions"));
    let expressions = Expressions::new(spec, Type::Dyn, Type::Dyn);
    for (at, (variable, value)) in expressions.variables.iter().zip(spec.list_at(&["variables"])).enumerate() {
        let place = |field: &str| format!("spec.variables[{at}].{field}");
        let text = value.str_at(&["expression"]);
        if variable.name.trim().is_empty() {
            errors.push(FieldError::required(place("name"), "name is not specified"));
        } else if !crate::cel::types::is_identifier(&variable.name) {
            let detail = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(place("name"), variable.name.as_str(), detail));
        }
        match &variable.program {
            _ if text.trim().is_empty() => {
                errors.push(FieldError::required(place("expression"), UNSPECIFIED));
            }
            Err(why) => errors.push(FieldError::invalid(place("expression"), text, why.clone())),
            Ok(_) => {}
        }
    }
    if kind == "ValidatingAdmissionPolicy" {
        return validations(object, &expressions, errors);
    }
    operations(constraints, "spec.matchConstraints", errors);
    mutations(spec, &expressions, errors);
    let path = "spec.reinvocationPolicy";
    match spec.str_at(&["reinvocationPolicy"]) {
        "" | "IfNeeded" | "Never" => {}
        other => errors.push(FieldError::not_supported(path, other, &["IfNeeded", "Never"])),
    }
}

/// A deletion has no object to change.
fn operations(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const SUPPORTED: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
    let rules = resources.list_at(&["resourceRules"]).iter();
    for operation in rules.flat_map(|rule| rule.list_at(&["operations"])).filter_map(Value::as_str) {
        if !SUPPORTED.contains(&operation) {
            let path = format!("{path}.resourceRules.operations");
            errors.push(FieldError::not_supported(path, operation, &SUPPORTED));
        }
    }
}

fn mutations(spec: &Value, expressions: &Expressions, errors: &mut Vec<FieldError>) {
    for (at, mutation) in spec.list_at(&["mutations"]).iter().enumerate() {
        let place = |field: &str| format!("spec.mutations[{at}].{field}");
        let (own, other) = match mutation.str_at(&["patchType"]) {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "" => {
                errors.push(FieldError::required(place("patchType"), ""));
                continue;
            }
            unknown => {
                let supported = ["ApplyConfiguration", "JSONPatch"];
                errors.push(FieldError::not_supported(place("patchType"), unknown, &supported));
                continue;
            }
        };
        let patch_type = mutation.str_at(&["patchType"]);
        if mutation[own].is_null() {
            let why = format!("must be specified when patchType is {patch_type}");
            errors.push(FieldError::required(place(own), why));
        } else {
            let text = mutation.str_at(&[own, "expression"]).trim();
            let env = expressions.env.clone().with_patches();
            let path = place(&format!("{own}.expression"));
            compiles(text, "", &env, &[mutating::result_of(patch_type)], path, errors);
        }
        if !mutation[other].is_null() {
            let why = format!("must not be specified when patchType is {patch_type}");
            errors.push(FieldError::invalid(place(other), format!("{{{other}}}"), why));
        }
    }
}

fn validations(object: &Value, expressions: &Expressions, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    for (at, validation) in spec.list_at(&["validations"]).iter().enumerate() {
        let place = |field: &str| format!("spec.validations[{at}].{field}");
        let text = |field: &str| validation.str_at(&[field]);
        compiles(text("expression"), UNSPECIFIED, &expressions.env, &[Type::Bool], place("expression"), errors);
        let message_expression = text("messageExpression");
        if !message_expression.is_empty() {
            let path = place("messageExpression");
            if message_expression.trim().is_empty() {
                errors.push(FieldError::invalid(path, message_expression, "must be non-empty if specified"));
            } else {
                compiles(message_expression, "", &expressions.message_env, &[Type::String], path, errors);
            }
        }
        let message = text("message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(place("message"), message, "must be non-empty if specified"));
        } else if message.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(place("message"), message, "must not contain line breaks"));
        }
        const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
        let reason = validation.member("reason").and_then(Value::as_str);
        if let Some(reason) = reason.filter(|reason| !REASONS.contains(reason)) {
            errors.push(FieldError::not_supported(place("reason"), reason, &REASONS));
        }
    }
    let annotations = spec.list_at(&["auditAnnotations"]);
    if annotations.len() > ANNOTATIONS_MAX {
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid("spec.auditAnnotations", spec["auditAnnotations"].clone(), detail));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (at, annotation) in annotations.iter().enumerate() {
        let place = |field: &str| format!("spec.auditAnnotations[{at}].{field}");
        let (key, text) = (annotation.str_at(&["key"]), annotation.str_at(&["valueExpression"]).trim());
        let name = object.str_at(&["metadata", "name"]);
        if name.is_empty() {
            errors.push(FieldError::invalid(place("key"), key, "requires metadata.name be non-empty"));
        } else {
            let problems = names::label_key(&format!("{name}/{key}")).into_iter();
            errors.extend(problems.map(|why| FieldError::invalid(place("key"), format!("{name}/{key}"), why)));
        }
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(place("key"), key));
        }
        seen.push(key);
        if text.is_empty() {
            errors.push(FieldError::required(place("valueExpression"), "valueExpression is not specified"));
        } else if text.len() > ANNOTATION_EXPRESSION_BYTES_MAX {
            let detail = format!("must not exceed {ANNOTATION_EXPRESSION_BYTES_MAX} bytes in length");
            errors.push(FieldError::required(place("valueExpression"), detail));
        } else {
            let wanted = [Type::String, Type::Null];
            compiles(text, "", &expressions.env, &wanted, place("valueExpression"), errors);
        }
    }
}

/// A group, which may be empty, and a version.
fn param_version(api_version: &str, path: &str, errors: &mut Vec<FieldError>) {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let wrong = match (api_version.matches('/').count(), version) {
        (0, "") => return,
        (2.., _) => vec![(api_version, format!("unexpected GroupVersion string: {api_version}"))],
        (_, "") => vec![(api_version, "version must be specified".to_owned())],
        _ => vec![(version, names::dns1035_label(version).join(","))],
    };
    let of_group = (group, if group.is_empty() { String::new() } else { names::dns1123_subdomain(group).join(",") });
    for (shown, why) in wrong.into_iter().chain([of_group]).filter(|(_, why)| !why.is_empty()) {
        errors.push(FieldError::invalid(path, shown, why));
    }
}

fn binding(kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let reference = &spec["paramRef"];
    if !reference.is_null() {
        let (has_name, has_selector) = (!reference.str_at(&["name"]).is_empty(), !reference["selector"].is_null());
        let detail = "name and selector are mutually exclusive";
        match (has_name, has_selector) {
            (true, true) => {
                errors
                    .extend(["name", "selector"].map(|f| FieldError::forbidden(format!("spec.paramRef.{f}"), detail)));
            }
            (false, false) => {
                errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified"));
            }
            _ => {}
        }
        let path = "spec.paramRef.parameterNotFoundAction";
        match reference.str_at(&["parameterNotFoundAction"]) {
            "Allow" | "Deny" => {}
            "" => errors.push(FieldError::required(path, "")),
            other => errors.push(FieldError::not_supported(path, other, &["Deny", "Allow"])),
        }
    }
    match kind {
        "ValidatingAdmissionPolicyBinding" => actions(&spec["validationActions"], errors),
        _ => operations(&spec["matchResources"], "spec.matchResources", errors),
    }
}

fn actions(value: &Value, errors: &mut Vec<FieldError>) {
    let has = |action: &str| value.as_list().into_iter().flatten().any(|given| given.as_str() == Some(action));
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid("spec.validationActions", value.clone(), detail));
    }
}
