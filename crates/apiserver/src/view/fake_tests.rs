//! A view of objects written as YAML.

use std::sync::Mutex;

use super::*;

#[derive(Default)]
pub struct Fake {
    objects: Mutex<Vec<(Of, Arc<Value>)>>,
    changes: Mutex<Vec<(Of, Changed)>>,
}

impl Fake {
    pub fn put(&self, of: Of, object: Value) {
        let new = Arc::new(object);
        let old = self.take(of, namespace(&new), super::name(&new));
        self.objects.lock().unwrap().push((of, new.clone()));
        self.changes.lock().unwrap().push((of, Changed { old, new: Some(new) }));
    }

    pub fn delete(&self, of: Of, namespace: &str, name: &str) {
        let old = self.take(of, namespace, name);
        self.changes.lock().unwrap().push((of, Changed { old, new: None }));
    }

    fn take(&self, of: Of, ns: &str, name: &str) -> Option<Arc<Value>> {
        let mut objects = self.objects.lock().unwrap();
        let at = objects.iter().position(|(o, v)| *o == of && super::name(v) == name && namespace(v) == ns)?;
        Some(objects.remove(at).1)
    }
}

impl View for Fake {
    fn get(&self, of: Of, ns: &str, name: &str) -> Option<Arc<Value>> {
        self.list(of, ns).into_iter().find(|v| super::name(v) == name && namespace(v) == ns)
    }

    fn each(&self, of: Of, ns: &str, visit: &mut dyn FnMut(&Arc<Value>)) -> u64 {
        for (_, value) in self.objects.lock().unwrap().iter().filter(|(o, _)| *o == of) {
            if ns.is_empty() || namespace(value) == ns {
                visit(value);
            }
        }
        self.revision(of)
    }

    fn revision(&self, _: Of) -> u64 {
        self.changes.lock().unwrap().len() as u64
    }

    fn changes(&self, of: Of, after: u64) -> Option<(Vec<Changed>, u64)> {
        let changes = self.changes.lock().unwrap();
        let of_kind = changes[after as usize..].iter().filter(|(o, _)| *o == of).map(|(_, c)| c.clone());
        Some((of_kind.collect(), changes.len() as u64))
    }
}

/// JSON, for objects in tests.
pub fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap()), Value::Int),
        serde_json::Value::String(s) => Value::String(s),
        serde_json::Value::Array(a) => Value::List(a.into_iter().map(value).collect()),
        serde_json::Value::Object(o) => Value::Object(o.into_iter().map(|(k, v)| (k, value(v))).collect()),
    }
}
