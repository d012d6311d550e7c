//! Evaluation: a walk over the expression that pays for every step, by upstream's tariff.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::ast::{ACCU, Call, Const, Expr, Fold, Kind, Select};
use super::types::{self, Type};
use super::value::{Evaluated, Fault, Key, Text, Val};
use super::{Program, Variable, authz::Authorize};

/// What one expression may cost: about a tenth of a second.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// Regular expressions that an evaluation keeps, compiled or with why they do not compile.
const REGEXES_MAX: usize = 32;
/// A pattern that is made while evaluating costs this, whether it compiles or not: every rule on every value starts
/// with none.
const REGEX_COST: u64 = 5_000;
const REGEX_BYTES_MAX: usize = 1 << 18;
/// Of all expressions that wait for each other's values.
const HEIGHT_MAX: usize = 250;

/// Values that stand in each other.
const DEPTH_MAX: usize = 200;

const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const STRUCT_COST: u64 = 40;

/// The variables of an evaluation, and what it may still spend.
pub struct Cx<'v> {
    globals: Vec<(&'v str, Val<'v>)>,
    locals: Vec<(&'v str, Evaluated<Val<'v>>)>,
    variables: &'v [Variable],
    known: HashMap<&'v str, Evaluated<Val<'v>>>,
    pub authorizer: Option<&'v dyn Authorize>,
    /// Of all expressions together.
    budget: u64,
    /// Of this expression.
    left: u64,
    /// Of the expressions that are being evaluated: variables stand in each other.
    height: usize,
    regexes: HashMap<String, Result<regex::Regex, String>>,
    /// Those of the expression that is being evaluated.
    written: &'v [(String, regex::Regex)],
}

impl<'v> Cx<'v> {
    /// Nothing but a budget for all expressions that will be evaluated.
    pub fn new(budget: u64) -> Cx<'v> {
        Cx {
            globals: Vec::new(),
            locals: Vec::new(),
            variables: &[],
            known: HashMap::new(),
            authorizer: None,
            budget,
            left: 0,
            height: 0,
            regexes: HashMap::new(),
            written: &[],
        }
    }

    /// Gives a variable a value.
    pub fn set(&mut self, name: &'v str, value: Val<'v>) {
        self.globals.push((name, value));
    }

    /// Lets `variables.NAME` be evaluated, each at most once.
    pub fn set_variables(&mut self, variables: &'v [Variable]) {
        self.variables = variables;
        self.globals.push(("variables", Val::Variables));
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// What the expression's author must see, or [`Fault::OutOfBudget`].
    pub fn run(&mut self, program: &'v Program) -> Evaluated<Val<'v>> {
        self.left = CALL_COST_MAX.min(self.budget);
        let before = self.left;
        self.locals.clear();
        self.height = program.expr.height;
        self.written = &program.regexes;
        let result = self.eval(&program.expr);
        self.budget = self.budget.saturating_sub(before.saturating_sub(self.left));
        result
    }

    pub fn charge(&mut self, cost: u64) -> Evaluated<()> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Fault::OutOfBudget)
            }
        }
    }

    /// A tenth of the units, rounded up: what a walk over text costs.
    pub fn charge_text(&mut self, characters: u64) -> Evaluated<()> {
        self.charge(characters.div_ceil(10))
    }

    /// Pays for everything in a value, as often as it is in it, and refuses one that is nested too deeply: what is made
    /// of shared parts may be larger than it was to make.
    ///
    /// # Errors
    /// [`Fault::OutOfBudget`], or that it is too deep.
    pub fn weigh(&mut self, value: &Val<'v>) -> Evaluated<()> {
        self.weigh_at(value, DEPTH_MAX, true)
    }

    fn weigh_at(&mut self, value: &Val<'v>, deeper: usize, json: bool) -> Evaluated<()> {
        self.charge(1)?;
        let Some(deeper) = deeper.checked_sub(1) else {
            return Err(Fault::new("value is nested too deeply"));
        };
        match value {
            Val::String(text) => self.charge_text(text.len() as u64),
            Val::List(list) => list.iter().try_for_each(|item| self.weigh_at(item, deeper, json)),
            Val::Map(map) => map.values().try_for_each(|value| self.weigh_at(value, deeper, json)),
            Val::Struct(_, fields) => fields.values().try_for_each(|value| self.weigh_at(value, deeper, json)),
            Val::Optional(Some(inner)) => self.weigh_at(inner, deeper, json),
            Val::Json(object) if json => object.values().try_for_each(|v| self.weigh_at(&v.into(), deeper, json)),
            Val::JsonList(list) if json => list.iter().try_for_each(|v| self.weigh_at(&v.into(), deeper, json)),
            _ => Ok(()),
        }
    }

    pub fn regex(&mut self, pattern: &str) -> Evaluated<regex::Regex> {
        if let Some((_, regex)) = self.written.iter().find(|(text, _)| text == pattern) {
            return Ok(regex.clone());
        }
        if let Some(known) = self.regexes.get(pattern) {
            return known.clone().map_err(Fault::Failed);
        }
        self.charge(REGEX_COST)?;
        let compiled = compile_regex(pattern);
        if self.regexes.len() < REGEXES_MAX {
            self.regexes.insert(pattern.to_owned(), compiled.clone());
        }
        compiled.map_err(Fault::Failed)
    }

    fn lookup(&mut self, name: &str) -> Evaluated<Val<'v>> {
        if let Some((_, value)) = self.locals.iter().rev().find(|(n, _)| *n == name) {
            return value.clone();
        }
        if let Some((_, value)) = self.globals.iter().rev().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        match Type::by_name(name) {
            Some(_) => Ok(Val::Type(name.into())),
            None => Err(Fault::Failed(format!("no such attribute(s): {name}"))),
        }
    }

    fn variable(&mut self, name: &str) -> Evaluated<Val<'v>> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let variables = self.variables;
        let Some(variable) = variables.iter().find(|v| v.name == name) else {
            return Err(Fault::no_such_key(name));
        };
        // A variable does not see the loops that ask for it. Variables refer only to earlier ones.
        let locals = std::mem::take(&mut self.locals);
        let value = match &variable.program {
            Ok(program) if self.height + program.expr.height > HEIGHT_MAX => {
                Err(Fault::new("variables refer to each other too deeply"))
            }
            Ok(program) => {
                self.height += program.expr.height;
                let written = std::mem::replace(&mut self.written, &program.regexes);
                let value = self.eval(&program.expr);
                // Variables build on each other: none is deeper than an expression can make it.
                let value = value.and_then(|v| self.weigh_at(&v, DEPTH_MAX, false).map(|()| v));
                self.written = written;
                self.height -= program.expr.height;
                value
            }
            Err(error) => Err(Fault::Failed(error.clone())),
        };
        self.locals = locals;
        let value = match value {
            Err(Fault::Failed(why)) => {
                Err(Fault::Failed(format!("composited variable {name:?} fails to evaluate: {why}")))
            }
            other => other,
        };
        self.known.insert(&variable.name, value.clone());
        value
    }

    fn eval(&mut self, expr: &'v Expr) -> Evaluated<Val<'v>> {
        match &expr.kind {
            Kind::Const(value) => Ok(constant(value)),
            Kind::Ident(name) => {
                self.charge(1)?;
                let value = self.lookup(name)?;
                self.typed(value, &expr.ty)
            }
            Kind::Select(select) => self.select(select, &expr.ty),
            Kind::Call(call) => self.call(call, &expr.ty),
            Kind::List(items) => {
                if !items.iter().all(|item| item.value.is_const()) {
                    self.charge(LIST_COST)?;
                }
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.eval(&item.value)?;
                    out.extend(if item.optional { unwrap_optional(value)? } else { Some(value) });
                }
                Ok(Val::list(out))
            }
            Kind::Map(entries) => {
                if !entries.iter().all(|entry| entry.key.is_const() && entry.value.is_const()) {
                    self.charge(MAP_COST)?;
                }
                let mut out = BTreeMap::new();
                for entry in entries {
                    let key = Key::of(&self.eval(&entry.key)?)?;
                    let value = self.eval(&entry.value)?;
                    if let Some(value) = if entry.optional { unwrap_optional(value)? } else { Some(value) } {
                        out.insert(key, value);
                    }
                }
                Ok(Val::Map(Rc::new(out)))
            }
            Kind::Struct(name, fields) => {
                self.charge(STRUCT_COST)?;
                let mut out = BTreeMap::new();
                for field in fields {
                    let value = self.eval(&field.value)?;
                    if let Some(value) = if field.optional { unwrap_optional(value)? } else { Some(value) } {
                        out.insert(field.key.as_str(), value);
                    }
                }
                Ok(Val::Struct(name, Rc::new(out)))
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    /// Brings a value into its type, and pays for the decoding of bytes.
    fn typed(&mut self, value: Val<'v>, ty: &Type) -> Evaluated<Val<'v>> {
        if let (Type::Bytes, Val::String(text)) = (ty, &value) {
            self.charge(text.len() as u64 / 10)?;
        }
        Ok(value.of_type(ty))
    }

    fn select(&mut self, select: &'v Select, ty: &Type) -> Evaluated<Val<'v>> {
        let operand = self.eval(&select.operand)?;
        if select.test {
            // Presence is free: only the way there costs.
            return Ok(Val::Bool(self.field(&operand, &select.field)?.is_some()));
        }
        self.charge(1)?;
        if let Val::Optional(inner) = &operand {
            let Some(inner) = inner else { return Ok(operand) };
            return Ok(Val::Optional(self.field(inner, &select.field)?.map(Rc::new)));
        }
        match self.field(&operand, &select.field)? {
            Some(value) => self.typed(value, ty),
            None => {
                // By the name that the expression has for it; what has underscores already is no other name.
                let escaped = types::escape(&select.field).filter(|_| !select.field.contains("__"));
                Err(Fault::no_such_key(escaped.as_ref().unwrap_or(&select.field)))
            }
        }
    }

    fn field(&mut self, operand: &Val<'v>, name: &'v str) -> Evaluated<Option<Val<'v>>> {
        match operand {
            Val::Variables => self.variable(name).map(Some),
            Val::Json(object) => Ok(object.get(name).map(Val::from)),
            Val::Map(_) | Val::Struct(..) => operand.find(&Key::String(Text::Borrowed(name))),
            Val::Optional(Some(inner)) => {
                let inner = inner.clone();
                self.field(&inner, name)
            }
            _ => Ok(None),
        }
    }

    fn call(&mut self, call: &'v Call, ty: &Type) -> Evaluated<Val<'v>> {
        match (call.name.as_str(), call.args.as_slice()) {
            ("_&&_", [a, b]) => self.logical(a, b, false),
            ("_||_", [a, b]) => self.logical(a, b, true),
            ("_?_:_", [condition, yes, no]) => {
                let chosen = if self.eval(condition)?.as_bool()? { yes } else { no };
                // What is only named there is read with the condition.
                let free = u64::from(matches!(chosen.kind, Kind::Ident(_) | Kind::Select(_)));
                let before = self.left;
                let value = self.eval(chosen)?;
                self.left = self.left.saturating_add(free).min(before);
                Ok(value)
            }
            ("@not_strictly_false", [arg]) => {
                self.charge(1)?;
                match self.eval(arg) {
                    Err(Fault::OutOfBudget) => Err(Fault::OutOfBudget),
                    Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                    _ => Ok(Val::Bool(true)),
                }
            }
            ("or" | "orValue", [target, other]) => {
                self.charge(1)?;
                match self.eval(target)? {
                    Val::Optional(Some(inner)) if call.name == "orValue" => Ok((*inner).clone()),
                    Val::Optional(None) => self.eval(other),
                    some @ Val::Optional(Some(_)) => Ok(some),
                    _ => Err(Fault::no_such_overload()),
                }
            }
            ("_+_" | "cel.@mapInsert", [Expr { kind: Kind::Ident(name), .. }, ..]) if name == ACCU => {
                // The accumulator is overwritten with the result: taken out of its place, it is not copied.
                self.charge(1)?;
                let place = self.locals.iter_mut().rev().find(|(n, _)| *n == ACCU);
                let accu = place.map_or(Ok(Val::Null), |(_, value)| std::mem::replace(value, Ok(Val::Null)))?;
                self.apply(call, vec![accu], 1)
            }
            _ => {
                let value = self.apply(call, Vec::new(), 0)?;
                self.typed(value, ty)
            }
        }
    }

    fn apply(&mut self, call: &'v Call, mut args: Vec<Val<'v>>, done: usize) -> Evaluated<Val<'v>> {
        args.reserve(call.args.len());
        for arg in call.args.get(done..).unwrap_or_default() {
            args.push(self.eval(arg)?);
        }
        match (call.run, call.name.as_str()) {
            // Those own their first argument.
            (_, "_+_") => super::ops::add(self, args),
            (_, "cel.@mapInsert") => super::lists::map_insert(self, args),
            (Some(run), _) => run(self, &args),
            (None, _) => Err(Fault::no_such_overload()),
        }
    }

    /// `&&` (absorbed by false) and `||` (absorbed by true): the other side's error does not matter then.
    fn logical(&mut self, left: &'v Expr, right: &'v Expr, absorbing: bool) -> Evaluated<Val<'v>> {
        let first = self.eval(left).and_then(|v| v.as_bool());
        match first {
            Err(Fault::OutOfBudget) => return Err(Fault::OutOfBudget),
            Ok(b) if b == absorbing => return Ok(Val::Bool(absorbing)),
            _ => {}
        }
        let second = self.eval(right).and_then(|v| v.as_bool());
        match (first, second) {
            (_, Err(Fault::OutOfBudget)) => Err(Fault::OutOfBudget),
            (_, Ok(b)) if b == absorbing => Ok(Val::Bool(absorbing)),
            (Err(why), _) | (Ok(_), Err(why)) => Err(why),
            (Ok(_), Ok(b)) => Ok(Val::Bool(b)),
        }
    }

    fn fold(&mut self, fold: &'v Fold) -> Evaluated<Val<'v>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let base = self.locals.len();
        self.locals.push((&fold.accu, Ok(init)));
        let result = self.iterate(fold, &range, base).and_then(|()| self.eval(&fold.result));
        self.locals.truncate(base);
        result
    }

    fn iterate(&mut self, fold: &'v Fold, range: &Val<'v>, base: usize) -> Evaluated<()> {
        match range {
            Val::List(_) | Val::JsonList(_) => {
                let items = range.items()?;
                for (at, item) in items.iter().enumerate() {
                    let (first, second) = match fold.var2 {
                        Some(_) => (Val::Int(at as i64), Some(item)),
                        None => (item, None),
                    };
                    if !self.step(fold, base, first, second)? {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                for (key, value) in map.iter() {
                    if !self.step(fold, base, key.value(), fold.var2.is_some().then(|| value.clone()))? {
                        break;
                    }
                }
            }
            Val::Json(object) => {
                for (key, value) in *object {
                    if !self.step(fold, base, Val::borrowed(key), fold.var2.is_some().then(|| value.into()))? {
                        break;
                    }
                }
            }
            other => {
                return Err(Fault::Failed(format!("got '{}', expected iterable type", other.type_name())));
            }
        }
        Ok(())
    }

    /// One round; false: the condition says that it was the last.
    fn step(&mut self, fold: &'v Fold, base: usize, first: Val<'v>, second: Option<Val<'v>>) -> Evaluated<bool> {
        self.locals.truncate(base + 1);
        if !self.eval(&fold.condition)?.as_bool()? {
            return Ok(false);
        }
        self.locals.push((&fold.var, Ok(first)));
        if let (Some(name), Some(value)) = (&fold.var2, second) {
            self.locals.push((name, Ok(value)));
        }
        let value = self.eval(&fold.step);
        self.locals.truncate(base + 1);
        if let Err(Fault::OutOfBudget) = value {
            return Err(Fault::OutOfBudget);
        }
        if let Some(place) = self.locals.get_mut(base) {
            place.1 = value;
        }
        Ok(true)
    }
}

/// Go's syntax is not quite this one; what differs is refused, not misread.
pub fn compile_regex(pattern: &str) -> Result<regex::Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).nest_limit(100).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
        error => format!("error parsing regexp: {}", error.to_string().lines().last().unwrap_or_default()),
    })
}

fn unwrap_optional<'v>(value: Val<'v>) -> Evaluated<Option<Val<'v>>> {
    match value {
        Val::Optional(inner) => Ok(inner.map(|v| (*v).clone())),
        _ => Err(Fault::no_such_overload()),
    }
}

fn constant(value: &Const) -> Val<'_> {
    match value {
        Const::Null => Val::Null,
        Const::Bool(b) => Val::Bool(*b),
        Const::Int(i) => Val::Int(*i),
        Const::Uint(u) => Val::Uint(*u),
        Const::Double(d) => Val::Double(*d),
        Const::String(s) => Val::borrowed(s),
        Const::Bytes(b) => Val::Bytes(b.as_slice().into()),
    }
}
