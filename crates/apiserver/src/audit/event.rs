//! One event in the forms that leave the server.

use schema::{Object, Value, json, time};

use super::Level;

/// `audit.k8s.io/v1` Event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub level: Level,
    members: Object,
}

/// The order in which upstream writes them.
const ORDER: [&str; 19] = [
    "kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser",
    "authenticationMetadata", "sourceIPs", "userAgent", "objectRef", "responseStatus", "requestObject",
    "responseObject", "requestReceivedTimestamp", "stageTimestamp", "annotations",
];

impl Event {
    pub(super) fn new(level: Level, mut members: Object) -> Event {
        let head = [("kind", "Event"), ("apiVersion", "audit.k8s.io/v1"), ("level", level.name())];
        members.extend(head.map(|(name, text)| (name.to_owned(), text.into())));
        Event { level, members }
    }

    pub fn value(&self) -> Value {
        Value::Object(self.members.clone())
    }

    /// Without a line's end.
    pub fn json(&self) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (name, value) in ORDER.iter().filter_map(|name| Some((name, self.members.get(name)?))) {
            if out.len() > 1 {
                out.push(b',');
            }
            json::write_string(name.as_bytes(), &mut out);
            out.push(b':');
            json::encode_untyped(value, &mut out);
        }
        out.push(b'}');
        out
    }

    /// The one line of `--audit-log-format=legacy`.
    pub fn legacy(&self) -> String {
        let get = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            self.members.get(first)?.get(rest)
        };
        let text = |path: &[&str], missing: &str| match get(path).and_then(Value::as_str) {
            None | Some("") => missing.to_owned(),
            Some(text) => text.to_owned(),
        };
        let list = |path: &[&str], missing: &str| {
            let items = get(path).and_then(Value::as_list).filter(|items| !items.is_empty());
            let Some(items) = items else { return missing.to_owned() };
            items.iter().map(|item| format!("{:?}", item.as_str().unwrap_or(""))).collect::<Vec<_>>().join(",")
        };
        let received = text(&["requestReceivedTimestamp"], "");
        let received = time::parse(&received).map_or(received, |(seconds, nanos)| match nanos {
            0 => time::format(seconds),
            _ => format!("{}Z", time::format_micro(seconds, nanos).trim_end_matches('Z').trim_end_matches('0')),
        });
        let ip = get(&["sourceIPs"]).and_then(|ips| ips.as_list()?.first()?.as_str()).unwrap_or("<unknown>");
        let response = get(&["responseStatus", "code"]).map_or("<deferred>".to_owned(), Value::to_string);
        format!(
            "{received} AUDIT: id={:?} stage={:?} ip={ip:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response=\"{response}\"",
            text(&["auditID"], ""),
            text(&["stage"], ""),
            text(&["verb"], ""),
            text(&["user", "username"], "<none>"),
            list(&["user", "groups"], "<none>"),
            text(&["impersonatedUser", "username"], "<self>"),
            list(&["impersonatedUser", "groups"], "<lookup>"),
            text(&["userAgent"], ""),
            text(&["objectRef", "namespace"], "<none>"),
            text(&["requestURI"], ""),
        )
    }

    /// The same without its objects, and with a mark that they were left out.
    pub fn truncated(&self) -> Event {
        let mut members = self.members.clone();
        members.remove("requestObject");
        members.remove("responseObject");
        let annotations = members.entry("annotations").or_insert_with(|| Value::Object(Object::new()));
        annotations.set(&["audit.k8s.io/truncated"], "true");
        Event { level: self.level, members }
    }
}
