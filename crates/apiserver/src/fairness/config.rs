//! FlowSchemas and PriorityLevelConfigurations as they are applied: which schema a request falls under, and what its
//! level allows.

use schema::Value;

use super::demand::Bounds;
use super::queues::Discipline;
use crate::{Attributes, User, view};

pub const EXEMPT: &str = "exempt";
pub const CATCH_ALL: &str = "catch-all";

/// What a PriorityLevelConfiguration says.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub name: String,
    pub uid: String,
    pub discipline: Discipline,
    shares: i64,
    lendable_percent: i64,
    /// `None`: as much as there is.
    borrowing_percent: Option<i64>,
}

impl Level {
    /// `None` if it contradicts itself, which validation does not let pass.
    pub fn parse(object: &Value) -> Option<Level> {
        let name = view::name(object);
        let is_exempt = object.str_at(&["spec", "type"]) == "Exempt";
        if is_exempt != (name == EXEMPT) {
            return None;
        }
        let spec = &object["spec"][if is_exempt { "exempt" } else { "limited" }];
        let number = |field: &str| spec.i64_at(&["limitResponse", "queuing", field]).and_then(|n| n.try_into().ok());
        let discipline = match spec.str_at(&["limitResponse", "type"]) {
            _ if is_exempt => Discipline::Exempt,
            "Queue" => Discipline::Queue {
                queues: number("queues").filter(|queues| *queues > 0)?,
                hand: number("handSize").filter(|hand| *hand > 0)?,
                length: number("queueLengthLimit")?,
            },
            _ => Discipline::Reject,
        };
        Some(Level {
            name: name.to_owned(),
            uid: object.str_at(&["metadata", "uid"]).to_owned(),
            discipline,
            shares: spec.i64_at(&["nominalConcurrencyShares"]).unwrap_or(if is_exempt { 0 } else { 30 }),
            lendable_percent: spec.i64_at(&["lendablePercent"]).unwrap_or(0),
            borrowing_percent: spec.i64_at(&["borrowingLimitPercent"]).filter(|_| !is_exempt),
        })
    }
}

/// Divides the server's seats among levels.
pub fn bounds(levels: &[&Level], seats: u64) -> Vec<Bounds> {
    let shares: i64 = levels.iter().map(|level| level.shares).sum();
    let of = |level: &&Level| {
        let nominal = (seats as f64 * level.shares as f64 / shares.max(1) as f64).ceil();
        let percent = |percent: i64| (nominal * percent as f64 / 100.0).round() as u64;
        let borrowed = level.borrowing_percent.map_or(seats, percent);
        let nominal = nominal as u64;
        Bounds { nominal, lower: nominal.saturating_sub(percent(level.lendable_percent)), upper: nominal + borrowed }
    };
    levels.iter().map(of).collect()
}

/// The widest that a request of a level may be.
pub fn seats_max(level: &Level, nominal: u64) -> u64 {
    match level.discipline {
        Discipline::Queue { hand, .. } => {
            let part = (nominal as f64 * 0.15).ceil() as u64;
            part.min(nominal / hand as u64).max(1)
        }
        _ => u64::MAX,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

/// What a FlowSchema says.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    precedence: i64,
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Anyone,
    User(String),
    Group(String),
    /// Namespace; name, or all of them.
    ServiceAccount(String, Option<String>),
}

/// Words, of which `*` alone means any.
#[derive(Clone, Debug, PartialEq)]
struct Words(Option<Vec<String>>);

#[derive(Clone, Debug, PartialEq)]
struct ResourceRule {
    verbs: Words,
    groups: Words,
    resources: Words,
    namespaces: Words,
    cluster: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct PathRule {
    verbs: Words,
    paths: Vec<String>,
}

impl Words {
    fn parse(rule: &Value, field: &str) -> Words {
        let words = rule.list_at(&[field]).iter().filter_map(|word| word.as_str());
        let words: Vec<String> = words.map(str::to_owned).collect();
        Words((words != ["*"]).then_some(words))
    }

    fn have(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.0.as_ref().is_none_or(|words| words.iter().any(|word| fits(word)))
    }
}

impl Subject {
    fn parse(subject: &Value) -> Option<Subject> {
        let kind = subject.str_at(&["kind"]);
        let text = |field: &str, of: &str| subject.str_at(&[field, of]).to_owned();
        Some(match kind {
            "User" | "Group" => match (kind, text(&kind.to_ascii_lowercase(), "name")) {
                (_, name) if name == "*" => Subject::Anyone,
                ("User", name) => Subject::User(name),
                (_, name) => Subject::Group(name),
            },
            "ServiceAccount" => {
                let name = Some(text("serviceAccount", "name")).filter(|name| name != "*");
                Subject::ServiceAccount(text("serviceAccount", "namespace"), name)
            }
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::Anyone => true,
            Subject::User(name) => user.name == *name,
            Subject::Group(name) => user.in_group(name),
            Subject::ServiceAccount(namespace, name) => {
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(of, own)| of == namespace && name.as_ref().is_none_or(|name| name == own))
            }
        }
    }
}

impl Rule {
    fn parse(rule: &Value) -> Rule {
        let words = Words::parse;
        let resource = |rule: &Value| ResourceRule {
            verbs: words(rule, "verbs"),
            groups: words(rule, "apiGroups"),
            resources: words(rule, "resources"),
            namespaces: words(rule, "namespaces"),
            cluster: rule.bool_at(&["clusterScope"]),
        };
        let path = |rule: &Value| PathRule {
            verbs: words(rule, "verbs"),
            paths: rule.list_at(&["nonResourceURLs"]).iter().filter_map(|p| p.as_str().map(str::to_owned)).collect(),
        };
        Rule {
            subjects: rule.list_at(&["subjects"]).iter().filter_map(Subject::parse).collect(),
            resources: rule.list_at(&["resourceRules"]).iter().map(resource).collect(),
            paths: rule.list_at(&["nonResourceRules"]).iter().map(path).collect(),
        }
    }

    fn matches(&self, user: &User, info: &Attributes) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if !info.is_resource {
            return self.paths.iter().any(|rule| rule.matches(info));
        }
        self.resources.iter().any(|rule| rule.matches(info))
    }
}

impl ResourceRule {
    fn matches(&self, info: &Attributes) -> bool {
        let is_asked = |word: &str| match word.split_once('/') {
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
            None => word == info.resource && info.subresource.is_empty(),
        };
        self.verbs.have(|word| word == info.verb)
            && self.resources.have(is_asked)
            && self.groups.have(|word| word == info.api_group)
            && if info.namespace.is_empty() {
                self.cluster
            } else {
                self.namespaces.have(|word| word == info.namespace)
            }
    }
}

impl PathRule {
    fn matches(&self, info: &Attributes) -> bool {
        let leads_to = |rule: &String| {
            let below = rule.trim_end_matches('*');
            let rest = info.path.strip_prefix(below.trim_end_matches('/'));
            rule == "*" || *rule == info.path || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.have(|word| word == info.verb) && self.paths.iter().any(leads_to)
    }
}

impl Schema {
    pub fn parse(object: &Value) -> Schema {
        let spec = &object["spec"];
        Schema {
            name: view::name(object).to_owned(),
            uid: object.str_at(&["metadata", "uid"]).to_owned(),
            level: spec.str_at(&["priorityLevelConfiguration", "name"]).to_owned(),
            precedence: spec.i64_at(&["matchingPrecedence"]).unwrap_or(1000),
            distinguisher: match spec.str_at(&["distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: spec.list_at(&["rules"]).iter().map(Rule::parse).collect(),
        }
    }

    pub fn matches(&self, user: &User, info: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// Sorted by this, the first that matches is the one.
    pub fn order(&self) -> (i64, &str) {
        (self.precedence, &self.name)
    }

    /// What tells flows of a schema apart.
    pub fn flow<'a>(&self, user: &'a User, info: &'a Attributes) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }
}

/// The `Dangling` condition that a FlowSchema should have: status, reason and message.
pub fn dangling(level: &str, exists: bool) -> (&'static str, &'static str, String) {
    let named = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    match exists {
        true => ("False", "Found", format!("{named} and it exists")),
        false => ("True", "NotFound", format!("{named} but there is no such object")),
    }
}
