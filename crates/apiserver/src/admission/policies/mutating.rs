//! MutatingAdmissionPolicy: expressions that say how a request's object is changed.

use std::sync::Arc;

use schema::{Value, apply, patch};

use super::{Binding, Expressions, Policy};
use crate::admission::expressions::{Compiled, Inputs, evaluate};
use crate::admission::matching::Subject;
use crate::admission::{AdmissionRequest, Operation, Plugin};
use crate::call::settled;
use crate::cel::{BUDGET, Program, Type, Val};
use crate::kind::Kind;
use crate::seams::BoxFuture;
use crate::{Server, Status};

pub(super) struct Mutations {
    mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`: it sees what others changed after it.
    again: bool,
}

struct Mutation {
    is_json_patch: bool,
    text: String,
    program: Result<Program, String>,
}

/// What a mutation's expression evaluates to.
pub(super) fn result_of(patch_type: &str) -> Type {
    match patch_type {
        "JSONPatch" => Type::list(Type::object("JSONPatch", [])),
        _ => Type::object("Object", []),
    }
}

fn mutations(spec: &Value, expressions: &Expressions) -> Mutations {
    let env = expressions.env.clone().with_patches();
    let mutation = |value: &Value| {
        let patch_type = value.str_at(&["patchType"]);
        let is_json_patch = patch_type == "JSONPatch";
        let own = if is_json_patch { "jsonPatch" } else { "applyConfiguration" };
        let text = value.str_at(&[own, "expression"]).trim().to_owned();
        let program = Program::compile_to(&text, &env, &[result_of(patch_type)]);
        Mutation { is_json_patch, text, program }
    };
    Mutations {
        mutations: spec.list_at(&["mutations"]).iter().map(mutation).collect(),
        again: spec.str_at(&["reinvocationPolicy"]) == "IfNeeded",
    }
}

/// A policy with one binding and one parameter.
struct Invocation {
    policy: Arc<Policy<Mutations>>,
    binding: Arc<Binding>,
    params: Value,
}

impl Mutation {
    /// The changed object.
    ///
    /// # Errors
    /// What went wrong, in upstream's words.
    fn applied(&self, result: &Val<'_>, object: &Value, kind: &Kind) -> Result<Value, String> {
        let changed = if self.is_json_patch {
            let operations = operations(result)?;
            match patch::json_patch(object.clone(), &operations) {
                Ok(changed) => changed,
                // A test that fails means that nothing is to be done.
                Err(error) if error.is_failed_test() => return Ok(object.clone()),
                Err(error) => return Err(format!("JSON Patch: {error}")),
            }
        } else {
            result.check_places("Object").map_err(|e| e.to_string())?;
            let mut config = result.to_json().map_err(|e| e.to_string())?;
            kind.stamp(&mut config);
            apply::overlay(kind.table(), &kind.ty, object, &config).map_err(|e| format!("error applying patch: {e}"))?
        };
        settled(kind, changed)
    }
}

/// `JSONPatch{…}`s as RFC 6902 has them.
fn operations(result: &Val<'_>) -> Result<Value, String> {
    let items = result.items().map_err(|e| e.to_string())?;
    let operation = |item: Val<'_>| -> Result<Value, String> {
        let Val::Struct(_, fields) = &item else { return Err("type mismatch: no JSONPatch".to_owned()) };
        let mut out = schema::Object::new();
        for (name, value) in fields.iter() {
            // What stands in a patch is named from the object's root, wherever that is.
            if let Val::Struct(place, _) = value {
                value.check_places(place).map_err(|e| e.to_string())?;
            }
            out.insert((*name).to_owned(), value.to_json().map_err(|e| e.to_string())?);
        }
        Ok(Value::Object(out))
    };
    Ok(Value::List(items.iter().map(operation).collect::<Result<_, _>>()?))
}

impl Invocation {
    /// Changes the request's object; true: it is another. A mutation that cannot be carried out leaves it to the others,
    /// and refuses the request if the policy says so.
    fn invoke(&self, server: &Server, request: &mut AdmissionRequest, refusals: &mut Vec<String>) -> bool {
        let policy = &self.policy;
        let inputs = Inputs::new(server, request, &request.user);
        let (old, params) = (request.old.as_deref(), &self.params);
        match policy.conditions.hold(&inputs, &request.object, old, params, !policy.fails) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(why) => {
                refusals.extend(self.refusal(&why));
                return false;
            }
        }
        let Some(kind) = request.served(server) else {
            // What only a subresource knows (`Binding`, `Scale`) is left as it is.
            if !request.subresource.is_empty() {
                return false;
            }
            let kind = format!("{}/{}, Kind={}", request.group, request.version, request.kind);
            refusals.extend(self.refusal(&format!("Resource kind {kind} not found")));
            return false;
        };
        let mut object = request.object.clone();
        for mutation in &policy.part.mutations {
            let changed = {
                let mut cx = inputs.cx(&object, old, params, BUDGET);
                cx.set_variables(&policy.variables);
                evaluate(&mut cx, &mutation.text, &mutation.program).and_then(|result| {
                    cx.weigh(&result).map_err(|fault| format!("expression '{}': {fault}", mutation.text))?;
                    mutation.applied(&result, &object, &kind)
                })
            };
            match changed {
                Ok(changed) => object = changed,
                Err(why) => refusals.extend(self.refusal(&why)),
            }
        }
        let changed = object != request.object;
        request.object = object;
        changed
    }

    fn refusal(&self, why: &str) -> Option<String> {
        let (policy, binding) = (&self.policy.name, &self.binding.name);
        self.policy.fails.then(|| format!("policy '{policy}' with binding '{binding}' denied request: {why}"))
    }
}

pub struct Mutating {
    policies: Compiled<Policy<Mutations>>,
    bindings: Compiled<Binding>,
}

impl Default for Mutating {
    fn default() -> Self {
        Mutating {
            policies: Compiled::new("mutatingadmissionpolicies", |object| Policy::new(object, mutations)),
            bindings: Compiled::new("mutatingadmissionpolicybindings", Binding::new),
        }
    }
}

impl Mutating {
    fn change(&self, server: &Server, request: &mut AdmissionRequest) -> Result<(), Status> {
        let (policies, bindings) = (self.policies.all(server), self.bindings.all(server));
        // A deletion has no object, and a connection's is none that is kept.
        let has_object = matches!(request.operation, Operation::Create | Operation::Update);
        if policies.is_empty() || bindings.is_empty() || !has_object {
            return Ok(());
        }
        let mut refusals = Vec::new();
        let invocations = self.invocations(server, request, &policies, &bindings, &mut refusals);
        // Those whose turn is over before another one changes the object, and who want to see it.
        let (mut waiting, mut again) = (Vec::new(), Vec::new());
        for (at, invocation) in invocations.iter().enumerate() {
            if invocation.invoke(server, request, &mut refusals) {
                again.append(&mut waiting);
            }
            if invocation.policy.part.again {
                waiting.push(at);
            }
        }
        for invocation in again.into_iter().filter_map(|at: usize| invocations.get(at)) {
            invocation.invoke(server, request, &mut refusals);
        }
        match refusals.split_first() {
            None => Ok(()),
            Some((first, rest)) => {
                let mut status = request.forbidden("").by_policy("Invalid", first);
                status.message.clone_from(first);
                Err(rest.iter().fold(status, |status, why| status.with_cause("", why, "")))
            }
        }
    }

    fn invocations(
        &self,
        server: &Server,
        request: &AdmissionRequest,
        policies: &[Arc<Policy<Mutations>>],
        bindings: &[Arc<Binding>],
        refusals: &mut Vec<String>,
    ) -> Vec<Invocation> {
        let Some(subject) = Subject::new(server, request) else { return Vec::new() };
        let mut out = Vec::new();
        for policy in policies.iter().filter(|p| subject.is_matched(&p.constraints, "resourceRules")) {
            for binding in bindings.iter().filter(|b| b.is_of(&policy.name) && b.is_matched(&subject)) {
                let (policy, binding) = (policy.clone(), binding.clone());
                match binding.params(server, &policy.param_kind, request) {
                    Ok(found) => out.extend(found.into_iter().map(|params| Invocation {
                        policy: policy.clone(),
                        binding: binding.clone(),
                        params,
                    })),
                    Err(why) => {
                        let none = Invocation { policy, binding, params: Value::Null };
                        refusals.extend(none.refusal(&format!("failed to configure binding: {why}")));
                    }
                }
            }
        }
        out
    }
}

impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn mutate<'a>(
        &'a self,
        server: &'a Server,
        request: &'a mut AdmissionRequest,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.change(server, request)))
    }
}
