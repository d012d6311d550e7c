//! `--authentication-config`: an AuthenticationConfiguration, checked as upstream does and made into authenticators.

use std::collections::BTreeSet;

use schema::Value;
use schema::validate::FieldError;

use super::claims::{Expression, Mapping, Rule, Source};
use super::impersonation::domain_prefixed_path;
use super::oidc::{Issuer, Keys};
use crate::cel::{Env, Program, Type};
use crate::configuration::{self, Fields, Shape};

const CLAIM: Shape = Shape::Object(&[("claim", Shape::Text), ("prefix", Shape::Text), ("expression", Shape::Text)]);
const JWT: Fields = &[
    (
        "issuer",
        Shape::Object(&[
            ("url", Shape::Text),
            ("discoveryURL", Shape::Text),
            ("certificateAuthority", Shape::Text),
            ("audiences", Shape::Texts),
            ("audienceMatchPolicy", Shape::Text),
            ("egressSelectorType", Shape::Text),
        ]),
    ),
    (
        "claimValidationRules",
        Shape::Objects(&[
            ("claim", Shape::Text),
            ("requiredValue", Shape::Text),
            ("expression", Shape::Text),
            ("message", Shape::Text),
        ]),
    ),
    (
        "claimMappings",
        Shape::Object(&[
            ("username", CLAIM),
            ("groups", CLAIM),
            ("uid", Shape::Object(&[("claim", Shape::Text), ("expression", Shape::Text)])),
            ("extra", Shape::Objects(&[("key", Shape::Text), ("valueExpression", Shape::Text)])),
        ]),
    ),
    ("userValidationRules", Shape::Objects(&[("expression", Shape::Text), ("message", Shape::Text)])),
];
const FIELDS: Fields = &[
    ("jwt", Shape::Objects(JWT)),
    ("anonymous", Shape::Object(&[("enabled", Shape::Flag), ("conditions", Shape::Objects(&[("path", Shape::Text)]))])),
];

const ISSUERS_MAX: usize = 64;

/// Whom a request without credentials is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Nobody,
    Everywhere,
    /// At these paths only.
    At(Vec<String>),
}

impl Anonymous {
    pub fn is_allowed_at(&self, path: &str) -> bool {
        match self {
            Anonymous::Nobody => false,
            Anonymous::Everywhere => true,
            Anonymous::At(paths) => paths.iter().any(|allowed| allowed == path),
        }
    }
}

/// What a file says.
pub struct Configuration {
    pub issuers: Vec<Issuer>,
    /// If it says so.
    pub anonymous: Option<Anonymous>,
}

/// Reads a file. `own` are the issuers of service accounts' tokens, which nobody else may be.
///
/// # Errors
/// Everything that is wrong with it, each with its field.
pub fn parse(text: &str, own: &[String], algorithms: &[String]) -> Result<Configuration, Vec<String>> {
    let file = configuration::parse(text, "AuthenticationConfiguration", FIELDS)?;
    let (issuers, mut errors) = issuers(file.list_at(&["jwt"]), own, algorithms);
    let anonymous = &file["anonymous"];
    let enabled = anonymous.bool_at(&["enabled"]);
    let conditions = anonymous.list_at(&["conditions"]);
    if !enabled && !conditions.is_empty() {
        let why = "enabled should be set to true when conditions are defined";
        errors.push(FieldError::invalid("anonymous.conditions", Value::List(conditions.to_vec()), why));
    }
    if !errors.is_empty() {
        return Err(errors.iter().map(ToString::to_string).collect());
    }
    let paths: Vec<String> = conditions.iter().map(|condition| condition.str_at(&["path"]).to_owned()).collect();
    let anonymous = match (anonymous.is_null(), enabled) {
        (true, _) => None,
        (false, false) => Some(Anonymous::Nobody),
        (false, true) if paths.is_empty() => Some(Anonymous::Everywhere),
        (false, true) => Some(Anonymous::At(paths)),
    };
    Ok(Configuration { issuers, anonymous })
}

/// The issuers of `jwt`, and what is wrong with them.
pub fn issuers(list: &[Value], own: &[String], algorithms: &[String]) -> (Vec<Issuer>, Vec<FieldError>) {
    if list.len() > ISSUERS_MAX {
        return (Vec::new(), vec![FieldError::too_many("jwt", list.len(), ISSUERS_MAX)]);
    }
    let mut errors = Vec::new();
    let (mut urls, mut discovery_urls) = (BTreeSet::new(), BTreeSet::new());
    let mut issuers = Vec::new();
    for (at, jwt) in list.iter().enumerate() {
        let path = format!("jwt[{at}]");
        let mut reader = Reader { errors: &mut errors, claims: env("claims"), user: env("user") };
        issuers.push(reader.issuer(jwt, &path, own, algorithms));
        let url = jwt.str_at(&["issuer", "url"]);
        if !urls.insert(url) {
            errors.push(FieldError::duplicate(format!("{path}.issuer.url"), url));
        }
        let url = jwt.str_at(&["issuer", "discoveryURL"]);
        if !url.is_empty() && !discovery_urls.insert(url) {
            errors.push(FieldError::duplicate(format!("{path}.issuer.discoveryURL"), url));
        }
    }
    (issuers, errors)
}

fn env(variable: &'static str) -> Env {
    Env::new([(variable, if variable == "user" { Type::user_info() } else { Type::map(Type::String, Type::Dyn) })])
}

struct Reader<'a> {
    errors: &'a mut Vec<FieldError>,
    claims: Env,
    user: Env,
}

impl Reader<'_> {
    fn issuer(&mut self, jwt: &Value, path: &str, own: &[String], algorithms: &[String]) -> Issuer {
        let issuer = &jwt["issuer"];
        let at = |field: &str| format!("{path}.issuer.{field}");
        let text = |field: &str| issuer.str_at(&[field]).to_owned();
        let (url, discovery_url, ca_pem) = (text("url"), text("discoveryURL"), text("certificateAuthority"));
        if url.is_empty() {
            self.errors.push(FieldError::required(at("url"), ""));
        } else {
            if own.contains(&url) {
                let own = own.iter().collect::<BTreeSet<_>>().into_iter().map(String::as_str).collect::<Vec<_>>();
                let why = format!("URL must not overlap with disallowed issuers: [{}]", own.join(" "));
                self.errors.push(FieldError::invalid(at("url"), url.as_str(), why));
            }
            self.url(&url, &at("url"));
        }
        if !discovery_url.is_empty() {
            if !url.is_empty() && url.trim_end_matches('/') == discovery_url.trim_end_matches('/') {
                let why = "discoveryURL must be different from URL";
                self.errors.push(FieldError::invalid(at("discoveryURL"), discovery_url.as_str(), why));
            }
            self.url(&discovery_url, &at("discoveryURL"));
        }
        let audiences = self.audiences(issuer, &at);
        if !ca_pem.is_empty() && !pki::Certificate::all_from_pem(&ca_pem).is_ok_and(|all| !all.is_empty()) {
            let why = "data does not contain any valid RSA or ECDSA certificates";
            self.errors.push(FieldError::invalid(at("certificateAuthority"), "<omitted>", why));
        }
        let egress = text("egressSelectorType");
        if !egress.is_empty() {
            let why = "there are no egress selectors here";
            self.errors.push(FieldError::invalid(at("egressSelectorType"), egress, why));
        }
        let mut mapping = Mapping::default();
        self.claim_rules(jwt.list_at(&["claimValidationRules"]), &format!("{path}.claimValidationRules"), &mut mapping);
        self.mappings(&jwt["claimMappings"], &format!("{path}.claimMappings"), &mut mapping);
        mapping.user_rules =
            self.user_rules(jwt.list_at(&["userValidationRules"]), &format!("{path}.userValidationRules"));
        Issuer {
            url,
            discovery_url,
            ca_pem,
            audiences,
            algorithms: algorithms.to_vec(),
            mapping,
            keys: Keys::default(),
        }
    }

    fn url(&mut self, url: &str, field: &str) {
        let mut wrong = |why: &str| self.errors.push(FieldError::invalid(field, url, why));
        if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return wrong(&format!("parse {url:?}: net/url: invalid character in URL"));
        }
        let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
        if scheme != "https" {
            wrong("URL scheme must be https");
        }
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
            wrong("URL must not contain a username or password");
        }
        if !query.is_empty() {
            wrong("URL must not contain a query");
        }
        if !fragment.is_empty() {
            wrong("URL must not contain a fragment");
        }
    }

    fn audiences(&mut self, issuer: &Value, at: &dyn Fn(&str) -> String) -> Vec<String> {
        let (field, policy) = (at("audiences"), issuer.str_at(&["audienceMatchPolicy"]));
        let list = issuer.list_at(&["audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned));
        let audiences: Vec<String> = list.collect();
        if audiences.is_empty() {
            self.errors.push(FieldError::required(&field, format!("at least one {field} is required")));
            return audiences;
        }
        for (i, audience) in audiences.iter().enumerate() {
            if audience.is_empty() {
                self.errors.push(FieldError::required(format!("{field}[{i}]"), ""));
            }
            if audiences[..i].contains(audience) {
                self.errors.push(FieldError::duplicate(format!("{field}[{i}]"), audience.as_str()));
            }
        }
        let why = match (audiences.len(), policy) {
            (_, "MatchAny") | (1, "") => return audiences,
            (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
            _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
        };
        self.errors.push(FieldError::invalid(at("audienceMatchPolicy"), policy, why));
        audiences
    }

    fn compile(&mut self, text: &str, of_user: bool, is_rule: bool, field: String) -> Option<Expression> {
        let env = if of_user { &self.user } else { &self.claims };
        let compiled = Program::compile(text, env).map_err(|e| format!("compilation failed: {e}"));
        match compiled {
            Ok(program) if !is_rule || program.ty == Type::Bool => {
                Some(Expression { text: text.to_owned(), program: program.with_unescaped_fields() })
            }
            Ok(_) => self.invalid(field, text, "must evaluate to bool"),
            Err(why) => self.invalid(field, text, &why),
        }
    }

    fn invalid<T>(&mut self, field: String, value: &str, why: &str) -> Option<T> {
        self.errors.push(FieldError::invalid(field, value, why));
        None
    }

    fn claim_rules(&mut self, rules: &[Value], path: &str, mapping: &mut Mapping) {
        let mut expressions = BTreeSet::new();
        for (i, rule) in rules.iter().enumerate() {
            let at = |field: &str| format!("{path}[{i}].{field}");
            let text = |field: &str| rule.str_at(&[field]);
            match (text("claim"), text("expression")) {
                ("", "") => {
                    self.errors.push(FieldError::required(format!("{path}[{i}]"), "claim or expression is required"))
                }
                (claim, "") => {
                    if !text("message").is_empty() {
                        let why = "may not be specified when claim is set";
                        self.errors.push(FieldError::invalid(at("message"), text("message"), why));
                    }
                    if mapping.required.iter().any(|(known, _)| known == claim) {
                        self.errors.push(FieldError::duplicate(at("claim"), claim));
                    }
                    mapping.required.push((claim.to_owned(), text("requiredValue").to_owned()));
                }
                ("", expression) => {
                    if !text("requiredValue").is_empty() {
                        let why = "may not be specified when expression is set";
                        self.errors.push(FieldError::invalid(at("requiredValue"), text("requiredValue"), why));
                    }
                    if !expressions.insert(expression) {
                        self.errors.push(FieldError::duplicate(at("expression"), expression));
                        continue;
                    }
                    let compiled = self.compile(expression, false, true, at("expression"));
                    let message = text("message").to_owned();
                    mapping.claim_rules.extend(compiled.map(|expression| Rule { expression, message }));
                }
                (claim, _) => {
                    let why = "claim and expression can't both be set";
                    self.errors.push(FieldError::invalid(format!("{path}[{i}]"), claim, why));
                }
            }
        }
    }

    fn user_rules(&mut self, rules: &[Value], path: &str) -> Vec<Rule> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            let (field, text) = (format!("{path}[{i}].expression"), rule.str_at(&["expression"]));
            if text.is_empty() {
                self.errors.push(FieldError::required(field, ""));
            } else if !seen.insert(text) {
                self.errors.push(FieldError::duplicate(field, text));
            } else if let Some(expression) = self.compile(text, true, true, field) {
                out.push(Rule { expression, message: rule.str_at(&["message"]).to_owned() });
            }
        }
        out
    }

    fn mappings(&mut self, mappings: &Value, path: &str, mapping: &mut Mapping) {
        mapping.username = self.source(&mappings["username"], &format!("{path}.username"), true);
        mapping.groups = self.source(&mappings["groups"], &format!("{path}.groups"), false);
        let uid = &mappings["uid"];
        mapping.uid = match (uid.str_at(&["claim"]), uid.str_at(&["expression"])) {
            ("", "") => Source::Nowhere,
            (claim, "") => Source::Claim { name: claim.to_owned(), prefix: String::new() },
            ("", expression) => {
                let compiled = self.compile(expression, false, false, format!("{path}.uid.expression"));
                compiled.map_or(Source::Nowhere, Source::Expression)
            }
            _ => self.invalid(format!("{path}.uid"), "", "claim and expression can't both be set").unwrap_or_default(),
        };
        let mut keys = BTreeSet::new();
        for (i, extra) in mappings.list_at(&["extra"]).iter().enumerate() {
            let (key, text) = (extra.str_at(&["key"]), extra.str_at(&["valueExpression"]));
            let at = |field: &str| format!("{path}.extra[{i}].{field}");
            self.errors.extend(domain_prefixed_path(&at("key"), key));
            if key != key.to_lowercase() {
                self.errors.push(FieldError::invalid(at("key"), key, "must be lowercase"));
            }
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            let is_below = |root: &str| domain == root || domain.ends_with(&format!(".{root}"));
            if is_below("kubernetes.io") || is_below("k8s.io") {
                let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
                self.errors.push(FieldError::invalid(at("key"), key, why));
            }
            if !keys.insert(key) {
                self.errors.push(FieldError::duplicate(at("key"), key));
            } else if text.is_empty() {
                self.errors.push(FieldError::required(at("valueExpression"), ""));
            } else if let Some(compiled) = self.compile(text, false, false, at("valueExpression")) {
                mapping.extra.push((key.to_owned(), compiled));
            }
        }
        let Source::Expression(username) = &mapping.username else { return };
        let looks = |expression: &Expression| expression.program.reads("claims", "email_verified");
        let rules = mapping.claim_rules.iter().map(|rule| &rule.expression);
        let checked = looks(username) || mapping.extra.iter().map(|(_, e)| e).chain(rules).any(looks);
        if username.program.reads("claims", "email") && !checked {
            let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            let text = username.text.clone();
            self.errors.push(FieldError::invalid(format!("{path}.username.expression"), text, why));
        }
    }

    fn source(&mut self, source: &Value, path: &str, required: bool) -> Source {
        let prefix = source["prefix"].as_str();
        match (source.str_at(&["claim"]), source.str_at(&["expression"])) {
            ("", "") => {
                if required {
                    self.errors.push(FieldError::required(path, "claim or expression is required"));
                }
                Source::Nowhere
            }
            (claim, "") => {
                if prefix.is_none() {
                    let why =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.errors.push(FieldError::required(format!("{path}.prefix"), why));
                }
                Source::Claim { name: claim.to_owned(), prefix: prefix.unwrap_or_default().to_owned() }
            }
            ("", expression) => {
                if let Some(prefix) = prefix {
                    let why = "may not be specified when expression is set";
                    self.errors.push(FieldError::invalid(format!("{path}.prefix"), prefix, why));
                }
                let compiled = self.compile(expression, false, false, format!("{path}.expression"));
                compiled.map_or(Source::Nowhere, Source::Expression)
            }
            _ => self.invalid(path.to_owned(), "", "claim and expression can't both be set").unwrap_or_default(),
        }
    }
}
