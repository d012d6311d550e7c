//! MutatingAdmissionPolicy: expressions that say how a request's object is changed.

use schema::{Value, apply, patch};

use super::{Binding, Expressions, Invocation, Policy, invocations};
use crate::admission::expressions::{Compiled, Inputs, evaluate};
use crate::admission::matching::{Form, Shown};
use crate::admission::{AdmissionRequest, Judged, Operation, Plugin};
use crate::cel::{BUDGET, Program, Type, Val};
use crate::conversion::printed;
use crate::kind::{builtin, join_group_version};
use crate::{Server, Status};

pub(super) struct Mutations {
    mutations: Vec<Mutation>,
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
    Mutations { mutations: spec.list_at(&["mutations"]).iter().map(mutation).collect() }
}

impl Mutation {
    /// The changed object.
    ///
    /// # Errors
    /// What went wrong, in upstream's words.
    fn applied(
        &self,
        result: &Val<'_>,
        object: &Value,
        form: &Form,
        server: &Server,
        request: &AdmissionRequest,
    ) -> Result<Value, String> {
        if self.is_json_patch {
            let operations = operations(result)?;
            return match patch::json_patch(object.clone(), &operations) {
                Ok(changed) => Ok(changed),
                // A test that fails means that nothing is to be done.
                Err(error) if error.is_failed_test() => Ok(object.clone()),
                Err(error) => Err(format!("JSON Patch: {error}")),
            };
        }
        let (api_version, kind) = form.kind(request);
        result.check_places("Object").map_err(|e| e.to_string())?;
        let mut config = result.to_json().map_err(|e| e.to_string())?;
        config.set(&["apiVersion"], api_version);
        config.set(&["kind"], kind);
        let applied = match form.schema(server, request) {
            (Some(kind), _) => apply::overlay(kind.table(), &kind.ty, object, &config),
            // Upstream knows the types of the resource's own group and version only.
            (None, Some(id)) if join_group_version(&request.group, &request.version) == api_version => {
                apply::overlay(builtin(), &schema::Type::Message(id), object, &config)
            }
            _ => Err(apply::ApplyError::Invalid(format!(
                "failed to convert patch object to typed object: no corresponding type for {}",
                printed(api_version, kind)
            ))),
        };
        applied.map_err(|why| format!("error applying patch: {why}"))
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

impl Invocation<Mutations> {
    /// The object as it is then; `None`: it is not asked. A mutation that cannot be carried out leaves it to the others,
    /// and refuses the request if the policy says so.
    ///
    /// # Errors
    /// What is made is no object of its kind, which no policy may.
    fn invoke(
        &self,
        server: &Server,
        request: &AdmissionRequest,
        (before, old): (&Value, Option<&Value>),
        refusals: &mut Vec<(&'static str, String)>,
    ) -> Result<Option<Value>, Status> {
        let policy = &self.policy;
        let Ok(params) = &self.params else { return Ok(None) };
        let inputs = Inputs::new(server, request, &self.form);
        match policy.conditions.hold(&inputs, before, old, params, !policy.fails) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) => {
                refusals.extend(self.refusal("Invalid", &why));
                return Ok(None);
            }
        }
        if request.turns.is_second && !request.turns.policies.is_due(&self.id()) {
            return Ok(None);
        }
        let (variables, part) = policy.compiled();
        let mut object = before.clone();
        for mutation in &part.mutations {
            let changed = {
                let mut cx = inputs.cx(&object, old, params, BUDGET);
                cx.set_variables(variables);
                evaluate(&mut cx, &mutation.text, &mutation.program).and_then(|result| {
                    cx.weigh(&result).map_err(|fault| format!("expression '{}': {fault}", mutation.text))?;
                    mutation.applied(&result, &object, &self.form, server, request)
                })
            };
            let changed = match changed {
                Ok(changed) => changed,
                Err(why) => {
                    refusals.extend(self.refusal("Invalid", &why));
                    continue;
                }
            };
            let (changed, problems) = self.form.settled(server, request, changed).map_err(|status| {
                let plain = status.reason.is_empty();
                if plain { Status::internal(format!("failed to convert object: {}", status.message)) } else { status }
            })?;
            if mutation.is_json_patch && !problems.is_empty() {
                return Err(Status::internal(format!("strict decoding error: {}", problems.join(", "))));
            }
            object = changed;
        }
        Ok(Some(object))
    }

    fn id(&self) -> String {
        let binding = self.binding.as_ref().map_or("", |binding| &binding.name);
        let meta = |field| self.params.as_ref().map_or("", |params| params.str_at(&["metadata", field]));
        format!("{}/{binding}/{}/{}", self.policy.name, meta("namespace"), meta("name"))
    }

    /// Reason and message.
    fn refusal(&self, reason: &'static str, why: &str) -> Option<(&'static str, String)> {
        let named = match &self.binding {
            Some(_) => self.named("policy"),
            None => format!("policy {:?}", self.policy.name),
        };
        self.policy.fails.then(|| (reason, format!("{named} denied request: {why}")))
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
    async fn change(&self, server: &Server, request: &mut AdmissionRequest) -> Result<(), Status> {
        // A deletion has no object, and a connection's is none that is kept.
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let mut shown = Shown::default();
        let invocations = invocations(server, request, &self.policies, &self.bindings, &mut shown).await;
        let configuration = invocations.iter().filter_map(|i| i.refusal("Forbidden", i.params.as_ref().err()?));
        let mut refusals: Vec<(&'static str, String)> = configuration.collect();
        if request.turns.is_second {
            request.turns.policies.resume(&request.object);
        }
        let mut is_touched = false;
        for invocation in &invocations {
            shown.make(server, request, &invocation.form).await?;
            let objects = shown.get(request, &invocation.form);
            let Some(made) = invocation.invoke(server, request, objects, &mut refusals)? else { continue };
            is_touched = true;
            if made != *objects.0 {
                request.object = invocation.form.back(server, request, made).await?;
                shown.clear();
                request.turns.policies.changed();
            }
            if invocation.policy.spec.str_at(&["reinvocationPolicy"]) == "IfNeeded" {
                request.turns.policies.asked(invocation.id());
            }
        }
        if is_touched {
            // Who was asked counts as who changed the object, even for itself.
            request.turns.policies.changed();
            request.turns.again = true;
        }
        request.turns.policies.leave(&request.object);
        let Some((reason, first)) = refusals.first() else { return Ok(()) };
        let mut status = request.forbidden("");
        (status.reason, status.message) = (reason, first.clone());
        Err(refusals.iter().fold(status, |status, (_, why)| status.with_cause("", why, "")))
    }
}

impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(async move { self.change(server, request).await })
    }
}
