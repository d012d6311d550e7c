//! Admission policies: what Validating- and MutatingAdmissionPolicies have in common. A policy says what to do about
//! which requests; its bindings put it to use, each with its parameters.

mod check;
mod mutating;
mod status;
mod validating;

use std::sync::Arc;

use schema::selector::LabelSelector;
use schema::{Value, json};

pub use check::check;
pub use mutating::Mutating;
pub use status::follow;
pub use validating::Validating;

use super::AdmissionRequest;
use super::expressions::{MatchConditions, env};
use super::matching::Subject;
use crate::cache::Entry;
use crate::cel::{Env, Program, Type, Variable, types};
use crate::kind::{Kind, Registry, split_api_version};
use crate::{Server, encode};

/// A policy in the form in which it is used; `P` is what it does.
struct Policy<P> {
    name: String,
    constraints: Value,
    param_kind: Value,
    /// `failurePolicy: Fail`: what cannot be evaluated refuses the request.
    fails: bool,
    conditions: MatchConditions,
    variables: Vec<Variable>,
    part: P,
}

/// The expressions of one policy's specification, with the environment of those that come after the variables.
struct Expressions {
    variables: Vec<Variable>,
    env: Env,
    /// Without `authorizer`, for messages.
    message_env: Env,
}

impl Expressions {
    /// Each variable sees those before it. `object` and `params` are of these types.
    fn new(spec: &Value, object: Type, params: Type) -> Expressions {
        let has_params = !spec["paramKind"].is_null();
        let with_types = |env: Env| {
            let env = env.with("object", object.clone()).with("oldObject", object.clone());
            if has_params { env.with("params", params.clone()) } else { env }
        };
        let mut env = with_types(env(has_params, true));
        let mut message_env = with_types(self::env(has_params, false));
        let mut variables: Vec<Variable> = Vec::new();
        for variable in spec.list_at(&["variables"]) {
            let program = Program::compile_to(variable.str_at(&["expression"]), &env, &[]);
            variables.push(Variable { name: variable.str_at(&["name"]).to_owned(), program });
            let known = variables.iter().map(|v| {
                let ty = v.program.as_ref().map_or(Type::Dyn, |program| program.ty.clone());
                (v.name.clone(), types::Field { name: v.name.clone(), ty })
            });
            let fields = known.collect();
            let known = Type::Object(Arc::new(types::ObjectType { name: "kubernetes.variables".into(), fields }));
            env = env.with("variables", known.clone());
            message_env = message_env.with("variables", known);
        }
        Expressions { variables, env, message_env }
    }
}

impl<P> Policy<P> {
    fn new(object: &Value, part: fn(&Value, &Expressions) -> P) -> Policy<P> {
        let spec = &object["spec"];
        let expressions = Expressions::new(spec, Type::Dyn, Type::Dyn);
        let part = part(spec, &expressions);
        Policy {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            constraints: spec["matchConstraints"].clone(),
            param_kind: spec["paramKind"].clone(),
            fails: spec.str_at(&["failurePolicy"]) != "Ignore",
            conditions: MatchConditions::new(spec.list_at(&["matchConditions"]), !spec["paramKind"].is_null()),
            variables: expressions.variables,
            part,
        }
    }
}

/// A binding, as it is stored.
struct Binding {
    name: String,
    spec: Value,
}

impl Binding {
    fn new(object: &Value) -> Binding {
        Binding { name: object.str_at(&["metadata", "name"]).to_owned(), spec: object["spec"].clone() }
    }

    fn is_of(&self, policy: &str) -> bool {
        self.spec.str_at(&["policyName"]) == policy
    }

    fn is_matched(&self, subject: &Subject<'_>) -> bool {
        let resources = &self.spec["matchResources"];
        resources.is_null() || subject.is_matched(resources, "resourceRules")
    }

    /// The objects with which the policy is evaluated: one `Null` if it takes none.
    ///
    /// # Errors
    /// What is wrong with the configuration, or that nothing was found and that refuses requests.
    fn params(&self, server: &Server, param_kind: &Value, request: &AdmissionRequest) -> Result<Vec<Value>, String> {
        let reference = &self.spec["paramRef"];
        if param_kind.is_null() || reference.is_null() {
            return Ok(vec![Value::Null]);
        }
        let (api_version, kind) = (param_kind.str_at(&["apiVersion"]), param_kind.str_at(&["kind"]));
        let registry = server.registry();
        let Some(kind) = kind_of(&registry, api_version, kind) else {
            return Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"));
        };
        let own = reference.str_at(&["namespace"]);
        let namespace = match (kind.resource.namespaced, own) {
            (true, "") if request.namespace.is_empty() || request.is("", "namespaces") => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => &request.namespace,
            (true, own) => own,
            (false, "") => "",
            (false, _) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
        };
        let Some(storage) = &kind.storage else { return Err("paramKind is not stored".into()) };
        if !storage.is_loaded() {
            return Err("the objects of paramKind are not yet known".into());
        }
        // Where a webhook converts, only what is stored in the version asked for can be read without it.
        let converts = kind.custom.as_ref().is_some_and(|custom| custom.converter.is_some());
        let decode = |entry: &Arc<Entry>| {
            let stored = converts.then(|| json::parse(&entry.body).ok()).flatten();
            if stored.is_some_and(|object| object.str_at(&["apiVersion"]) != &*kind.api_version) {
                return Err(format!(
                    "{} is not stored as {}, and a webhook converts it",
                    entry.name(),
                    kind.api_version
                ));
            }
            encode::decode(kind, &entry.body).map_err(|status| status.message)
        };
        let found: Vec<Value> = match reference.str_at(&["name"]) {
            "" => {
                let selector = LabelSelector::from_value(&reference["selector"]).map_err(|e| e.to_string())?;
                let selected = |object: &Value| {
                    selector.matches(|name| object.get(&["metadata", "labels", name]).and_then(Value::as_str))
                };
                let (entries, _) = storage.newest(&storage.span(namespace));
                let mut found = entries.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
                found.retain(selected);
                found
            }
            name => storage.get(&storage.key(namespace, name)).iter().map(decode).collect::<Result<_, _>>()?,
        };
        if found.is_empty() && reference.str_at(&["parameterNotFoundAction"]) == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }
}

fn kind_of<'r>(registry: &'r Registry, api_version: &str, kind: &str) -> Option<&'r Arc<Kind>> {
    let (group, version) = split_api_version(api_version);
    registry.of_version(group, version).into_iter().find(|k| k.kind() == kind)
}
