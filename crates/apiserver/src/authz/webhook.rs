//! An authorizer outside: it is sent a SubjectAccessReview, and what it answers is good for a while.

use std::sync::Arc;
use std::time::Duration;

use schema::selector::{FieldSelector, LabelSelector, Operator};
use schema::{Value, validate::FieldError};

use crate::cel::{Cx, Env, MATCH_BUDGET, Program, Type};
use crate::outside::{Endpoint, Remembered};
use crate::seams::Decision;
use crate::{Attributes, Server, User};

const REMEMBERED_MAX: usize = 8192;
/// What a request says of itself may be no longer than this to be remembered.
const REMEMBERED_BYTES_MAX: usize = 10_000;
const CONDITIONS_MAX: usize = 64;

pub struct Webhook {
    pub endpoint: Endpoint,
    /// `v1` or `v1beta1`.
    pub version: String,
    pub timeout: Duration,
    /// How long what it allows and what it does not is remembered; nothing at zero.
    pub authorized: Duration,
    pub unauthorized: Duration,
    /// If it cannot be asked: refuse, or let others decide.
    pub denies_on_error: bool,
    pub conditions: Conditions,
    pub answers: Remembered<Decision>,
}

impl Webhook {
    pub fn remembered() -> Remembered<Decision> {
        Remembered::new(REMEMBERED_MAX)
    }

    pub async fn decide(&self, server: &Server, user: &User, attributes: &Attributes) -> Decision {
        let failed = |error: String| Decision::Failed { denied: self.denies_on_error, reason: String::new(), error };
        match self.conditions.hold(user, attributes) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(error) => return failed(error),
        }
        let spec = spec(user, attributes, self.version == "v1beta1");
        let key = Remembered::<()>::key([spec.to_string().as_str()]);
        if let Some(answer) = self.answers.get(&key) {
            return answer;
        }
        let version = format!("authorization.k8s.io/{}", self.version);
        let review = Value::object([
            ("kind", "SubjectAccessReview".into()),
            ("apiVersion", version.as_str().into()),
            ("metadata", Value::object([("creationTimestamp", Value::Null)])),
            ("spec", spec),
            ("status", Value::object([("allowed", false.into())])),
        ]);
        let answer = match self.endpoint.ask(server, &review, self.timeout).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::warn!(why = failure.why, "the authorization webhook does not answer");
                return failed(failure.why);
            }
        };
        if answer.str_at(&["kind"]) != "SubjectAccessReview" || answer.str_at(&["apiVersion"]) != version {
            return failed(format!("the authorization webhook answered with {:?}", answer.str_at(&["kind"])));
        }
        let status = &answer["status"];
        let (allowed, reason) = (status.bool_at(&["allowed"]), status.str_at(&["reason"]).to_owned());
        let decision = match (allowed, status.bool_at(&["denied"])) {
            (true, true) => {
                let error = "webhook subject access review returned both allow and deny response".to_owned();
                Decision::Failed { denied: true, reason, error }
            }
            (true, false) => Decision::Allow(reason),
            (false, true) => Decision::Deny(reason),
            (false, false) => Decision::NoOpinion(reason),
        };
        let said = [
            &attributes.namespace, &attributes.verb, &attributes.api_group, &attributes.api_version,
            &attributes.resource, &attributes.subresource, &attributes.name, &attributes.path,
        ];
        if said.iter().map(|text| text.len()).sum::<usize>() < REMEMBERED_BYTES_MAX {
            self.answers.put(key, decision.clone(), if allowed { self.authorized } else { self.unauthorized });
        }
        decision
    }
}

/// A SubjectAccessReview's spec, without what is empty.
fn spec(user: &User, wanted: &Attributes, is_beta: bool) -> Value {
    let mut spec = Value::object::<&str>([]);
    let put = |to: &mut Value, members: &[(&str, &str)]| {
        for (name, text) in members.iter().filter(|(_, text)| !text.is_empty()) {
            to.set(&[name], *text);
        }
    };
    if wanted.is_resource {
        let mut resource = Value::object::<&str>([]);
        put(&mut resource, &resource_members(wanted));
        for (name, requirements) in [
            ("fieldSelector", field_requirements(&wanted.field_selector)),
            ("labelSelector", label_requirements(&wanted.label_selector)),
        ] {
            if !requirements.is_empty() {
                resource.set(&[name, "requirements"], Value::List(requirements));
            }
        }
        spec.set(&["resourceAttributes"], resource);
    } else {
        let mut path = Value::object::<&str>([]);
        put(&mut path, &[("path", &wanted.path), ("verb", &wanted.verb)]);
        spec.set(&["nonResourceAttributes"], path);
    }
    put(&mut spec, &[("user", &user.name)]);
    if !user.groups.is_empty() {
        spec.set(&[if is_beta { "group" } else { "groups" }], user.groups.clone());
    }
    if !user.extra.is_empty() {
        spec.set(&["extra"], extra(user));
    }
    put(&mut spec, &[("uid", &user.uid)]);
    spec
}

fn extra(user: &User) -> Value {
    let members = user.extra.iter().map(|(key, values)| (key.clone(), Value::list(values.clone())));
    Value::Object(members.collect())
}

fn resource_members(wanted: &Attributes) -> [(&'static str, &str); 7] {
    [
        ("namespace", &wanted.namespace),
        ("verb", &wanted.verb),
        ("group", &wanted.api_group),
        ("version", &wanted.api_version),
        ("resource", &wanted.resource),
        ("subresource", &wanted.subresource),
        ("name", &wanted.name),
    ]
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> Value {
    let mut out = Value::object([("key", key.into()), ("operator", operator.into())]);
    if !values.is_empty() {
        out.set(&["values"], values);
    }
    out
}

/// What a selector that cannot be read asks for is everything.
fn field_requirements(selector: &str) -> Vec<Value> {
    let terms = FieldSelector::parse(selector).map(|selector| selector.terms).unwrap_or_default();
    let one = |term: schema::selector::FieldTerm| {
        requirement(&term.path, if term.negated { "NotIn" } else { "In" }, vec![term.value])
    };
    terms.into_iter().map(one).collect()
}

fn label_requirements(selector: &str) -> Vec<Value> {
    let requirements = LabelSelector::parse(selector).map(|selector| selector.requirements).unwrap_or_default();
    let one = |r: schema::selector::Requirement| {
        let operator = match r.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(requirement(&r.key, operator, r.values))
    };
    requirements.into_iter().filter_map(one).collect()
}

// ---- match conditions

/// Only what they all hold for is sent.
#[derive(Debug, Default)]
pub struct Conditions(Vec<(String, Arc<Program>)>);

impl Conditions {
    /// With what is wrong with them.
    pub fn new(list: &[Value], path: &str) -> (Conditions, Vec<FieldError>) {
        if list.len() > CONDITIONS_MAX {
            return (Conditions::default(), vec![FieldError::too_many(path, list.len(), CONDITIONS_MAX)]);
        }
        let (mut errors, mut programs) = (Vec::new(), Vec::<(String, Arc<Program>)>::new());
        let mut seen = Vec::new();
        let env = if list.is_empty() { Env::default() } else { env() };
        for (at, condition) in list.iter().enumerate() {
            let (field, text) = (format!("{path}[{at}].expression"), condition.str_at(&["expression"]));
            if text.trim().is_empty() {
                errors.push(FieldError::required(field, ""));
                continue;
            }
            if seen.contains(&text) {
                errors.push(FieldError::duplicate(field, text));
                continue;
            }
            seen.push(text);
            match Program::compile_to(text, &env, &[Type::Bool]) {
                Ok(program) => programs.push((text.to_owned(), Arc::new(program))),
                Err(why) => errors.push(FieldError::invalid(field, text, why)),
            }
        }
        (Conditions(programs), errors)
    }

    /// One that does not hold outweighs the errors of others.
    fn hold(&self, user: &User, wanted: &Attributes) -> Result<bool, String> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let request = request(user, wanted);
        let mut cx = Cx::new(MATCH_BUDGET);
        cx.set("request", (&request).into());
        let mut errors = Vec::new();
        for (text, program) in &self.0 {
            match cx.run(program).and_then(|value| value.as_bool()) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => {
                    errors.push(format!("cel evaluation error: expression '{text}' resulted in error: {why}"));
                }
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

fn env() -> Env {
    let strings = || Type::list(Type::String);
    let requirement = Type::object(
        "kubernetes.SelectorRequirement",
        [("key", Type::String), ("operator", Type::String), ("values", strings())],
    );
    let selector = |name| {
        let fields = [("rawSelector", Type::String), ("requirements", Type::list(requirement.clone()))];
        Type::object(name, fields)
    };
    let texts = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let selectors = [
        ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
        ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
    ];
    let fields = texts.map(|name| (name, Type::String)).into_iter().chain(selectors);
    let resource = Type::object("kubernetes.ResourceAttributes", fields);
    let path = [("path", Type::String), ("verb", Type::String)];
    let request = Type::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", Type::object("kubernetes.NonResourceAttributes", path)),
            ("user", Type::String),
            ("groups", strings()),
            ("extra", Type::map(Type::String, strings())),
            ("uid", Type::String),
        ],
    );
    Env::new([("request", request)])
}

/// As [`spec`], with what is empty.
fn request(user: &User, wanted: &Attributes) -> Value {
    let mut request = spec(user, wanted, false);
    request.set(&["user"], user.name.as_str());
    request.set(&["groups"], user.groups.clone());
    request.set(&["uid"], user.uid.as_str());
    request.set(&["extra"], extra(user));
    let members: &[(&str, &str)] =
        if wanted.is_resource { &resource_members(wanted) } else { &[("path", &wanted.path), ("verb", &wanted.verb)] };
    let of = if wanted.is_resource { "resourceAttributes" } else { "nonResourceAttributes" };
    for (name, text) in members {
        request.set(&[of, name], *text);
    }
    request
}
