//! ValidatingAdmissionPolicy: expressions that must be true of a request, or it is refused, warned of or noted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schema::Value;

use super::{Binding, Expressions, Invocation, Policy, invocations};
use crate::admission::expressions::{Compiled, Inputs, evaluate};
use crate::admission::matching::Shown;
use crate::admission::{AdmissionRequest, Judged, Plugin};
use crate::cel::{BUDGET, Program, Type, Val};
use crate::{Server, Status};

/// A longer message is as if it could not be evaluated.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Of one annotation's value for the audit log, and of failures that it is told at once.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;
const FAILURES_MAX: usize = 50;

pub(super) struct Validations {
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
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
        let text = value.str_at(&["valueExpression"]).trim();
        (value.str_at(&["key"]).to_owned(), compile(text, &expressions.env, &[Type::String, Type::Null]))
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
    /// What kept its expression from being evaluated, as metrics have it.
    error: &'static str,
    took: Duration,
}

impl Violation {
    /// Of an expression that cannot be evaluated.
    fn new(message: impl Into<String>) -> Violation {
        let (reason, took) = (String::new(), Duration::ZERO);
        Violation { message: message.into(), reason, error: "invalid_error", took }
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
        Violation { message, reason: self.reason.clone(), error: "no_error", took: Duration::ZERO }
    }
}

/// What evaluating a policy with one parameter tells.
#[derive(Default)]
struct Outcome {
    /// With the places of their expressions.
    violations: Vec<(usize, Violation)>,
    /// What refuses the request whatever the binding says.
    refused: Option<Violation>,
    /// Keys and values for the audit log.
    annotations: Vec<(String, String)>,
}

fn outcome(
    invocation: &Invocation<Validations>,
    inputs: &Inputs<'_>,
    (object, old): (&Value, Option<&Value>),
    params: &Value,
) -> Outcome {
    let policy = &invocation.policy;
    let mut out = Outcome::default();
    let failed = |at: usize, why: String| policy.fails.then(|| (at, Violation::new(why)));
    match policy.conditions.hold(inputs, object, old, params, false) {
        Ok(true) => {}
        Ok(false) => return out,
        Err(why) => {
            out.violations.extend(failed(0, why));
            return out;
        }
    }
    let (variables, part) = policy.compiled();
    let mut cx = inputs.cx(object, old, params, BUDGET);
    cx.set_variables(variables);
    for (at, validation) in part.validations.iter().enumerate() {
        let started = Instant::now();
        match evaluate(&mut cx, &validation.condition.text, &validation.condition.program) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => out.violations.push((at, validation.violation(&mut cx))),
            Err(why) if cx.budget() == 0 => {
                out.violations = failed(0, why).into_iter().collect();
                out.violations.iter_mut().for_each(|(_, violation)| violation.error = "out_of_budget");
                return out;
            }
            Err(why) => out.violations.extend(failed(at, why)),
        }
        if let Some((_, violation)) = out.violations.last_mut().filter(|(place, _)| *place == at) {
            violation.took = started.elapsed();
        }
    }
    for (key, annotation) in &part.annotations {
        match evaluate(&mut cx, &annotation.text, &annotation.program) {
            Ok(Val::String(text)) if !text.trim().is_empty() => {
                let text = text.trim();
                let cut = text.floor_char_boundary(ANNOTATION_BYTES_MAX.min(text.len()));
                out.annotations.push((key.clone(), text[..cut].to_owned()));
            }
            Err(why) if policy.fails => {
                out.refused.get_or_insert(Violation::new(why));
            }
            _ => {}
        }
    }
    out
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
    async fn decide(&self, server: &Server, request: &AdmissionRequest) -> Result<(), Status> {
        let mut shown = Shown::default();
        let invocations = invocations(server, request, &self.policies, &self.bindings, &mut shown).await;
        let mut inputs: BTreeMap<String, Inputs<'_>> = BTreeMap::new();
        let mut denied: Option<(String, String)> = None;
        let mut failures = Vec::new();
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for invocation in &invocations {
            let by = invocation.named("ValidatingAdmissionPolicy");
            let mut deny = |violation: Violation| {
                let message = format!("{by} denied request: {}", violation.message);
                denied.get_or_insert((violation.reason, message));
            };
            let (params, binding) = match (&invocation.params, &invocation.binding) {
                (Ok(params), Some(binding)) => (params, binding),
                (Err(why), _) if invocation.policy.fails => {
                    deny(Violation::new(why.clone()));
                    continue;
                }
                _ => continue,
            };
            let form = invocation.form.kind(request).0.to_owned();
            let inputs = inputs.entry(form).or_insert_with(|| Inputs::new(server, request, &invocation.form));
            let actions: Vec<&str> =
                binding.spec.list_at(&["validationActions"]).iter().filter_map(Value::as_str).collect();
            let outcome = outcome(invocation, inputs, shown.get(request, &invocation.form), params);
            for (at, violation) in outcome.violations {
                let message = &violation.message;
                for (action, name) in [("Deny", "deny"), ("Audit", "audit"), ("Warn", "warn")] {
                    if actions.contains(&action) {
                        let (policy, binding) = (&invocation.policy.name, &binding.name);
                        server.inner.metrics.admission.check(policy, binding, violation.error, name, violation.took);
                    }
                }
                if actions.contains(&"Warn") {
                    request.warnings.push(format!("Validation failed for {by}: {message}"));
                }
                if actions.contains(&"Audit") && failures.len() < FAILURES_MAX {
                    failures.push(Value::object([
                        ("message", message.as_str().into()),
                        ("policy", invocation.policy.name.as_str().into()),
                        ("binding", binding.name.as_str().into()),
                        ("expressionIndex", (at as i64).into()),
                        ("validationActions", Value::list(actions.iter().copied())),
                    ]));
                }
                if actions.contains(&"Deny") {
                    deny(violation);
                }
            }
            outcome.refused.into_iter().for_each(&mut deny);
            for (key, text) in outcome.annotations {
                let texts = annotations.entry(format!("{}/{key}", invocation.policy.name)).or_default();
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        for (key, texts) in annotations {
            request.warnings.annotate(key, texts.join(", "));
        }
        if !failures.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure";
            request.warnings.annotate(key, Value::List(failures).to_string());
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

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(async move { self.decide(server, request).await })
    }
}
