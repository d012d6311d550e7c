//! Flow schemas and priority levels.

use super::Check;
use crate::Value;
use crate::validate::names;

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn verbs(c: &mut Check<'_>, path: &str, rule: &Value) {
    let list = rule.list_at(&["verbs"]);
    if !list.iter().any(|verb| verb.as_str() == Some("*"))
        && list.iter().any(|verb| !VERBS.contains(&verb.as_str().unwrap_or_default()))
    {
        c.not_supported(&format!("{path}.verbs"), rule["verbs"].clone(), &VERBS);
    }
}

pub fn flow_schema(c: &mut Check<'_>) {
    let value = c.value;
    let method = &value["distinguisherMethod"];
    const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];
    if !method.is_null() && !METHODS.contains(&method.str_at(&["type"])) {
        c.not_supported("distinguisherMethod.type", method.clone(), &METHODS);
    }
    for (i, rule) in value.list_at(&["rules"]).iter().enumerate() {
        for (j, subject) in rule.list_at(&["subjects"]).iter().enumerate() {
            let path = format!("rules[{i}].subjects[{j}]");
            const KINDS: [(&str, &str); 3] =
                [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
            let kind = subject.str_at(&["kind"]);
            match KINDS.iter().find(|(known, _)| *known == kind) {
                None => c.not_supported(&format!("{path}.kind"), kind, &KINDS.map(|(kind, _)| kind)),
                Some((_, own)) if subject[*own].is_null() => {
                    let detail = format!("{own} is required when subject kind is '{kind}'");
                    c.required(&format!("{path}.{own}"), &detail);
                }
                Some((_, own)) => {
                    for (_, other) in KINDS.iter().filter(|(_, other)| other != own && !subject[*other].is_null()) {
                        let detail = format!("{other} is forbidden when subject kind is not '{kind}'");
                        c.forbidden(&format!("{path}.{other}"), &detail);
                    }
                    let name = subject.str_at(&[own, "name"]);
                    if kind == "ServiceAccount" && !name.is_empty() && name != "*" {
                        c.problems(&format!("{path}.{own}.name"), name, names::dns1123_subdomain(name));
                    }
                }
            }
        }
        let (resources, paths) = (rule.list_at(&["resourceRules"]), rule.list_at(&["nonResourceRules"]));
        if resources.is_empty() && paths.is_empty() {
            let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
            c.required(&format!("rules[{i}]"), detail);
        }
        for (j, resource) in resources.iter().enumerate() {
            let at = format!("rules[{i}].resourceRules[{j}]");
            verbs(c, &at, resource);
            if resource["namespaces"].is_empty() && !resource.bool_at(&["clusterScope"]) {
                let detail = "resource rules that are not cluster scoped must supply at least one namespace";
                c.required(&format!("{at}.namespaces"), detail);
            }
        }
        for (j, path) in paths.iter().enumerate() {
            let at = format!("rules[{i}].nonResourceRules[{j}]");
            verbs(c, &at, path);
            for (k, url) in path.list_at(&["nonResourceURLs"]).iter().filter_map(Value::as_str).enumerate() {
                let at = format!("{at}.nonResourceURLs[{k}]");
                match url {
                    "" => c.invalid(&at, url, "must not be empty"),
                    "*" => {}
                    _ if !url.starts_with('/') => c.invalid(&at, url, "must start with slash"),
                    _ => {}
                }
            }
        }
    }
}

/// `*` or a namespace.
pub fn flow_namespace(c: &mut Check<'_>) {
    let name = c.value.as_str().unwrap_or_default();
    if name != "*" {
        let problems = names::dns1123_label(name);
        let problems =
            problems.iter().map(|p| format!("each member of this list must be '*' or a DNS-1123 label; {p}"));
        c.problems("", name, problems.collect());
    }
}

/// A member belongs to one type, and only to it.
fn belongs(c: &mut Check<'_>, member: &str, ty: &str) {
    match (c.text("type") == ty, c.has(member)) {
        (true, false) => c.required(member, ""),
        (false, true) => c.forbidden(member, ""),
        _ => {}
    }
}

pub fn priority_level(c: &mut Check<'_>) {
    belongs(c, "limited", "Limited");
    if c.text("type").is_empty() {
        c.required("type", "");
    }
}

pub fn limit_response(c: &mut Check<'_>) {
    belongs(c, "queuing", "Queue");
    if c.text("type").is_empty() {
        c.required("type", "");
    }
}

pub fn queuing(c: &mut Check<'_>) {
    let at = |name| c.value.i64_at(&[name]).unwrap_or(0);
    let (queues, hand, length) = (at("queues"), at("handSize"), at("queueLengthLimit"));
    const QUEUES_MAX: i64 = 10_000_000;
    const ENTROPY_BITS_MAX: f64 = 60.0;
    if queues <= 0 {
        c.invalid("queues", queues, "must be positive");
    } else if queues > QUEUES_MAX {
        c.invalid("queues", queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    // What it takes to deal a hand: the bits of queues × (queues - 1) × …
    let bits = |hand: i64| (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum::<f64>().ceil();
    if hand <= 0 {
        c.invalid("handSize", hand, "must be positive");
    } else if hand > queues {
        c.invalid("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if bits(hand) > ENTROPY_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {ENTROPY_BITS_MAX}"
        );
        c.invalid("handSize", hand, detail);
    }
    if length <= 0 {
        c.invalid("queueLengthLimit", length, "must be positive");
    }
}
