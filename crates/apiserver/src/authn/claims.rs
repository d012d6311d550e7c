//! From the claims of a token to a user, as a JWT authenticator's configuration says.

use schema::Value;

use super::service_accounts::CREDENTIAL_ID;
use crate::User;
use crate::admission::expressions::user_info;
use crate::cel::{BUDGET, Cx, Program, Val};

/// Where a field of the user comes from.
#[derive(Debug, Default)]
pub enum Source {
    /// It is not said.
    #[default]
    Nowhere,
    /// A claim, with this before it.
    Claim { name: String, prefix: String },
    /// What a CEL expression makes of the claims.
    Expression(Expression),
}

/// An expression, with how it was written.
#[derive(Debug)]
pub struct Expression {
    pub text: String,
    pub program: Program,
}

/// A rule that must hold, and what is said if it does not.
#[derive(Debug)]
pub struct Rule {
    pub expression: Expression,
    pub message: String,
}

/// What one issuer's claims become.
#[derive(Debug, Default)]
pub struct Mapping {
    pub username: Source,
    pub groups: Source,
    pub uid: Source,
    pub extra: Vec<(String, Expression)>,
    /// Claims and the values that they must have.
    pub required: Vec<(String, String)>,
    pub claim_rules: Vec<Rule>,
    pub user_rules: Vec<Rule>,
}

impl Mapping {
    /// # Errors
    /// What in the claims does not make a user, in upstream's words.
    pub fn user(&self, claims: &Value) -> Result<User, String> {
        let seen = as_expressions_see(claims);
        let mut cx = Cx::new(BUDGET);
        cx.set("claims", (&seen).into());
        let mut user = User { name: self.username(claims, &mut cx)?, ..User::default() };
        let failed = |what: &str, why: String| format!("oidc: error evaluating {what}: {why}");
        user.groups = match &self.groups {
            Source::Claim { name, .. } if claims.member(name).is_none() => Vec::new(),
            Source::Claim { name, prefix } => {
                let groups =
                    texts(&claims[name.as_str()]).map_err(|e| format!("oidc: parse groups claim {name:?}: {e}"))?;
                groups.into_iter().map(|group| format!("{prefix}{group}")).collect()
            }
            Source::Expression(expression) => {
                let value = run(&mut cx, expression).and_then(|value| list(&value));
                value.map_err(|why| failed("group claim expression", why))?
            }
            Source::Nowhere => Vec::new(),
        };
        user.uid = match &self.uid {
            Source::Claim { name, .. } => {
                text(claims, name).map_err(|e| format!("oidc: parse uid claim {name:?}: {e}"))?
            }
            Source::Expression(expression) => {
                run_text(&mut cx, expression, "uid").map_err(|why| failed("uid claim expression", why))?
            }
            Source::Nowhere => String::new(),
        };
        if let Ok(id) = text(claims, "jti").map(|id| format!("JTI={id}")) {
            user.extra.insert(CREDENTIAL_ID.into(), vec![id]);
        }
        for (key, expression) in &self.extra {
            let values = run(&mut cx, expression)?;
            let values =
                list(&values).map_err(|why| failed("extra claim expression", format!("{}: {why}", expression.text)))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (name, wanted) in &self.required {
            if claims.member(name).is_none() {
                return Err(format!("oidc: required claim {name} not present in ID token"));
            }
            let found = text(claims, name).map_err(|e| format!("oidc: parse claim {name}: {e}"))?;
            if found != *wanted {
                return Err(format!(
                    "oidc: required claim {name} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        for rule in &self.claim_rules {
            rule.hold(&mut cx).map_err(|why| failed("claim validation expression", why))?;
        }
        self.check(&user)?;
        Ok(user)
    }

    fn check(&self, user: &User) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let mut info = user_info(user);
        info.set(&["uid"], user.uid.as_str());
        info.make_object(&["extra"]);
        let mut cx = Cx::new(BUDGET);
        cx.set("user", (&info).into());
        let holds = self.user_rules.iter().try_for_each(|rule| rule.hold(&mut cx));
        holds.map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))
    }

    fn username<'v>(&'v self, claims: &Value, cx: &mut Cx<'v>) -> Result<String, String> {
        match &self.username {
            Source::Expression(expression) => {
                let name = run_text(cx, expression, "username")
                    .map_err(|why| format!("oidc: error evaluating username claim expression: {why}"))?;
                match name.is_empty() {
                    true => Err("oidc: empty username via CEL expression is not allowed".into()),
                    false => Ok(name),
                }
            }
            Source::Claim { name, prefix } => {
                let text = text(claims, name).map_err(|why| format!("oidc: parse username claims {name:?}: {why}"))?;
                match claims.member("email_verified") {
                    Some(Value::Bool(true)) | None => {}
                    _ if name != "email" => {}
                    Some(Value::Bool(false) | Value::Null) => return Err("oidc: email not verified".into()),
                    Some(other) => {
                        return Err(format!("oidc: parse 'email_verified' claim: {}", mistyped(other, "bool")));
                    }
                }
                Ok(format!("{prefix}{text}"))
            }
            Source::Nowhere => Err("oidc: no username".into()),
        }
    }
}

impl Rule {
    fn hold<'v>(&'v self, cx: &mut Cx<'v>) -> Result<(), String> {
        match run(cx, &self.expression)? {
            Val::Bool(true) => Ok(()),
            Val::Bool(false) => {
                Err(format!("validation expression '{}' failed: {}", self.expression.text, self.message))
            }
            _ => Err("validation expression must return a boolean".into()),
        }
    }
}

fn run<'v>(cx: &mut Cx<'v>, expression: &'v Expression) -> Result<Val<'v>, String> {
    cx.run(&expression.program).map_err(|why| format!("expression '{}' resulted in error: {why}", expression.text))
}

fn run_text<'v>(cx: &mut Cx<'v>, expression: &'v Expression, what: &str) -> Result<String, String> {
    match run(cx, expression)? {
        Val::String(text) => Ok(text.to_string()),
        _ => Err(format!("{what} claim expression must return a string")),
    }
}

/// A string or a list of them; what is empty is not there.
fn list(value: &Val<'_>) -> Result<Vec<String>, String> {
    const WRONG: &str = "expression must return a string or a list of strings";
    let text = |value: &Val<'_>| value.as_str().map(str::to_owned).map_err(|_| WRONG.to_owned());
    let mut texts = match value {
        Val::Null => Vec::new(),
        Val::String(one) => vec![one.to_string()],
        many => many.items().map_err(|_| WRONG)?.iter().map(|item| text(&item)).collect::<Result<_, _>>()?,
    };
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

fn mistyped(value: &Value, wanted: &str) -> String {
    let found = if value.as_f64().is_some() { "number" } else { value.kind_name() };
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}

fn text(claims: &Value, name: &str) -> Result<String, String> {
    match claims.member(name) {
        None => Err("claim not present".into()),
        Some(Value::Null) => Ok(String::new()),
        Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| mistyped(value, "string")),
    }
}

fn texts(claim: &Value) -> Result<Vec<String>, String> {
    match claim {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => {
            items.iter().map(|i| i.as_str().map(str::to_owned).ok_or_else(|| mistyped(claim, "string"))).collect()
        }
        one => one.as_str().map(|one| vec![one.to_owned()]).ok_or_else(|| mistyped(one, "string")),
    }
}

/// All numbers of JSON are doubles there.
fn as_expressions_see(claims: &Value) -> Value {
    match claims {
        Value::Int(number) => Value::Float(*number as f64),
        Value::List(items) => Value::List(items.iter().map(as_expressions_see).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), as_expressions_see(value))).collect())
        }
        other => other.clone(),
    }
}
