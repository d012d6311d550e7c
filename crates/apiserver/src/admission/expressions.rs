//! CEL in admission: the variables of webhooks' and policies' expressions, and match conditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use schema::Value;
use schema::validate::{FieldError, names};

use super::AdmissionRequest;
use super::matching::{Form, GROUP};
use crate::cel::authz::{Authorize, Check, Stage};
use crate::cel::{Cx, Env, Fault, Library, MATCH_BUDGET, Program, Type, Val};
use crate::kind::split_api_version;
use crate::seams::Decision;
use crate::{Attributes, Server, User};

/// The most that upstream takes.
const CONDITIONS_MAX: usize = 64;

// ---- the variables

fn request_type() -> Type {
    let string = || Type::String;
    let kind = |name, last| Type::object(name, [("group", string()), ("version", string()), (last, string())]);
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind("kubernetes.GroupVersionKind", "kind")),
            ("resource", kind("kubernetes.GroupVersionResource", "resource")),
            ("subResource", string()),
            ("requestKind", kind("kubernetes.GroupVersionKind", "kind")),
            ("requestResource", kind("kubernetes.GroupVersionResource", "resource")),
            ("requestSubResource", string()),
            ("name", string()),
            ("namespace", string()),
            ("operation", string()),
            ("userInfo", Type::user_info()),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

fn namespace_type() -> Type {
    let string = || Type::String;
    let labels = || Type::map(Type::String, Type::String);
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", string()),
            ("generateName", string()),
            ("namespace", string()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", string()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", string()),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", string()),
            ("type", string()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", string()),
            ("reason", string()),
        ],
    );
    let spec = Type::object("kubernetes.NamespaceSpec", [("finalizers", Type::list(Type::String))]);
    let status =
        Type::object("kubernetes.NamespaceStatus", [("conditions", Type::list(condition)), ("phase", string())]);
    Type::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}

/// What admission's expressions may name.
pub fn env(has_params: bool, has_authorizer: bool) -> Env {
    let mut env = Env::new([
        ("object", Type::Dyn),
        ("oldObject", Type::Dyn),
        ("namespaceObject", namespace_type()),
        ("request", request_type()),
    ]);
    if has_params {
        env = env.with("params", Type::Dyn);
    }
    if has_authorizer {
        env = env.with("authorizer", Type::Named("kubernetes.authorization.Authorizer"));
        env = env.with("authorizer.requestResource", Type::Named("kubernetes.authorization.ResourceCheck"));
    }
    env
}

/// Who asked, in the form of an AdmissionReview.
pub fn user_info(user: &User) -> Value {
    let list = |v: &[String]| Value::list(v.iter().map(String::as_str));
    let mut out = Value::object([("username", user.name.as_str().into()), ("groups", list(&user.groups))]);
    if !user.uid.is_empty() {
        out.set(&["uid"], user.uid.as_str());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter().map(|(k, v)| (k.clone(), list(v)));
        out.set(&["extra"], Value::Object(extra.collect()));
    }
    out
}

/// The request as webhooks and expressions see it, without objects: its resource in one form, its kind in another.
pub fn request_value(request: &AdmissionRequest, resource: &Form, kind: &Form) -> Value {
    let named = |(group, version): (&str, &str), last: &'static str, name: &str| {
        Value::object([("group", group.into()), ("version", version.into()), (last, name.into())])
    };
    let resource_of = |form: &Form| {
        let (group, version, plural) = form.resource(request);
        named((group, version), "resource", plural)
    };
    let kind_of = |form: &Form| {
        let (api_version, kind) = form.kind(request);
        named(split_api_version(api_version), "kind", kind)
    };
    let mut out = Value::object([
        ("kind", kind_of(kind)),
        ("resource", resource_of(resource)),
        ("requestKind", kind_of(&Form::Own)),
        ("requestResource", resource_of(&Form::Own)),
        ("operation", request.operation.as_str().into()),
        ("userInfo", user_info(&request.user)),
        ("dryRun", request.dry_run.into()),
        ("options", request.options.clone()),
    ]);
    for (name, text) in [
        ("name", &request.name),
        ("namespace", &request.namespace),
        ("subResource", &request.subresource),
        ("requestSubResource", &request.subresource),
    ] {
        if !text.is_empty() {
            out.set(&[name], text.as_str());
        }
    }
    out
}

/// What expressions are evaluated on, for one request in one form.
pub struct Inputs<'a> {
    server: &'a Server,
    user: &'a User,
    request: Value,
    /// As match conditions see it: with the resource that was asked for.
    condition_request: Value,
    namespace: Value,
    resource: Check,
}

impl<'a> Inputs<'a> {
    pub fn new(server: &'a Server, request: &'a AdmissionRequest, form: &Form) -> Inputs<'a> {
        let has_namespace = !request.namespace.is_empty() && !request.is("", "namespaces");
        let namespace = has_namespace.then(|| server.read("", "namespaces", "", &request.namespace)).flatten();
        let resource = Check {
            stage: Stage::Resource,
            group: request.group.clone(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            ..Check::default()
        };
        Inputs {
            server,
            user: &request.user,
            request: request_value(request, form, form),
            condition_request: request_value(request, &Form::Own, form),
            namespace: namespace.unwrap_or_default(),
            resource,
        }
    }

    /// The variables with their values.
    pub fn cx<'v>(&'v self, object: &'v Value, old: Option<&'v Value>, params: &'v Value, budget: u64) -> Cx<'v> {
        let mut cx = Cx::new(budget);
        cx.set("object", object.into());
        cx.set("oldObject", old.map_or(Val::Null, Val::from));
        cx.set("params", params.into());
        cx.set("request", (&self.request).into());
        cx.set("namespaceObject", (&self.namespace).into());
        cx.set("authorizer", Val::library(Library::Check(Check::default())));
        cx.set("authorizer.requestResource", Val::library(Library::Check(self.resource.clone())));
        cx.authorizer = Some(self);
        cx
    }
}

impl Authorize for Inputs<'_> {
    fn decide(&self, check: &Check, verb: &str) -> (bool, String) {
        let account = check.service_account.as_ref().map(|(namespace, name)| {
            let groups = format!("system:serviceaccounts:{namespace}");
            let name = format!("system:serviceaccount:{namespace}:{name}");
            User::new(name, &["system:serviceaccounts", &groups, "system:authenticated"])
        });
        let attributes = Attributes {
            verb: verb.to_owned(),
            api_group: check.group.clone(),
            api_version: "*".to_owned(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            path: check.path.clone(),
            is_resource: check.stage == Stage::Resource,
            ..Attributes::default()
        };
        let authorize = &self.server.config().authorize;
        match authorize.authorize(self.server, account.as_ref().unwrap_or(self.user), &attributes).now() {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) | Decision::Failed { reason, .. } => (false, reason),
        }
    }
}

/// Evaluates one expression; the error names it. With [`Cx::budget`] at nothing, no other may be evaluated.
pub fn evaluate<'v>(
    cx: &mut Cx<'v>,
    expression: &str,
    program: &'v Result<Program, String>,
) -> Result<Val<'v>, String> {
    match program {
        Err(why) => Err(format!("compilation error: {why}")),
        Ok(program) => cx.run(program).map_err(|fault| match fault {
            Fault::OutOfBudget if cx.budget() == 0 => {
                "validation failed due to running out of cost budget, no further validation rules will be run".into()
            }
            fault => format!("expression '{expression}' resulted in error: {fault}"),
        }),
    }
}

// ---- match conditions

/// `matchConditions` of a webhook or a policy, compiled when they are first needed.
#[derive(Debug, Default)]
pub struct MatchConditions {
    list: Vec<Value>,
    has_params: bool,
    compiled: OnceLock<Vec<(String, Result<Program, String>)>>,
}

impl MatchConditions {
    pub fn new(list: &[Value], has_params: bool) -> MatchConditions {
        MatchConditions { list: list.to_vec(), has_params, compiled: OnceLock::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn compiled(&self) -> &[(String, Result<Program, String>)] {
        self.compiled.get_or_init(|| {
            if self.list.is_empty() {
                return Vec::new();
            }
            let env = env(self.has_params, true);
            let compile = |condition: &Value| {
                let expression = condition.str_at(&["expression"]).trim();
                (expression.to_owned(), Program::compile_to(expression, &env, &[Type::Bool]))
            };
            self.list.iter().map(compile).collect()
        })
    }

    /// Whether all hold. One that does not hold outweighs the errors of others; then errors are ignored if `ignore`,
    /// which means no match.
    ///
    /// # Errors
    /// What went wrong, in upstream's words.
    pub fn hold<'v>(
        &'v self,
        inputs: &'v Inputs<'_>,
        object: &'v Value,
        old: Option<&'v Value>,
        params: &'v Value,
        ignore: bool,
    ) -> Result<bool, String> {
        let mut cx = inputs.cx(object, old, params, MATCH_BUDGET);
        cx.set("request", (&inputs.condition_request).into());
        let mut errors = Vec::new();
        for (expression, program) in self.compiled() {
            match evaluate(&mut cx, expression, program) {
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(why) => {
                    errors.push(why);
                    if cx.budget() == 0 {
                        break;
                    }
                }
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            _ if ignore => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// What is wrong with `matchConditions`.
pub fn check_conditions(list: &[Value], has_params: bool, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if list.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, list.len(), CONDITIONS_MAX));
    }
    let compiled = MatchConditions::new(list, has_params);
    let mut seen: Vec<&str> = Vec::new();
    for (at, (condition, (expression, program))) in list.iter().zip(compiled.compiled()).enumerate() {
        let place = |field: &str| format!("{path}[{at}].{field}");
        match program {
            _ if expression.is_empty() => errors.push(FieldError::required(place("expression"), "")),
            Err(why) => errors.push(FieldError::invalid(place("expression"), expression.as_str(), why.clone())),
            Ok(_) => {}
        }
        let name = condition.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(place("name"), ""));
            continue;
        }
        let problems = names::label_key(name).into_iter();
        errors.extend(problems.map(|why| FieldError::invalid(place("name"), name, why)));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(place("name"), name));
        }
        seen.push(name);
    }
    errors
}

// ---- what is made once

/// Objects of one resource of the group in the form in which they are used, made anew only when they change. Making one
/// must be quick, as others wait: expressions are compiled when they are first needed.
pub struct Compiled<T> {
    plural: &'static str,
    make: fn(&Value) -> T,
    held: Mutex<(u64, BTreeMap<String, (String, Arc<T>)>)>,
}

impl<T> Compiled<T> {
    pub fn new(plural: &'static str, make: fn(&Value) -> T) -> Self {
        Compiled { plural, make, held: Mutex::new((u64::MAX, BTreeMap::new())) }
    }

    /// All of them by name, in order.
    pub fn all(&self, server: &Server) -> Vec<Arc<T>> {
        let Some(storage) = server.storage(GROUP, self.plural) else { return Vec::new() };
        let revision = storage.revision();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 != revision {
            let mut before = std::mem::take(&mut held.1);
            for object in server.read_all(GROUP, self.plural, "") {
                let name = object.str_at(&["metadata", "name"]);
                let version = object.str_at(&["metadata", "resourceVersion"]);
                let made = match before.remove(name) {
                    Some((known, made)) if known == version => made,
                    _ => Arc::new((self.make)(&object)),
                };
                held.1.insert(name.to_owned(), (version.to_owned(), made));
            }
            held.0 = revision;
        }
        held.1.values().map(|(_, made)| made.clone()).collect()
    }
}
