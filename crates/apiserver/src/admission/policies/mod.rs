//! Admission policies: what Validating- and MutatingAdmissionPolicies have in common. A policy says what to do about
//! which requests; its bindings put it to use, each with its parameters.

mod check;
mod mutating;
mod status;
mod validating;

use std::sync::{Arc, OnceLock};

use schema::Value;
use schema::selector::LabelSelector;

pub use check::check;
pub use mutating::Mutating;
pub use status::follow;
pub use validating::Validating;

use super::AdmissionRequest;
use super::expressions::{Compiled, MatchConditions, env};
use super::matching::{Form, Shown, Subject};
use crate::cel::{Env, Program, Type, Variable, types};
use crate::kind::{Kind, Registry, split_api_version};
use crate::{Server, encode};

/// A policy in the form in which it is used; `P` is what it does.
struct Policy<P> {
    name: String,
    spec: Value,
    /// `failurePolicy: Fail`: what cannot be evaluated refuses the request.
    fails: bool,
    conditions: MatchConditions,
    part: fn(&Value, &Expressions) -> P,
    compiled: OnceLock<(Vec<Variable>, P)>,
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
        if !spec.list_at(&["variables"]).is_empty() {
            env = env.with("variables", Type::object("kubernetes.variables", []));
        }
        for variable in spec.list_at(&["variables"]) {
            let program = Program::compile_to(variable.str_at(&["expression"]), &env, &[]);
            variables.push(Variable { name: variable.str_at(&["name"]).to_owned(), program });
            // One without an expression is none.
            let given = |of: &&Value| !of.str_at(&["expression"]).trim().is_empty();
            let known = variables.iter().zip(spec.list_at(&["variables"])).filter(|(_, of)| given(of)).map(|(v, _)| {
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
        let spec = object["spec"].clone();
        Policy {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            fails: spec.str_at(&["failurePolicy"]) != "Ignore",
            conditions: MatchConditions::new(spec.list_at(&["matchConditions"]), !spec["paramKind"].is_null()),
            spec,
            part,
            compiled: OnceLock::new(),
        }
    }

    /// The variables, and what it does: compiled by the first request that it is about.
    fn compiled(&self) -> &(Vec<Variable>, P) {
        self.compiled.get_or_init(|| {
            let expressions = Expressions::new(&self.spec, Type::Dyn, Type::Dyn);
            let part = (self.part)(&self.spec, &expressions);
            (expressions.variables, part)
        })
    }
}

/// A policy with one binding and one parameter (`Null`: it takes none), or why it cannot be used.
struct Invocation<P> {
    policy: Arc<Policy<P>>,
    /// `None`: the policy itself cannot be used.
    binding: Option<Arc<Binding>>,
    form: Form,
    params: Result<Value, String>,
}

impl<P> Invocation<P> {
    /// What stands before a message: `Policy 'p' with binding 'b'`.
    fn named(&self, called: &str) -> String {
        match &self.binding {
            Some(binding) => format!("{called} '{}' with binding '{}'", self.policy.name, binding.name),
            None => format!("{called} '{}'", self.policy.name),
        }
    }
}

/// The policies that a request is about, in their order, with their bindings and parameters. The objects are made in all
/// forms that they want.
async fn invocations<P>(
    server: &Server,
    request: &AdmissionRequest,
    policies: &Compiled<Policy<P>>,
    bindings: &Compiled<Binding>,
    shown: &mut Shown,
) -> Vec<Invocation<P>> {
    let (policies, bindings) = (policies.all(server), bindings.all(server));
    let mut out = Vec::new();
    if policies.is_empty() || bindings.is_empty() {
        return out;
    }
    // `None`: the policy itself cannot be used, whichever of its bindings are about the request.
    let matched: Vec<(Arc<Policy<P>>, Form, Option<Vec<Arc<Binding>>>)> = {
        let Some(subject) = Subject::new(server, request) else { return out };
        let registry = server.registry();
        let matched = policies.into_iter().filter_map(|policy| {
            let mut own = bindings.iter().filter(|binding| binding.is_of(&policy.name)).peekable();
            own.peek()?;
            let form = subject.matched(&policy.spec["matchConstraints"], "resourceRules")?;
            let param_kind = &policy.spec["paramKind"];
            let usable = param_kind.is_null() || kind_of(&registry, param_kind).is_some();
            let used = usable.then(|| own.filter(|binding| binding.is_matched(&subject)).cloned().collect());
            Some((policy, form, used))
        });
        matched.collect()
    };
    for (policy, form, used) in matched {
        let invocation = |binding: Option<Arc<Binding>>, params| Invocation {
            policy: policy.clone(),
            binding,
            form: form.clone(),
            params,
        };
        let Some(used) = used else {
            let field = |field| policy.spec.str_at(&["paramKind", field]);
            let why = format!(
                "failed to configure policy: failed to find resource referenced by paramKind: '{}, Kind={}'",
                field("apiVersion"),
                field("kind")
            );
            out.push(invocation(None, Err(why)));
            continue;
        };
        for binding in used {
            if let Err(why) = shown.make(server, request, &form).await {
                out.push(invocation(None, Err(format!("failed to configure policy: {}", why.message))));
                continue;
            }
            match binding.params(server, &policy.spec["paramKind"], request).await {
                Ok(found) => out.extend(found.into_iter().map(|params| invocation(Some(binding.clone()), Ok(params)))),
                Err(why) => out.push(invocation(Some(binding), Err(format!("failed to configure binding: {why}")))),
            }
        }
    }
    out
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
        resources.is_null() || subject.matched(resources, "resourceRules").is_some()
    }

    /// The objects with which the policy is evaluated: one `Null` if it takes none.
    ///
    /// # Errors
    /// What is wrong with the configuration, or that nothing was found and that refuses requests.
    async fn params(
        &self,
        server: &Server,
        param_kind: &Value,
        request: &AdmissionRequest,
    ) -> Result<Vec<Value>, String> {
        let reference = &self.spec["paramRef"];
        if param_kind.is_null() || reference.is_null() {
            return Ok(vec![Value::Null]);
        }
        let registry = server.registry();
        let Some(kind) = kind_of(&registry, param_kind) else { return Err("paramKind is not known".into()) };
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
        let name = reference.str_at(&["name"]);
        let selector = match name {
            "" => Some(LabelSelector::from_value(&reference["selector"]).map_err(|e| e.to_string())?),
            _ => None,
        };
        let entries = match &selector {
            Some(_) => storage.newest(&storage.span(namespace)).0,
            None => storage.get(&storage.key(namespace, name)).into_iter().collect(),
        };
        let entries = server.in_version(kind, entries).await.map_err(|status| status.message)?;
        let decoded = entries.iter().map(|entry| encode::decode(kind, &entry.body).map_err(|status| status.message));
        let mut found = decoded.collect::<Result<Vec<Value>, _>>()?;
        if let Some(selector) = selector {
            found.retain(|object| {
                selector.matches(|name| object.get(&["metadata", "labels", name]).and_then(Value::as_str))
            });
        }
        if found.is_empty() && reference.str_at(&["parameterNotFoundAction"]) == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }
}

fn kind_of<'r>(registry: &'r Registry, param_kind: &Value) -> Option<&'r Arc<Kind>> {
    let (group, version) = split_api_version(param_kind.str_at(&["apiVersion"]));
    registry.of_version(group, version).into_iter().find(|k| k.kind() == param_kind.str_at(&["kind"]))
}
