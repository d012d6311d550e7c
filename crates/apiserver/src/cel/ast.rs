//! Expressions as the parser makes them and the checker completes them.

use super::types::Type;
use super::value::Run;

/// One expression; `at` is the byte offset at which errors about it are shown.
#[derive(Clone, Debug)]
pub struct Expr {
    pub at: usize,
    pub kind: Kind,
    /// `Dyn` until the checker has seen it.
    pub ty: Type,
    /// How deep the tree is: the walks over it are recursive.
    pub height: usize,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Const(Const),
    Ident(String),
    Select(Box<Select>),
    Call(Box<Call>),
    List(Vec<Item<()>>),
    Map(Vec<Item<Expr>>),
    Struct(String, Vec<Item<String>>),
    Fold(Box<Fold>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// `operand.field`, or `has(operand.field)` if it is only a test.
#[derive(Clone, Debug)]
pub struct Select {
    pub operand: Expr,
    pub field: String,
    pub test: bool,
}

/// A function, a method (then `args[0]` is its target) or an operator (`_+_`).
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub method: bool,
    pub args: Vec<Expr>,
    /// What computes it; the checker finds it.
    pub run: Option<Run>,
}

/// An element of a list, an entry of a map or a field of an object; optional ones (`?`) vanish if they are not there.
#[derive(Clone, Debug)]
pub struct Item<K> {
    pub key: K,
    pub value: Expr,
    pub optional: bool,
}

/// What every macro over lists and maps becomes: a loop with an accumulator.
#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    /// The element (of a list) or the key (of a map).
    pub var: String,
    /// With it, `var` is the index or key and this is the value.
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// The accumulator of macros: no identifier can be spelled like it.
pub const ACCU: &str = "@result";
/// A macro's target where it is needed twice.
pub const HELD: &str = "@held";

impl Expr {
    pub fn new(at: usize, kind: Kind) -> Expr {
        let height = 1 + kind.children().into_iter().map(|child| child.height).max().unwrap_or(0);
        Expr { at, kind, ty: Type::Dyn, height }
    }

    pub fn ident(at: usize, name: &str) -> Expr {
        Expr::new(at, Kind::Ident(name.to_owned()))
    }

    pub fn call(at: usize, name: &str, args: Vec<Expr>) -> Expr {
        Expr::new(at, Kind::Call(Box::new(Call { name: name.to_owned(), method: false, args, run: None })))
    }

    pub fn method(at: usize, name: &str, args: Vec<Expr>) -> Expr {
        Expr::new(at, Kind::Call(Box::new(Call { name: name.to_owned(), method: true, args, run: None })))
    }

    /// `a.b.c` as text, if it is nothing but names.
    pub fn dotted(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select(select) if !select.test => Some(format!("{}.{}", select.operand.dotted()?, select.field)),
            _ => None,
        }
    }

    pub fn is_const(&self) -> bool {
        matches!(self.kind, Kind::Const(_))
    }
}

impl Kind {
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Kind::Const(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select(select) => vec![&select.operand],
            Kind::Call(call) => call.args.iter().collect(),
            Kind::List(items) => items.iter().map(|item| &item.value).collect(),
            Kind::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).collect(),
            Kind::Struct(_, fields) => fields.iter().map(|field| &field.value).collect(),
            Kind::Fold(f) => vec![&f.range, &f.init, &f.condition, &f.step, &f.result],
        }
    }

    pub fn children_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Kind::Const(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select(select) => vec![&mut select.operand],
            Kind::Call(call) => call.args.iter_mut().collect(),
            Kind::List(items) => items.iter_mut().map(|item| &mut item.value).collect(),
            Kind::Map(entries) => entries.iter_mut().flat_map(|entry| [&mut entry.key, &mut entry.value]).collect(),
            Kind::Struct(_, fields) => fields.iter_mut().map(|field| &mut field.value).collect(),
            Kind::Fold(f) => vec![&mut f.range, &mut f.init, &mut f.condition, &mut f.step, &mut f.result],
        }
    }
}
