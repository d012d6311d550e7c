//! ValidatingAdmissionPolicy: expressions that must be true of a request, or it is refused, warned of or noted.

use std::cell::OnceCell;

use schema::Value;

use super::{Binding, Expressions, Policy};
use crate::admission::expressions::{Compiled, Inputs, evaluate};
use crate::admission::matching::Subject;
use crate::admission::{AdmissionRequest, Plugin};
use crate::cel::{BUDGET, Program, Type, Val};
use crate::seams::BoxFuture;
use crate::{Server, Status};

/// A longer message is as if it could not be evaluated.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

pub(super) struct Validations {
    validations: Vec<Validation>,
    annotations: Vec<Expression>,
}

struct Expression {
    text: String,
    program: Result<Program, String>,
}

struct Validation {
    condition: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

pub(super) fn validations(spec: &Value, expressions: &Expressions) -> Validations {
    let compile = |text: &str, env, wanted: &[Type]| Expression {
        text: text.to_owned(),
        program: Program::compile_to(text, env, wanted),
    };
    let validation = |value: &Value| Validation {
        condition: compile(value.str_at(&["expression"]), &expressions.env, &[Type::Bool]),
        message: value.str_at(&["message"]).trim().to_owned(),
        message_expression: match value.str_at(&["messageExpression"]) {
            "" => None,
            text => Some(compile(text, &expressions.message_env, &[Type::String])),
        },
        reason: value.str_at(&["reason"]).to_owned(),
    };
    let annotation = |value: &Value| {
        compile(value.str_at(&["valueExpression"]).trim(), &expressions.env, &[Type::String, Type::Null])
    };
    Validations {
        validations: spec.list_at(&["validations"]).iter().map(validation).collect(),
        annotations: spec.list_at(&["auditAnnotations"]).iter().map(annotation).collect(),
    }
}

/// That a request is not as it should be.
struct Violation {
    message: String,
    reason: String,
}

impl Violation {
    fn new(message: impl Into<String>) -> Violation {
        Violation { message: message.into(), reason: String::new() }
    }
}

impl Validation {
    /// What to tell of a request of which the condition is false.
    fn violation<'v>(&'v self, cx: &mut crate::cel::Cx<'v>) -> Violation {
        let made = self.message_expression.as_ref().and_then(|e| evaluate(cx, &e.text, &e.program).ok());
        let made = match &made {
            Some(Val::String(text)) if text.len() <= MESSAGE_BYTES_MAX && !text.trim().contains('\n') => text.trim(),
            _ => "",
        };
        let message = match (made, self.message.as_str()) {
            ("", "") => format!("failed expression: {}", self.condition.text.trim()),
            ("", message) => message.to_owned(),
            (made, _) => made.to_owned(),
        };
        Violation { message, reason: self.reason.clone() }
    }
}

/// Everything that is wrong with a request by one policy and one parameter, and what refuses it whatever the binding
/// says.
fn violations(
    policy: &Policy<Validations>,
    inputs: &Inputs<'_>,
    request: &AdmissionRequest,
    params: &Value,
) -> (Vec<Violation>, Option<Violation>) {
    let failed = |why: String| if policy.fails { vec![Violation::new(why)] } else { Vec::new() };
    let old = request.old.as_deref();
    match policy.conditions.hold(inputs, &request.object, old, params, false) {
        Ok(true) => {}
        Ok(false) => return (Vec::new(), None),
        Err(why) => return (failed(why), None),
    }
    let mut cx = inputs.cx(&request.object, old, params, BUDGET);
    cx.set_variables(&policy.variables);
    let mut out = Vec::new();
    for validation in &policy.part.validations {
        match evaluate(&mut cx, &validation.condition.text, &validation.condition.program) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => out.push(validation.violation(&mut cx)),
            Err(why) if cx.budget() == 0 => return (failed(why), None),
            Err(why) => out.extend(failed(why)),
        }
    }
    let mut refused = None;
    for annotation in &policy.part.annotations {
        if let Err(why) = evaluate(&mut cx, &annotation.text, &annotation.program)
            && policy.fails
        {
            refused.get_or_insert(Violation::new(why));
        }
    }
    (out, refused)
}

pub struct Validating {
    policies: Compiled<Policy<Validations>>,
    bindings: Compiled<Binding>,
}

impl Default for Validating {
    fn default() -> Self {
        Validating {
            policies: Compiled::new("validatingadmissionpolicies", |object| Policy::new(object, validations)),
            bindings: Compiled::new("validatingadmissionpolicybindings", Binding::new),
        }
    }
}

impl Validating {
    fn decide(&self, server: &Server, request: &AdmissionRequest) -> Result<(), Status> {
        let (policies, bindings) = (self.policies.all(server), self.bindings.all(server));
        if policies.is_empty() || bindings.is_empty() {
            return Ok(());
        }
        let Some(subject) = Subject::new(server, request) else { return Ok(()) };
        let inputs = OnceCell::new();
        let mut denied: Option<(String, String)> = None;
        for policy in policies.iter().filter(|p| subject.is_matched(&p.constraints, "resourceRules")) {
            let inputs = inputs.get_or_init(|| Inputs::new(server, request, &request.user));
            let used = bindings.iter().filter(|b| b.is_of(&policy.name) && b.is_matched(&subject));
            for binding in used {
                let mut deny = |violation: Violation| {
                    let by = format!("ValidatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name);
                    let message = format!("{by} denied request: {}", violation.message);
                    denied.get_or_insert((violation.reason, message));
                };
                let params = match binding.params(server, &policy.param_kind, request) {
                    Ok(params) => params,
                    Err(why) => {
                        if policy.fails {
                            deny(Violation::new(format!("failed to configure binding: {why}")));
                        }
                        continue;
                    }
                };
                let actions: Vec<&str> =
                    binding.spec.list_at(&["validationActions"]).iter().filter_map(Value::as_str).collect();
                for params in &params {
                    let (found, refused) = violations(policy, inputs, request, params);
                    for violation in found {
                        let message = &violation.message;
                        if actions.contains(&"Warn") {
                            request.warnings.push(format!(
                                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                                policy.name, binding.name
                            ));
                        }
                        if actions.contains(&"Audit") {
                            let (policy, binding) = (&policy.name, &binding.name);
                            tracing::info!(policy, binding, message, name = request.name, "validation failed");
                        }
                        if actions.contains(&"Deny") {
                            deny(violation);
                        }
                    }
                    refused.into_iter().for_each(&mut deny);
                }
            }
        }
        match denied {
            Some((reason, message)) => Err(request.forbidden(&message).by_policy(&reason, &message)),
            None => Ok(()),
        }
    }
}

impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn validate<'a>(
        &'a self,
        server: &'a Server,
        request: &'a mut AdmissionRequest,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.decide(server, request)))
    }
}
