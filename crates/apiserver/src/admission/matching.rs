//! Which requests a webhook or a policy is about (rules, namespaces and labels), and in which version of its resource
//! it sees them.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use schema::{MessageId, Value, defaults, json, selector::LabelSelector};

use super::AdmissionRequest;
use crate::call::{settled, unconvertible};
use crate::kind::{Kind, builtin, split_api_version};
use crate::{Server, Status};

pub const GROUP: &str = "admissionregistration.k8s.io";

/// What rules and selectors look at, of one request.
pub struct Subject<'a> {
    server: &'a Server,
    request: &'a AdmissionRequest,
    /// `None`: it is in no namespace.
    namespace_labels: OnceCell<Option<Value>>,
    others: OnceCell<Vec<Arc<Kind>>>,
}

impl<'a> Subject<'a> {
    /// `None`: what guards the guards is not asked about them.
    pub fn new(server: &'a Server, request: &'a AdmissionRequest) -> Option<Subject<'a>> {
        let (namespace_labels, others) = (OnceCell::new(), OnceCell::new());
        (request.group != GROUP).then_some(Subject { server, request, namespace_labels, others })
    }

    fn namespace_labels(&self) -> Option<&Value> {
        let request = self.request;
        let labels = || {
            if request.is("", "namespaces") {
                let object = if request.object.is_null() { request.old.as_deref() } else { Some(&request.object) };
                object.map(|o| o["metadata"]["labels"].clone())
            } else if request.namespace.is_empty() {
                None
            } else {
                let namespace = self.server.read("", "namespaces", "", &request.namespace);
                namespace.map(|n| n["metadata"]["labels"].clone())
            }
        };
        self.namespace_labels.get_or_init(labels).as_ref()
    }

    /// The form in which a webhook (`rules`) or a policy's constraints (`resourceRules` and `excludeResourceRules`) take
    /// the request; `None`: they do not.
    pub fn matched(&self, by: &Value, rules: &str) -> Option<Form> {
        let equivalent = by.str_at(&["matchPolicy"]) != "Exact";
        let named = by.list_at(&[rules]);
        // A binding without rules is about all that its policy is about.
        let is_all = named.is_empty() && rules == "resourceRules";
        let form = if is_all { Form::Own } else { self.form(named, equivalent)? };
        let is_excluded = self.form(by.list_at(&["excludeResourceRules"]), equivalent).is_some();
        (!is_excluded && self.is_selected(by)).then_some(form)
    }

    /// The first rule that is about the request itself, or about another version of the same objects.
    fn form(&self, rules: &[Value], equivalent: bool) -> Option<Form> {
        let request = self.request;
        if rules.iter().any(|rule| covers(rule, request, &request.group, &request.version, &request.resource)) {
            return Some(Form::Own);
        }
        if !equivalent || rules.is_empty() {
            return None;
        }
        let others = self.others.get_or_init(|| others(self.server, request));
        let form = |rule: &Value| {
            let covers = |kind: &&Arc<Kind>| {
                let r = &kind.resource;
                covers(rule, request, &r.group, &r.version, &r.plural)
            };
            others.iter().find(covers).map(|kind| Form::Of(kind.clone()))
        };
        rules.iter().find_map(form)
    }

    /// `namespaceSelector` and `objectSelector`.
    fn is_selected(&self, by: &Value) -> bool {
        let is_empty =
            |selector: &Value| ["matchLabels", "matchExpressions"].iter().all(|field| selector[*field].is_empty());
        let (of_namespace, selector) = (&by["namespaceSelector"], &by["objectSelector"]);
        if !is_empty(of_namespace) && self.namespace_labels().is_some_and(|labels| !selects(of_namespace, labels)) {
            return false;
        }
        if is_empty(selector) {
            return true;
        }
        // What is not there has no labels that could be wrong, and is not selected either.
        let is_selected =
            |object: &Value| !object["metadata"].is_null() && selects(selector, &object["metadata"]["labels"]);
        is_selected(&self.request.object) || self.request.old.as_deref().is_some_and(is_selected)
    }
}

/// The other served resources that are the same objects, with the request's subresource.
fn others(server: &Server, request: &AdmissionRequest) -> Vec<Arc<Kind>> {
    let registry = server.registry();
    let Some(own) = registry.get(&request.group, &request.version, &request.resource) else { return Vec::new() };
    let Some(storage) = &own.storage else { return Vec::new() };
    let is_other = |kind: &&Arc<Kind>| {
        kind.number != own.number
            && kind.storage.as_ref().is_some_and(|s| Arc::ptr_eq(s, storage))
            && (request.subresource.is_empty() || kind.subresource(&request.subresource).is_some())
    };
    let groups = registry.groups().iter();
    let kinds = groups.flat_map(|(group, versions)| versions.iter().flat_map(|v| registry.of_version(group, v)));
    kinds.filter(is_other).cloned().collect()
}

fn covers(rule: &Value, request: &AdmissionRequest, group: &str, version: &str, resource: &str) -> bool {
    let has = |field: &str, wanted: &str| {
        rule.list_at(&[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
    };
    let is_named = rule.list_at(&["resources"]).iter().filter_map(Value::as_str).any(|pattern| {
        let (main, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
        (main == "*" || main == resource) && (sub == "*" || sub == request.subresource)
    });
    let scope = match rule.str_at(&["scope"]) {
        "Cluster" => request.namespace.is_empty() || request.is("", "namespaces"),
        "Namespaced" => !request.namespace.is_empty() && !request.is("", "namespaces"),
        _ => true,
    };
    let names = rule.list_at(&["resourceNames"]);
    let by_name = names.is_empty() || names.iter().filter_map(Value::as_str).any(|name| name == request.name);
    is_named
        && scope
        && by_name
        && has("apiVersions", version)
        && has("apiGroups", group)
        && has("operations", request.operation.as_str())
}

pub fn selects(selector: &Value, labels: &Value) -> bool {
    selector.is_null()
        || LabelSelector::from_value(selector)
            .is_ok_and(|s| s.matches(|name| labels.get(&[name]).and_then(Value::as_str)))
}

/// A request as whoever matched it sees it.
#[derive(Clone)]
pub enum Form {
    Own,
    /// In another version, or group, that serves the same objects.
    Of(Arc<Kind>),
}

impl Form {
    /// Group, version and plural of the resource.
    pub fn resource<'a>(&'a self, request: &'a AdmissionRequest) -> (&'a str, &'a str, &'a str) {
        match self {
            Form::Own => (&request.group, &request.version, &request.resource),
            Form::Of(kind) => (&kind.resource.group, &kind.resource.version, &kind.resource.plural),
        }
    }

    /// What the object is: apiVersion and kind.
    pub fn kind<'a>(&'a self, request: &'a AdmissionRequest) -> (&'a str, &'a str) {
        match self {
            Form::Own => (&request.api_version, &request.kind),
            Form::Of(kind) => kind.object_of(&request.subresource),
        }
    }

    /// The kind to which the request's own objects have to be converted. What only a subresource knows (`Scale`) is the
    /// same in all of them.
    fn wanted(&self, request: &AdmissionRequest) -> Option<&Arc<Kind>> {
        match self {
            Form::Of(kind) if *self.kind(request).0 == *kind.api_version => Some(kind),
            _ => None,
        }
    }

    /// An object that was changed in this form, in normal form and with its defaults; and what a strict reader of a
    /// built-in type says of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn settled(
        &self,
        server: &Server,
        request: &AdmissionRequest,
        object: Value,
    ) -> Result<(Value, Vec<String>), Status> {
        let (kind, message) = self.schema(server, request);
        match (kind, message) {
            (Some(kind), _) => {
                match unconvertible(&kind, object.str_at(&["apiVersion"]), object.str_at(&["kind"])) {
                    Some(why) if why.starts_with("converting") => return Err(Status::plain_internal(why)),
                    Some(why) => return Err(Status::internal(why)),
                    None => {}
                }
                settled(&kind, object).map_err(Status::internal)
            }
            (None, Some(id)) => {
                let mut object = json::typed(builtin(), id, object).map_err(Status::internal)?.value;
                defaults::apply(builtin(), id, &mut object);
                let (api_version, kind) = self.kind(request);
                object.set(&["apiVersion"], api_version);
                object.set(&["kind"], kind);
                Ok((object, Vec::new()))
            }
            (None, None) => Ok((object, Vec::new())),
        }
    }

    /// The resource's own kind, or the type that only a subresource knows.
    pub fn schema(&self, server: &Server, request: &AdmissionRequest) -> (Option<Arc<Kind>>, Option<MessageId>) {
        match self.wanted(request) {
            Some(kind) => (Some(kind.clone()), None),
            None => match request.served(server) {
                Some(kind) => (Some(kind), None),
                None => {
                    let (group, version) = split_api_version(&request.api_version);
                    (None, builtin().kind(group, version, &request.kind))
                }
            },
        }
    }

    /// An object that was changed in this form, as the request has it.
    pub async fn back(&self, server: &Server, request: &AdmissionRequest, object: Value) -> Result<Value, Status> {
        match (self.wanted(request), request.served(server)) {
            (Some(from), Some(to)) => server.converted_for_admission(from, &to, &object).await,
            _ => Ok(object),
        }
    }
}

/// A request's objects in the forms that were asked for.
#[derive(Default)]
pub struct Shown(BTreeMap<Box<str>, (Value, Option<Value>)>);

impl Shown {
    /// Converts the objects, if that is not done yet.
    pub async fn make(&mut self, server: &Server, request: &AdmissionRequest, form: &Form) -> Result<(), Status> {
        let Some(to) = form.wanted(request).filter(|to| !self.0.contains_key(&to.api_version)) else { return Ok(()) };
        let Some(from) = request.served(server) else { return Ok(()) };
        let object = match &request.object {
            Value::Null => Value::Null,
            object => server.converted_for_admission(&from, to, object).await?,
        };
        let old = match request.old.as_deref() {
            None => None,
            Some(old) => Some(server.converted_for_admission(&from, to, old).await?),
        };
        self.0.insert(to.api_version.clone(), (object, old));
        Ok(())
    }

    /// The object and the old one.
    pub fn get<'a>(&'a self, request: &'a AdmissionRequest, form: &Form) -> (&'a Value, Option<&'a Value>) {
        match form.wanted(request).and_then(|kind| self.0.get(&kind.api_version)) {
            Some((object, old)) => (object, old.as_ref()),
            None => (&request.object, request.old.as_deref()),
        }
    }

    /// The request's object is another.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
