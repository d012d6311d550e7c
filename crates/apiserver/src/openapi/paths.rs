//! Operations of each resource, with the parameters that clients look for.

use schema::{Object, Value};

use super::schemas::{custom_name, is_streaming, name_of, name_of_type};
use super::{Dialect, path_of};
use crate::kind::Kind;
use crate::negotiate::{JSON, PROTOBUF, YAML};

const LISTING: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITING: [(&str, &str); 3] = [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETING: [(&str, &str); 5] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const PATCHES: [&str; 4] = [
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn parameter(dialect: Dialect, place: &str, name: &str, ty: &str) -> Value {
    let mut out = Value::object([("name", name.into()), ("in", place.into()), ("uniqueItems", true.into())]);
    if place == "path" {
        out.set(&["required"], true);
    }
    match dialect {
        Dialect::V2 => out.set(&["type"], ty),
        Dialect::V3 => {
            out.remove(&["uniqueItems"]);
            out.set(&["schema", "type"], ty);
            out.set(&["schema", "uniqueItems"], true);
        }
    }
    out
}

/// One verb of a path.
struct Operation<'a> {
    verb: &'a str,
    /// How its id begins, the HTTP method, and `x-kubernetes-action`.
    names: [&'a str; 3],
    parameters: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    result: &'a str,
    codes: &'a [&'a str],
}

const OK: &[&str] = &["200"];
const WRITTEN: &[&str] = &["200", "201"];
const CREATED: &[&str] = &["200", "201", "202"];
const DELETED: &[&str] = &["200", "202"];

fn row<'a>(
    verb: &'a str,
    names: [&'a str; 3],
    parameters: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    result: &'a str,
    codes: &'a [&'a str],
) -> Operation<'a> {
    Operation { verb, names, parameters, body, result, codes }
}

fn create(ty: &str) -> Operation<'_> {
    row("create", ["create", "post", "post"], &WRITING, Some(ty), ty, CREATED)
}

fn pascal(text: &str) -> String {
    text.split(['.', '-', '/'])
        .map(|p| {
            let mut chars = p.chars();
            chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
        })
        .collect()
}

fn render(dialect: Dialect, kind: &Kind, operation: &Operation<'_>, id: &str, gvk: &Value) -> Value {
    let [prefix, method, action] = operation.names;
    let r = &kind.resource;
    let group = if r.group.is_empty() { "core".into() } else { r.group.split('.').next().unwrap_or("").to_owned() };
    let tag = format!("{group}_{}", r.version);
    let types: &[&str] = if kind.custom.is_some() { &[JSON, YAML] } else { &[JSON, YAML, PROTOBUF] };
    let schema = |name: &str| Value::object([("$ref", dialect.reference(name).into())]);
    let mut parameters: Vec<Value> =
        operation.parameters.iter().map(|(n, t)| parameter(dialect, "query", n, t)).collect();
    let mut out = Value::object([
        ("operationId", format!("{prefix}{}{id}", pascal(&tag.replace('_', "."))).into()),
        ("tags", Value::list([tag.as_str()])),
        ("x-kubernetes-action", action.into()),
        ("x-kubernetes-group-version-kind", gvk.clone()),
    ]);
    let consumes: Vec<&str> = if method == "patch" {
        PATCHES.iter().copied().filter(|p| kind.custom.is_none() || !p.contains("strategic")).collect()
    } else {
        vec!["*/*"]
    };
    let content = |types: &[&str], name: &str| {
        let rows = types.iter().map(|t| ((*t).to_owned(), Value::object([("schema", schema(name))])));
        Value::Object(rows.collect())
    };
    if let Some(body) = operation.body {
        match dialect {
            Dialect::V2 => {
                parameters.insert(
                    0,
                    Value::object([
                        ("name", "body".into()),
                        ("in", "body".into()),
                        ("required", true.into()),
                        ("schema", schema(body)),
                    ]),
                );
                out.set(&["consumes"], Value::list(consumes));
            }
            Dialect::V3 => out.set(&["requestBody", "content"], content(&consumes, body)),
        }
    }
    if dialect == Dialect::V2 {
        out.set(&["produces"], Value::list(types.iter().copied()));
    }
    for code in operation.codes {
        let description = match *code {
            "200" => "OK",
            "201" => "Created",
            _ => "Accepted",
        };
        let mut answer = Value::object([("description", description.into())]);
        match dialect {
            Dialect::V2 => answer.set(&["schema"], schema(operation.result)),
            Dialect::V3 => answer.set(&["content"], content(types, operation.result)),
        }
        out.set(&["responses", code], answer);
    }
    out.set(&["responses", "401", "description"], "Unauthorized");
    if !parameters.is_empty() {
        out.set(&["parameters"], Value::List(parameters));
    }
    out
}

/// Adds the paths of a kind and of its subresources.
pub fn add(dialect: Dialect, kind: &Kind, out: &mut Object) {
    let r = &kind.resource;
    let base = format!("/{}", path_of(&r.group, &r.version));
    let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
    let own = name_of(kind);
    let list = match &kind.custom {
        Some(_) => custom_name(&r.group, &r.version, &kind.list_kind()),
        None => name_of_type(&kind.api_version, &kind.list_kind()).unwrap_or_else(|| own.clone()),
    };
    let status = name_of_type("v1", "Status").unwrap_or_default();
    let delete_options = name_of_type("v1", "DeleteOptions");
    let gvk =
        Value::object([("group", (&*r.group).into()), ("kind", (&*r.kind).into()), ("version", (&*r.version).into())]);
    let has = |verb: &str| kind.allows(verb);
    let namespaced = if r.namespaced { "Namespaced" } else { "" };
    let mut force = WRITING.to_vec();
    force.push(("force", "boolean"));
    let deleting_many: Vec<(&str, &str)> = DELETING
        .iter()
        .chain(&LISTING)
        .copied()
        .filter(|(n, _)| *n != "watch" && *n != "allowWatchBookmarks")
        .collect();
    let path_parameters = |with_name: bool| {
        let mut list = Vec::new();
        if with_name {
            list.push(parameter(dialect, "path", "name", "string"));
        }
        if r.namespaced {
            list.push(parameter(dialect, "path", "namespace", "string"));
        }
        list
    };
    let mut put = |path: String, parameters: Vec<Value>, id: &str, operations: &[Operation<'_>]| {
        let rendered = operations.iter().map(|o| (o.names[1].to_owned(), render(dialect, kind, o, id, &gvk)));
        let mut item: Object = rendered.collect();
        if item.is_empty() {
            return;
        }
        if !parameters.is_empty() {
            item.insert("parameters", Value::List(parameters));
        }
        out.insert(path, Value::Object(item));
    };
    let id = format!("{namespaced}{}", r.kind);
    let listed = || row("list", ["list", "get", "list"], &LISTING, None, &list, OK);
    let delete_many = ["deleteCollection", "delete", "deletecollection"];
    let mut operations = vec![
        listed(),
        create(&own),
        row("deletecollection", delete_many, &deleting_many, delete_options.as_deref(), &status, OK),
    ];
    operations.retain(|o| has(o.verb));
    put(format!("{base}{scope}/{}", r.plural), path_parameters(false), &id, &operations);
    if r.namespaced && has("list") {
        put(format!("{base}/{}", r.plural), Vec::new(), &format!("{}ForAllNamespaces", r.kind), &[listed()]);
    }
    let mut single = |path: String, verbs: &dyn Fn(&str) -> bool, ty: &str, suffix: &str| {
        let mut operations = vec![
            row("get", ["read", "get", "get"], &[], None, ty, OK),
            row("update", ["replace", "put", "put"], &WRITING, Some(ty), ty, WRITTEN),
            row("patch", ["patch"; 3], &force, Some(PATCH), ty, WRITTEN),
            create(ty),
            row("delete", ["delete"; 3], &DELETING, delete_options.as_deref(), &status, DELETED),
        ];
        operations.retain(|o| verbs(o.verb));
        put(path, path_parameters(true), &format!("{id}{suffix}"), &operations);
    };
    let path = format!("{base}{scope}/{}/{{name}}", r.plural);
    single(path.clone(), &|verb| verb != "create" && has(verb), &own, "");
    for sub in &r.subresources {
        if is_streaming(&sub.name) {
            continue;
        }
        let ty = if *sub.api_version == *kind.api_version && sub.kind == r.kind {
            own.clone()
        } else {
            name_of_type(&sub.api_version, &sub.kind).unwrap_or_else(|| own.clone())
        };
        single(format!("{path}/{}", sub.name), &|verb| sub.verbs.iter().any(|v| **v == *verb), &ty, &pascal(&sub.name));
    }
}
