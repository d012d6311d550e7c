//! The Common Expression Language as Kubernetes has it: webhooks' match conditions, admission policies and
//! the rules of custom resources are made of it.
//!
//! [`Program::compile`] parses and checks an expression against the variables of an [`Env`]; a [`Cx`] gives these
//! values and evaluates programs within a budget. The language is <https://github.com/google/cel-spec>; functions,
//! costs and the words of errors are those of the API server of v1.37.

mod ast;
pub mod authz;
mod check;
mod cost;
mod eval;
mod functions;
mod kube;
mod lex;
mod lists;
mod ops;
mod parse;
mod strings;
#[cfg(test)]
mod tests;
mod time;
pub mod types;
mod value;

use ast::Kind;
pub use cost::Place;
pub use eval::Cx;
pub use types::Type;
pub use value::{Fault, Library, Val};

/// What one object's policies and rules may cost together: about a second.
pub const BUDGET: u64 = 10_000_000;
/// What one webhook's or policy's match conditions may cost.
pub const MATCH_BUDGET: u64 = 2_500_000;

/// How many problems of an expression are told, and how much of a line is shown with each.
const ISSUES_MAX: usize = 100;
const LINE_MAX: usize = 2000;

/// Why an expression does not compile: every problem with its place, as cel-go shows it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

impl CompileError {
    fn new(source: &str, at: usize, message: impl Into<String>) -> CompileError {
        CompileError::of(source, vec![(at, message.into())])
    }

    fn of(source: &str, mut issues: Vec<(usize, String)>) -> CompileError {
        issues.sort_by_key(|(at, _)| *at);
        issues.dedup();
        issues.truncate(ISSUES_MAX);
        let shown = issues.iter().map(|(at, message)| {
            let before = source.get(..*at).unwrap_or(source);
            let line = before.matches('\n').count();
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
            // Of a very long line what is near.
            let hidden = column.saturating_sub(LINE_MAX / 2);
            let text: String =
                source.split('\n').nth(line).unwrap_or_default().chars().skip(hidden).take(LINE_MAX).collect();
            let dots = ".".repeat(column - hidden);
            // There is no place in nothing.
            if source.is_empty() {
                return format!("ERROR: <input>:1:0: {message}");
            }
            format!("ERROR: <input>:{}:{}: {message}\n | {text}\n | {dots}^", line + 1, column + 1)
        });
        CompileError(shown.collect::<Vec<_>>().join("\n"))
    }
}

/// The variables that an expression may name, with their types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    /// Whether `Object{…}` and `JSONPatch{…}` make changes.
    patches: bool,
}

impl Env {
    pub fn new(variables: impl IntoIterator<Item = (&'static str, Type)>) -> Env {
        let variables = variables.into_iter().map(|(name, ty)| (name.to_owned(), ty)).collect();
        Env { variables, patches: false }
    }

    pub fn with(mut self, name: &str, ty: Type) -> Env {
        self.variables.retain(|(n, _)| n != name);
        self.variables.push((name.to_owned(), ty));
        self
    }

    pub fn with_patches(mut self) -> Env {
        self.patches = true;
        self
    }

    fn get(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, ty)| ty)
    }
}

/// An expression that compiles.
#[derive(Debug)]
pub struct Program {
    expr: ast::Expr,
    pub ty: Type,
    /// The regular expressions that are written out in it.
    regexes: Vec<(String, regex::Regex)>,
}

impl Program {
    /// # Errors
    /// Everything that is wrong with the expression.
    pub fn compile(source: &str, env: &Env) -> Result<Program, CompileError> {
        let mut expr = parse::parse(source)?;
        let (ty, regexes) = check::check(source, &mut expr, env)?;
        Ok(Program { expr, ty, regexes })
    }

    /// As [`Program::compile`], if the result is of one of these types.
    ///
    /// # Errors
    /// `compilation failed: …` or `must evaluate to …`, as upstream's validation tells it.
    pub fn compile_to(source: &str, env: &Env, wanted: &[Type]) -> Result<Program, String> {
        let program = Program::compile(source, env).map_err(|e| format!("compilation failed: {e}"))?;
        if wanted.is_empty() || wanted.contains(&program.ty) {
            return Ok(program);
        }
        let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        Err(match names.as_slice() {
            [one] => format!("must evaluate to {one} but got {}", program.ty),
            many => {
                let many = many.join(" ").replace("null", "null_type");
                format!("must evaluate to one of [{many}] but got {}", program.ty)
            }
        })
    }

    /// Whether the expression reads that variable.
    pub fn uses(&self, name: &str) -> bool {
        any(&self.expr, &|kind| is_variable(kind, name))
    }

    /// Whether the expression reads that field of that variable.
    pub fn reads(&self, variable: &str, field: &str) -> bool {
        any(&self.expr, &|kind| match kind {
            Kind::Select(select) => select.field == field && is_variable(&select.operand.kind, variable),
            Kind::Call(call) => match (call.name.as_str(), call.args.as_slice()) {
                ("_?._", [operand, field_name]) => {
                    is_variable(&operand.kind, variable)
                        && matches!(&field_name.kind, Kind::Const(ast::Const::String(text)) if text == field)
                }
                _ => false,
            },
            _ => false,
        })
    }

    /// Lets fields of maps be spelled as identifiers: `claims.a__dot__b` is `claims["a.b"]`.
    #[must_use]
    pub fn with_unescaped_fields(mut self) -> Program {
        unescape_fields(&mut self.expr);
        self
    }
}

fn any(expr: &ast::Expr, wanted: &dyn Fn(&Kind) -> bool) -> bool {
    wanted(&expr.kind) || expr.kind.children().into_iter().any(|child| any(child, wanted))
}

fn is_variable(kind: &Kind, name: &str) -> bool {
    matches!(kind, Kind::Ident(found) if found == name)
}

fn unescape_fields(expr: &mut ast::Expr) {
    let unescape = |field: &mut String| {
        if let Some(name) = types::unescape(field) {
            *field = name;
        }
    };
    match &mut expr.kind {
        Kind::Select(select) if !matches!(select.operand.ty, Type::Object(_)) => unescape(&mut select.field),
        Kind::Call(call) if matches!(call.name.as_str(), "_?._" | "_[_]" | "_[?_]") => {
            if let Some(Kind::Const(ast::Const::String(field))) = call.args.get_mut(1).map(|field| &mut field.kind) {
                unescape(field);
            }
        }
        _ => {}
    }
    expr.kind.children_mut().into_iter().for_each(unescape_fields);
}

/// One of a policy's `variables`.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    /// Why it does not compile, if it does not.
    pub program: Result<Program, String>,
}
