//! Types: whether an expression can be evaluated at all, with errors in cel-go's words.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Call, Const, Expr, Fold, Item, Kind, Select};
use super::functions::{self, Overload};
use super::types::Type;
use super::{CompileError, Env, eval, time};

/// How large a type may be, with its variables replaced; beyond that it is dynamic. Types share their parts: written
/// out, one may be exponentially larger than the expression.
const TYPE_NODES_MAX: usize = 300;
/// What evaluation and estimates see of a type: itself and its elements.
const OUTLINE_NODES_MAX: usize = 8;
/// Different regular expressions that are written out in one expression.
const REGEXES_MAX: usize = 100;
/// Problems that are remembered.
const ISSUES_MAX: usize = 1000;

/// Checks an expression and completes it: types, functions, the true names of fields. Gives its type, and the regular
/// expressions that are written out.
pub fn check(source: &str, expr: &mut Expr, env: &Env) -> Result<(Type, Vec<(String, regex::Regex)>), CompileError> {
    let mut checker = Checker {
        env,
        scopes: Vec::new(),
        bindings: Vec::new(),
        undo: Vec::new(),
        issues: Vec::new(),
        regexes: HashMap::new(),
        mixed: false,
    };
    let ty = checker.expr(expr);
    let ty = checker.resolved(&ty);
    if checker.issues.is_empty() {
        checker.finish(expr);
        let regexes = checker.regexes.into_iter().filter_map(|(text, regex)| Some((text, regex?)));
        return Ok((ty, regexes.collect()));
    }
    Err(CompileError::of(source, checker.issues))
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(String, Type)>,
    /// What type variables stand for.
    bindings: Vec<Option<Type>>,
    /// What variables stood for before they were bound: overloads that do not fit leave no trace.
    undo: Vec<(usize, Option<Type>)>,
    issues: Vec<(usize, String)>,
    /// By their texts; nothing if they do not compile.
    regexes: HashMap<String, Option<regex::Regex>>,
    /// Inside of `format`'s arguments lists may hold anything.
    mixed: bool,
}

fn list_of<'t>(types: impl IntoIterator<Item = &'t Type>) -> String {
    types.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Checker<'_> {
    fn issue(&mut self, at: usize, message: String) -> Type {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push((at, message));
        }
        Type::Dyn
    }

    fn undeclared(&mut self, at: usize, name: &str) -> Type {
        self.issue(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn fresh(&mut self) -> Type {
        self.bindings.push(None);
        Type::Var(self.bindings.len() - 1)
    }

    fn bind(&mut self, var: usize, ty: Type) {
        if let Some(place) = self.bindings.get_mut(var) {
            self.undo.push((var, place.replace(ty)));
        }
    }

    /// What a type variable stands for, if that is known.
    fn known(&self, ty: &Type) -> Type {
        let mut ty = ty;
        while let Type::Var(at) = ty
            && let Some(Some(bound)) = self.bindings.get(*at)
        {
            ty = bound;
        }
        ty.clone()
    }

    /// Whether a type, with its variables replaced, has no more nodes than are left.
    fn is_small(&self, ty: &Type, left: &mut usize) -> bool {
        let Some(fewer) = left.checked_sub(1) else { return false };
        *left = fewer;
        match self.known(ty) {
            Type::List(inner) | Type::Optional(inner) | Type::Meta(inner) => self.is_small(&inner, left),
            Type::Map(entry) => self.is_small(&entry.0, left) && self.is_small(&entry.1, left),
            _ => true,
        }
    }

    /// Replaces the variables in so many nodes of a type; what is beyond them is dynamic, as are, unless they are kept,
    /// variables that stand for nothing.
    fn replaced(&self, ty: &Type, left: &mut usize, keep: bool) -> Type {
        let Some(fewer) = left.checked_sub(1) else { return Type::Dyn };
        *left = fewer;
        match self.known(ty) {
            Type::Var(_) if !keep => Type::Dyn,
            Type::List(inner) => Type::list(self.replaced(&inner, left, keep)),
            Type::Map(entry) => {
                let key = self.replaced(&entry.0, left, keep);
                Type::map(key, self.replaced(&entry.1, left, keep))
            }
            Type::Optional(inner) => Type::optional(self.replaced(&inner, left, keep)),
            Type::Meta(inner) => Type::Meta(Arc::new(self.replaced(&inner, left, keep))),
            other => other,
        }
    }

    /// The type without variables; one that stands for nothing is dynamic.
    fn resolved(&self, ty: &Type) -> Type {
        let mut left = TYPE_NODES_MAX;
        self.replaced(ty, &mut left, false)
    }

    /// Whether a variable is in a type, or that is too large to tell.
    fn contains(&self, ty: &Type, var: usize, left: &mut usize) -> bool {
        let Some(fewer) = left.checked_sub(1) else { return true };
        *left = fewer;
        match self.known(ty) {
            Type::Var(at) => at == var,
            Type::List(inner) | Type::Optional(inner) => self.contains(&inner, var, left),
            Type::Map(entry) => self.contains(&entry.0, var, left) || self.contains(&entry.1, var, left),
            _ => false,
        }
    }

    /// Whether a value of `from` may stand where `to` is wanted; variables on both sides are bound.
    fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        let mut left = TYPE_NODES_MAX;
        self.fits(to, from, &mut left)
    }

    fn fits(&mut self, to: &Type, from: &Type, left: &mut usize) -> bool {
        let Some(fewer) = left.checked_sub(1) else { return false };
        *left = fewer;
        let (wanted, given) = (self.known(to), self.known(from));
        match (&wanted, &given) {
            (Type::Var(a), Type::Var(b)) => {
                // The newer one stands for the older one: so there are no long chains.
                if a != b {
                    self.bind(*a.max(b), Type::Var(*a.min(b)));
                }
                true
            }
            (Type::Var(var), other) | (other, Type::Var(var)) => {
                let mut nodes = TYPE_NODES_MAX;
                let fits = !self.contains(other, *var, &mut nodes);
                if fits {
                    self.bind(*var, other.clone());
                }
                fits
            }
            (Type::Dyn, _) => true,
            (_, Type::Dyn) => {
                // The more general type is what the variable stands for from here on.
                if let Type::Var(var) = to {
                    self.bind(*var, Type::Dyn);
                }
                true
            }
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b, left),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0, left) && self.fits(&a.1, &b.1, left),
            (Type::Meta(_), Type::Meta(_)) => true,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (a, Type::Null) | (Type::Null, a) => matches!(
                a,
                Type::Null | Type::Object(_) | Type::Named(_) | Type::Optional(_) | Type::Timestamp | Type::Duration
            ),
            (a, b) => a == b,
        }
    }

    fn expect(&mut self, at: usize, wanted: &Type, given: &Type) {
        if !self.assignable(wanted, given) {
            let (wanted, given) = (self.resolved(wanted), self.resolved(given));
            self.issue(at, format!("expected type '{wanted}' but found '{given}'"));
        }
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let local = self.scopes.iter().rev().find(|(n, _)| n == name).map(|(_, ty)| ty.clone());
        local.or_else(|| self.env.get(name).cloned())
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let ty = match &mut expr.kind {
            Kind::Const(value) => constant(value),
            Kind::Ident(name) => match self.variable(name) {
                Some(ty) => ty,
                None => match Type::by_name(name) {
                    Some(ty) => Type::Meta(Arc::new(ty)),
                    None => {
                        let name = name.clone();
                        self.undeclared(at, &name)
                    }
                },
            },
            Kind::Select(_) => self.select(expr),
            Kind::Call(call) => self.call(at, call),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(name, fields) => self.object(at, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        let mut left = TYPE_NODES_MAX;
        expr.ty = if self.is_small(&ty, &mut left) { ty } else { Type::Dyn };
        expr.ty.clone()
    }

    // ---- fields

    /// A name with dots in it may be one variable (`authorizer.requestResource`) or a type.
    fn qualified(&self, expr: &Expr) -> Option<(String, Type)> {
        let name = expr.dotted()?;
        let root = name.split('.').next().unwrap_or_default();
        if self.scopes.iter().any(|(n, _)| n == root) {
            return None;
        }
        if let Some(ty) = self.env.get(&name) {
            return Some((name, ty.clone()));
        }
        let ty = Type::by_name(&name).filter(|_| self.env.get(root).is_none())?;
        Some((name, Type::Meta(Arc::new(ty))))
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        if let Some((name, ty)) = self.qualified(expr) {
            expr.kind = Kind::Ident(name);
            return ty;
        }
        let at = expr.at;
        let Kind::Select(select) = &mut expr.kind else { return Type::Dyn };
        let operand = self.expr(&mut select.operand);
        let Select { field, test, .. } = &mut **select;
        let ty = self.field(at, &operand, field);
        if *test { Type::Bool } else { ty }
    }

    /// The type of a field, whose true name replaces the one that was used.
    fn field(&mut self, at: usize, operand: &Type, name: &mut String) -> Type {
        match self.known(operand) {
            Type::Dyn | Type::Var(_) => Type::Dyn,
            Type::Map(entry) => entry.1.clone(),
            Type::Optional(inner) => {
                let ty = self.field(at, &inner, name);
                Type::optional(ty)
            }
            Type::Object(object) => match object.fields.get(name.as_str()) {
                Some(field) => {
                    name.clone_from(&field.name);
                    field.ty.clone()
                }
                None => self.issue(at, format!("undefined field '{name}'")),
            },
            other => {
                let other = self.resolved(&other);
                self.issue(at, format!("type '{other}' does not support field selection"))
            }
        }
    }

    // ---- calls

    fn call(&mut self, at: usize, call: &mut Call) -> Type {
        if call.method
            && let Some(namespace) = call.args.first().and_then(Expr::dotted)
        {
            let name = format!("{namespace}.{}", call.name);
            let is_local = self.scopes.iter().any(|(n, _)| *n == namespace);
            if !is_local && functions::find(&name).is_some() {
                call.args.remove(0);
                call.method = false;
                call.name = name;
            }
        }
        let before = self.mixed;
        self.mixed |= call.name == "format";
        let args: Vec<Type> = call.args.iter_mut().map(|arg| self.expr(arg)).collect();
        self.mixed = before;
        if matches!(call.name.as_str(), "_&&_" | "_||_") {
            for (arg, ty) in call.args.iter().zip(&args) {
                self.expect(arg.at, &Type::Bool, ty);
            }
            return Type::Bool;
        }
        if call.name == "_?._"
            && let [Expr { .. }, Expr { kind: Kind::Const(Const::String(field)), .. }] = call.args.as_mut_slice()
        {
            let ty = self.field(at, &args[0], field);
            call.run = functions::find("_?._").map(|f| f.run);
            return if matches!(ty, Type::Optional(_)) { ty } else { Type::optional(ty) };
        }
        let is_patch = call.name.starts_with("jsonpatch.");
        let Some(function) = functions::find(&call.name).filter(|_| self.env.patches || !is_patch) else {
            return self.undeclared(at, &call.name.clone());
        };
        call.run = Some(function.run);
        let result = self.resolve(at, call, &args, &function.overloads);
        self.literals(call);
        if let Some(format) = call.name.strip_prefix("format.").filter(|_| call.args.is_empty()) {
            call.args.push(Expr::new(at, Kind::Const(Const::String(format.to_owned()))));
        }
        result
    }

    /// The result of the overloads that fit; a dynamic one if they differ.
    fn resolve(&mut self, at: usize, call: &Call, args: &[Type], overloads: &[Overload]) -> Type {
        let mut result: Option<Type> = None;
        for overload in overloads {
            if overload.method != call.method || overload.args.len() != args.len() {
                continue;
            }
            let base = self.bindings.len();
            self.undo.clear();
            let vars = [self.fresh(), self.fresh()];
            let fits = overload.args.iter().zip(args).all(|(wanted, given)| {
                let wanted = instance(wanted, &vars);
                self.assignable(&wanted, given)
            });
            if !fits {
                while let Some((var, before)) = self.undo.pop() {
                    if let Some(place) = self.bindings.get_mut(var) {
                        *place = before;
                    }
                }
                self.bindings.truncate(base);
                continue;
            }
            let ty = self.substituted(&instance(&overload.result, &vars));
            result = Some(match result {
                Some(other) if other != ty => Type::Dyn,
                _ => ty,
            });
        }
        result.unwrap_or_else(|| {
            let shown: Vec<Type> = args.iter().map(|ty| self.resolved(ty)).collect();
            let applied = match shown.split_first() {
                Some((target, rest)) if call.method => format!("{target}.({})", list_of(rest)),
                _ => format!("({})", list_of(&shown)),
            };
            self.issue(at, format!("found no matching overload for '{}' applied to '{applied}'", call.name))
        })
    }

    /// Replaces the variables that are known.
    fn substituted(&self, ty: &Type) -> Type {
        let mut left = TYPE_NODES_MAX;
        self.replaced(ty, &mut left, true)
    }

    /// Compiles a regular expression that is written out, once; whether it compiles.
    fn pattern(&mut self, at: usize, text: &str) -> bool {
        if let Some(known) = self.regexes.get(text) {
            return known.is_some();
        }
        if self.regexes.len() >= REGEXES_MAX {
            self.issue(at, "too many regular expressions".into());
            return true;
        }
        let compiled = eval::compile_regex(text).ok();
        let is_good = compiled.is_some();
        self.regexes.insert(text.to_owned(), compiled);
        is_good
    }

    /// Texts that are written out are checked before they are needed.
    fn literals(&mut self, call: &Call) {
        let position = match call.name.as_str() {
            "matches" | "find" | "findAll" => 1,
            "duration" | "timestamp" => 0,
            _ => return,
        };
        let Some(Expr { at, kind: Kind::Const(Const::String(text)), .. }) = call.args.get(position) else { return };
        let is_good = match call.name.as_str() {
            "matches" | "find" | "findAll" => {
                // Only of this one upstream says it before it is evaluated.
                self.pattern(*at, text) || call.name != "matches"
            }
            "duration" => time::parse_duration(text).is_some(),
            _ => time::parse_timestamp(text).is_some(),
        };
        if !is_good {
            self.issue(*at, format!("invalid {} argument", call.name));
        }
    }

    // ---- aggregates

    /// Elements are all of one type, as upstream wants it.
    fn join(&mut self, at: usize, known: Option<Type>, given: &Type) -> Type {
        let Some(known) = known else { return given.clone() };
        let is_dynamic = |c: &Self, ty: &Type| matches!(c.known(ty), Type::Dyn);
        let same = is_dynamic(self, &known) == is_dynamic(self, given) && self.assignable(&known, given);
        if !same && self.mixed {
            return Type::Dyn;
        }
        if !same {
            let (known, given) = (self.resolved(&known), self.resolved(given));
            self.issue(at, format!("expected type '{known}' but found '{given}'"));
        }
        known
    }

    fn value(&mut self, value: &mut Expr, optional: bool) -> Type {
        let ty = self.expr(value);
        if !optional {
            return ty;
        }
        match self.known(&ty) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let wanted = Type::optional(other.clone());
                self.expect(value.at, &wanted, &other);
                Type::Dyn
            }
        }
    }

    fn list(&mut self, items: &mut [Item<()>]) -> Type {
        let mut element = None;
        for item in items {
            let ty = self.value(&mut item.value, item.optional);
            element = Some(self.join(item.value.at, element, &ty));
        }
        let element = element.unwrap_or_else(|| self.fresh());
        Type::list(element)
    }

    fn map(&mut self, entries: &mut [Item<Expr>]) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            let ty = self.expr(&mut entry.key);
            let ty = self.key(entry.key.at, ty);
            key = Some(self.join(entry.key.at, key, &ty));
            let ty = self.value(&mut entry.value, entry.optional);
            value = Some(self.join(entry.value.at, value, &ty));
        }
        let key = key.unwrap_or_else(|| self.fresh());
        let value = value.unwrap_or_else(|| self.fresh());
        Type::map(key, value)
    }

    /// The type of a map's key, which must be one that can be a key.
    fn key(&mut self, at: usize, ty: Type) -> Type {
        match self.known(&ty) {
            // Whole numbers are keys in whatever form they come.
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::String | Type::Dyn | Type::Var(_) => ty,
            other => {
                let other = self.resolved(&other);
                self.issue(at, format!("unsupported key type: {other}"))
            }
        }
    }

    /// `Object.spec{…}` and `JSONPatch{…}`, where they are known.
    fn object(&mut self, at: usize, name: &str, fields: &mut [Item<String>]) -> Type {
        let is_patch = name == "JSONPatch";
        if !self.env.patches || !(is_patch || name == "Object" || name.starts_with("Object.")) {
            for field in fields {
                self.expr(&mut field.value);
            }
            return self.undeclared(at, name);
        }
        for field in fields {
            let ty = self.value(&mut field.value, field.optional);
            match field.key.as_str() {
                _ if !is_patch => {}
                "op" | "path" | "from" => self.expect(field.value.at, &Type::String, &ty),
                "value" => {}
                key => {
                    self.issue(field.value.at, format!("undefined field '{key}'"));
                }
            }
        }
        Type::object(name, [])
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.expr(&mut fold.range);
        let (first, second) = match self.known(&range) {
            Type::List(element) => match fold.var2 {
                Some(_) => (Type::Int, (*element).clone()),
                None => ((*element).clone(), Type::Dyn),
            },
            Type::Map(entry) => entry.as_ref().clone(),
            Type::Dyn | Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let other = self.resolved(&other);
                self.issue(
                    fold.range.at,
                    format!(
                        "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                    ),
                );
                (Type::Dyn, Type::Dyn)
            }
        };
        let accu = self.expr(&mut fold.init);
        let base = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(name) = &fold.var2 {
            self.scopes.push((name.clone(), second));
        }
        let condition = self.expr(&mut fold.condition);
        self.expect(fold.condition.at, &Type::Bool, &condition);
        let step = self.expr(&mut fold.step);
        self.expect(fold.step.at, &accu, &step);
        self.scopes.truncate(base + 1);
        let result = self.expr(&mut fold.result);
        self.scopes.truncate(base);
        self.substituted(&result)
    }

    /// Leaves no variable in the types, and of them what is needed from here on.
    fn finish(&self, expr: &mut Expr) {
        let mut left = OUTLINE_NODES_MAX;
        expr.ty = self.replaced(&expr.ty, &mut left, false);
        expr.kind.children_mut().into_iter().for_each(|child| self.finish(child));
    }
}

fn constant(value: &Const) -> Type {
    match value {
        Const::Null => Type::Null,
        Const::Bool(_) => Type::Bool,
        Const::Int(_) => Type::Int,
        Const::Uint(_) => Type::Uint,
        Const::Double(_) => Type::Double,
        Const::String(_) => Type::String,
        Const::Bytes(_) => Type::Bytes,
    }
}

/// A declaration's type with variables of its own.
fn instance(ty: &Type, vars: &[Type; 2]) -> Type {
    match ty {
        Type::Var(at) => vars.get(*at).cloned().unwrap_or(Type::Dyn),
        Type::List(inner) => Type::list(instance(inner, vars)),
        Type::Map(entry) => Type::map(instance(&entry.0, vars), instance(&entry.1, vars)),
        Type::Optional(inner) => Type::optional(instance(inner, vars)),
        Type::Meta(inner) => Type::Meta(Arc::new(instance(inner, vars))),
        other => other.clone(),
    }
}
