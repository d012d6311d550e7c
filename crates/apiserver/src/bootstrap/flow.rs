//! Priority levels and flow schemas: upstream's mandatory and suggested configuration.

use schema::Value;

use crate::view::{self, Of};

use super::{Action, contains};

pub const LEVELS: Of = Of("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations");
pub const SCHEMAS: Of = Of("flowcontrol.apiserver.k8s.io", "flowschemas");
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, concurrency shares, lendable percent, and queues, hand size and length of a queue; none reject at once.
type Level = (&'static str, i64, i64, Option<(i64, i64, i64)>);

const LIMITED: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

enum Who {
    User(&'static str),
    Group(&'static str),
    /// All service accounts of kube-system.
    SystemAccounts,
}
use Who::{Group, SystemAccounts, User};

/// Verbs, group, resources, and whether objects of no namespace are among them.
type Rule = (&'static [&'static str], &'static str, &'static [&'static str], bool);

/// Which requests.
enum What {
    Everything,
    Resources(&'static [Rule]),
    Paths(&'static [&'static str]),
}

/// Name, priority level, precedence, what tells flows apart, whose requests, and which.
type Schema = (&'static str, &'static str, i64, &'static str, &'static [Who], What);

const ANYONE: &[Who] = &[Group("system:unauthenticated"), Group("system:authenticated")];
const NODES: &[Who] = &[Group("system:nodes")];
const MANAGER: Who = User("system:kube-controller-manager");
const SCHEDULER: Who = User("system:kube-scheduler");
const ELECTED: &[Who] = &[MANAGER, SCHEDULER, SystemAccounts];
const ANY: &[&str] = &["*"];
const NODES_OWN: &[Rule] =
    &[(ANY, "", &["nodes", "nodes/status"], true), (ANY, "coordination.k8s.io", &["leases"], false)];
const ELECTIONS: &[Rule] = &[(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)];

const SCHEMA_ROWS: [Schema; 11] = [
    ("exempt", "exempt", 1, "", &[Group("system:masters")], What::Everything),
    ("catch-all", "catch-all", 10000, "ByUser", ANYONE, What::Everything),
    ("system-nodes", "system", 500, "ByUser", NODES, What::Everything),
    ("system-node-high", "node-high", 400, "ByUser", NODES, What::Resources(NODES_OWN)),
    ("probes", "exempt", 2, "", ANYONE, What::Paths(&["/healthz", "/readyz", "/livez"])),
    ("system-leader-election", "leader-election", 100, "ByUser", ELECTED, What::Resources(ELECTIONS)),
    ("kube-controller-manager", "workload-high", 800, "ByNamespace", &[MANAGER], What::Everything),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &[SCHEDULER], What::Everything),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[SystemAccounts], What::Everything),
    ("service-accounts", "workload-low", 9000, "ByUser", &[Group("system:serviceaccounts")], What::Everything),
    ("global-default", "global-default", 9900, "ByUser", ANYONE, What::Everything),
];

pub fn objects() -> Vec<(Of, Value)> {
    let exempt = Value::object([
        ("type", "Exempt".into()),
        ("exempt", Value::object([("nominalConcurrencyShares", 0.into()), ("lendablePercent", 0.into())])),
    ]);
    let mut all = vec![(LEVELS, object("PriorityLevelConfiguration", "exempt", exempt))];
    all.extend(LIMITED.iter().map(|row| (LEVELS, object("PriorityLevelConfiguration", row.0, limited(row)))));
    all.extend(SCHEMA_ROWS.iter().map(|row| (SCHEMAS, object("FlowSchema", row.0, schema(row)))));
    all
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = Value::object([
        ("apiVersion", "flowcontrol.apiserver.k8s.io/v1".into()),
        ("kind", kind.into()),
        ("spec", spec),
    ]);
    object.set(&["metadata", "name"], name);
    object.set(&["metadata", "annotations", AUTOUPDATE], "true");
    object
}

fn limited(&(_, shares, lendable, queuing): &Level) -> Value {
    let mut limited =
        Value::object([("nominalConcurrencyShares", shares.into()), ("lendablePercent", lendable.into())]);
    limited.set(&["limitResponse", "type"], if queuing.is_some() { "Queue" } else { "Reject" });
    if let Some((queues, hand, length)) = queuing {
        let members = [("queues", queues.into()), ("handSize", hand.into()), ("queueLengthLimit", length.into())];
        limited.set(&["limitResponse", "queuing"], Value::object(members));
    }
    Value::object([("type", "Limited".into()), ("limited", limited)])
}

fn schema((_, level, precedence, by, who, what): &Schema) -> Value {
    let mut spec = Value::object([("matchingPrecedence", (*precedence).into())]);
    spec.set(&["priorityLevelConfiguration", "name"], *level);
    if !by.is_empty() {
        spec.set(&["distinguisherMethod", "type"], *by);
    }
    let named = |kind: &str, field: &str, name: &str| {
        Value::object([("kind", kind.into()), (field, Value::object([("name", name.into())]))])
    };
    let subjects = who.iter().map(|who| match who {
        User(name) => named("User", "user", name),
        Group(name) => named("Group", "group", name),
        SystemAccounts => {
            let mut subject = named("ServiceAccount", "serviceAccount", "*");
            subject.set(&["serviceAccount", "namespace"], "kube-system");
            subject
        }
    });
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = Value::object([
            ("verbs", Value::list(verbs.iter().copied())),
            ("apiGroups", Value::list([group])),
            ("resources", Value::list(resources.iter().copied())),
            ("namespaces", Value::list(["*"])),
        ]);
        if cluster {
            rule.set(&["clusterScope"], true);
        }
        rule
    };
    let paths = |verb: &str, paths: &[&str]| {
        Value::object([("verbs", Value::list([verb])), ("nonResourceURLs", Value::list(paths.iter().copied()))])
    };
    let mut rule = Value::object([("subjects", Value::list(subjects))]);
    match what {
        What::Everything => {
            rule.set(&["resourceRules"], Value::list([resources(ANY, "*", ANY, true)]));
            rule.set(&["nonResourceRules"], Value::list([paths("*", ANY)]));
        }
        What::Resources(rows) => {
            rule.set(&["resourceRules"], Value::list(rows.iter().map(|(v, g, r, c)| resources(v, g, r, *c))));
        }
        What::Paths(urls) => rule.set(&["nonResourceRules"], Value::list([paths("get", urls)])),
    }
    spec.set(&["rules"], Value::list([rule]));
    spec
}

/// Mandatory objects are always as they should be; suggested ones only while nobody took them over.
pub fn reconcile(of: Of, expected: &Value, stored: Option<&Value>) -> Vec<Action> {
    let Some(stored) = stored else { return vec![Action::Create(of, expected.clone())] };
    let is_mandatory = matches!(view::name(expected), "exempt" | "catch-all");
    let is_ours = match view::annotation(stored, AUTOUPDATE) {
        Some(text) => text == "true",
        None => stored.i64_at(&["metadata", "generation"]) == Some(1),
    };
    // Of the exempt level, an operator may set how much it lends.
    let is_free = view::name(expected) == "exempt" && of == LEVELS;
    if !(is_mandatory || is_ours) || is_free || contains(&stored["spec"], &expected["spec"]) {
        return Vec::new();
    }
    let mut wanted = stored.clone();
    wanted.set(&["spec"], expected["spec"].clone());
    vec![Action::Update(of, wanted)]
}
