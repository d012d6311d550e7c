//! `authorizer`: what the user of the request, or a service account, may do.

use super::eval::Cx;
use super::value::{Evaluated, Fault, Library, Val};

/// Each check costs as much as two of them leave of a budget; upstream's tariff.
const CHECK_COST: u64 = 350_000;

/// Who answers the checks.
pub trait Authorize {
    /// Whether it is allowed, and the reason.
    fn decide(&self, check: &Check, verb: &str) -> (bool, String);
}

/// What is asked, as far as it was said yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// Instead of the request's user: a service account's namespace and name.
    pub service_account: Option<(String, String)>,
    pub stage: Stage,
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Stage {
    #[default]
    Authorizer,
    Path,
    Group,
    Resource,
}

impl Check {
    pub fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

fn refine<'v>(
    cx: &mut Cx<'v>,
    args: &[Val<'v>],
    from: Stage,
    to: Stage,
    set: fn(&mut Check, String),
) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let [Val::Library(target), Val::String(text)] = args else { return Err(Fault::no_such_overload()) };
    match &**target {
        Library::Check(check) if check.stage == from => {
            let mut check = check.clone();
            check.stage = to;
            set(&mut check, text.to_string());
            Ok(Val::library(Library::Check(check)))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn path<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    match args.get(1) {
        Some(Val::String(text)) if text.trim().is_empty() => Err(Fault::new("path must not be empty")),
        _ => refine(cx, args, Stage::Authorizer, Stage::Path, |check, text| check.path = text),
    }
}

pub fn group<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    refine(cx, args, Stage::Authorizer, Stage::Group, |check, text| check.group = text)
}

pub fn resource<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    match args.get(1) {
        Some(Val::String(text)) if text.trim().is_empty() => Err(Fault::new("resource must not be empty")),
        _ => refine(cx, args, Stage::Group, Stage::Resource, |check, text| check.resource = text),
    }
}

pub fn subresource<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    refine(cx, args, Stage::Resource, Stage::Resource, |check, text| check.subresource = text)
}

pub fn namespace<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    refine(cx, args, Stage::Resource, Stage::Resource, |check, text| check.namespace = text)
}

pub fn name<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    refine(cx, args, Stage::Resource, Stage::Resource, |check, text| check.name = text)
}

/// RBAC does not look at selectors: they change no answer.
pub fn selector<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    refine(cx, args, Stage::Resource, Stage::Resource, |_, _| {})
}

pub fn service_account<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let [Val::Library(target), Val::String(namespace), Val::String(name)] = args else {
        return Err(Fault::no_such_overload());
    };
    let Library::Check(check) = &**target else { return Err(Fault::no_such_overload()) };
    if !schema::validate::names::dns1123_subdomain(name).is_empty() {
        return Err(Fault::new("Invalid service account name"));
    }
    if !schema::validate::names::dns1123_label(namespace).is_empty() {
        return Err(Fault::new("Invalid service account namespace"));
    }
    let account = Some((namespace.to_string(), name.to_string()));
    Ok(Val::library(Library::Check(Check { service_account: account, ..check.clone() })))
}

pub fn check<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    cx.charge(CHECK_COST)?;
    let [Val::Library(target), Val::String(verb)] = args else { return Err(Fault::no_such_overload()) };
    match (&**target, cx.authorizer) {
        (Library::Check(check), Some(authorizer)) if matches!(check.stage, Stage::Path | Stage::Resource) => {
            let (allowed, reason) = authorizer.decide(check, verb);
            Ok(Val::library(Library::Decision { allowed, reason, error: String::new() }))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

fn of_decision<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<(bool, String, String)> {
    cx.charge(1)?;
    match args {
        [Val::Library(library)] => match &**library {
            Library::Decision { allowed, reason, error } => Ok((*allowed, reason.clone(), error.clone())),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn allowed<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    of_decision(cx, args).map(|(allowed, _, _)| Val::Bool(allowed))
}

pub fn reason<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    of_decision(cx, args).map(|(_, reason, _)| Val::text(reason))
}

pub fn error<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    of_decision(cx, args).map(|(_, _, error)| Val::text(error))
}

pub fn errored<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    of_decision(cx, args).map(|(_, _, error)| Val::Bool(!error.is_empty()))
}
