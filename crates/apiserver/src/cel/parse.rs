//! Text to expressions: the CEL specification's grammar and its macros.

use super::CompileError;
use super::ast::{ACCU, Call, Const, Expr, Fold, HELD, Item, Kind, Select};
use super::lex::{Lexeme, Token, lex};
use super::types::is_identifier;

/// Brackets do not stand in each other deeper than this: the walks are recursive, and a thread's stack has 2 MiB.
const BRACKETS_MAX: usize = 100;
/// No tree is higher than this.
const HEIGHT_MAX: usize = 150;
/// Upstream's limit of an expression's length, in characters.
const SOURCE_MAX: usize = 100_000;

/// The operators that bind to the left, with how tightly.
const BINARY: [(&str, &str, u8); 12] = [
    ("<", "_<_", 1),
    ("<=", "_<=_", 1),
    (">=", "_>=_", 1),
    (">", "_>_", 1),
    ("==", "_==_", 1),
    ("!=", "_!=_", 1),
    ("in", "@in", 1),
    ("+", "_+_", 2),
    ("-", "_-_", 2),
    ("*", "_*_", 3),
    ("/", "_/_", 3),
    ("%", "_%_", 3),
];

pub fn parse(source: &str) -> Result<Expr, CompileError> {
    let size = source.chars().count();
    if size > SOURCE_MAX {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {SOURCE_MAX}");
        return Err(CompileError::new(source, 0, message));
    }
    let mut parser = Parser { source, tokens: lex(source)?, next: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("extraneous input", "<EOF>")),
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Lexeme>,
    next: usize,
    depth: usize,
}

type Parsed<T> = Result<T, CompileError>;

impl Parser<'_> {
    fn here(&self) -> &Lexeme {
        // The last is `End`, and nothing goes past it.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.here().token
    }

    fn at(&self) -> usize {
        self.here().at
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected("mismatched input", &format!("'{sign}'"))) }
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(CompileError::new(self.source, at, message.into()))
    }

    fn unexpected(&self, what: &str, wanted: &str) -> CompileError {
        let lexeme = self.here();
        let text = match lexeme.token {
            Token::End => "<EOF>",
            _ => self.source.get(lexeme.at..lexeme.end).unwrap_or_default(),
        };
        CompileError::new(self.source, lexeme.at, format!("Syntax error: {what} '{text}' expecting {wanted}"))
    }

    fn low(&self, expr: Expr) -> Parsed<Expr> {
        if expr.height > HEIGHT_MAX {
            return self.fail(expr.at, format!("expression recursion limit exceeded: {HEIGHT_MAX}"));
        }
        Ok(expr)
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > BRACKETS_MAX {
            return self.fail(self.at(), format!("expression recursion limit exceeded: {BRACKETS_MAX}"));
        }
        let condition = self.logical("||", "_||_")?;
        let at = self.at();
        let expr = if self.take("?") {
            let yes = self.logical("||", "_||_")?;
            self.expect(":")?;
            let no = self.expr()?;
            Expr::call(at, "_?_:_", vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        self.low(expr)
    }

    fn logical(&mut self, sign: &str, name: &'static str) -> Parsed<Expr> {
        let mut terms = Vec::new();
        let mut signs = Vec::new();
        loop {
            terms.push(if sign == "||" { self.logical("&&", "_&&_")? } else { self.binary(1)? });
            signs.push(self.at());
            if !self.take(sign) {
                signs.pop();
                return Ok(balance(name, terms, &signs));
            }
        }
    }

    fn binary(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        while let Token::Sign(sign) = self.peek()
            && let Some((_, name, level)) = BINARY.iter().find(|(s, _, level)| s == sign && *level >= least)
        {
            let at = self.at();
            self.advance();
            let right = self.binary(level + 1)?;
            left = self.low(Expr::call(at, name, vec![left, right]))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        for (sign, name) in [("!", "!_"), ("-", "-_")] {
            if !self.is(sign) {
                continue;
            }
            let mut count = 0_usize;
            while self.take(sign) {
                count += 1;
            }
            if sign == "-" && !count.is_multiple_of(2) {
                let folded = match self.peek() {
                    Token::Const(Const::Int(n)) => n.checked_neg().map(Const::Int),
                    Token::Const(Const::Uint(n)) if self.is_lowest_int(*n) => Some(Const::Int(i64::MIN)),
                    Token::Const(Const::Double(n)) => Some(Const::Double(-n)),
                    _ => None,
                };
                if let Some(folded) = folded {
                    self.advance();
                    return self.members(Expr::new(at, Kind::Const(folded)));
                }
            }
            let operand = self.member()?;
            return Ok(if count.is_multiple_of(2) { operand } else { Expr::call(at, name, vec![operand]) });
        }
        self.member()
    }

    fn is_lowest_int(&self, n: u64) -> bool {
        let lexeme = self.here();
        n == 1 << 63 && self.source.get(lexeme.at..lexeme.end).is_some_and(|text| !text.ends_with(['u', 'U']))
    }

    fn member(&mut self) -> Parsed<Expr> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut expr: Expr) -> Parsed<Expr> {
        loop {
            expr = self.low(expr)?;
            let at = self.at();
            if self.take(".?") {
                let field = Expr::new(at, Kind::Const(Const::String(self.field()?)));
                expr = Expr::call(at, "_?._", vec![expr, field]);
            } else if self.take(".") {
                let name = self.field()?;
                let open = self.at();
                if self.take("(") {
                    let args = self.list(")")?;
                    expr = self.method_or_macro(open, expr, name, args)?;
                } else {
                    expr = Expr::new(at, Kind::Select(Box::new(Select { operand: expr, field: name, test: false })));
                }
            } else if self.take("[?") || self.take("[") {
                let optional = self.tokens.get(self.next - 1).is_some_and(|l| l.token == Token::Sign("[?"));
                let index = self.expr()?;
                self.expect("]")?;
                expr = Expr::call(at, if optional { "_[?_]" } else { "_[_]" }, vec![expr, index]);
            } else if self.is("{")
                && let Some(name) = expr.dotted()
            {
                self.advance();
                expr = Expr::new(at, Kind::Struct(name, self.fields()?));
            } else {
                return Ok(expr);
            }
        }
    }

    /// A name after a dot: reserved words are fine there.
    fn field(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Ident(name) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            Token::End => self.fail(self.here().at, "Syntax error: no viable alternative at input '.'"),
            _ => Err(self.unexpected("no viable alternative at input", "IDENTIFIER")),
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        match self.peek().clone() {
            Token::Const(Const::Uint(n)) if self.is_lowest_int(n) => self.fail(at, "invalid int literal"),
            Token::Const(value) => {
                self.advance();
                Ok(Expr::new(at, Kind::Const(value)))
            }
            Token::Ident(name) => {
                self.advance();
                let open = self.at();
                if self.take("(") {
                    let args = self.list(")")?;
                    return self.function_or_macro(open, name, args);
                }
                if !is_identifier(&name) {
                    return self.fail(at, format!("reserved identifier: {name}"));
                }
                Ok(Expr::ident(at, &name))
            }
            Token::Sign(".") => {
                self.advance();
                let name = self.field()?;
                Ok(Expr::ident(at, &name))
            }
            Token::Sign("(") => {
                self.advance();
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.advance();
                self.elements(at)
            }
            Token::Sign("[?") => {
                // `[?x]`: the sign belongs to the first element.
                self.advance();
                let value = self.expr()?;
                let first = Item { key: (), value, optional: true };
                let more = self.take(",");
                let Expr { kind: Kind::List(rest), .. } = (if more { self.elements(at)? } else {
                    self.expect("]")?;
                    Expr::new(at, Kind::List(Vec::new()))
                }) else {
                    return self.fail(at, "Syntax error: not a list");
                };
                Ok(Expr::new(at, Kind::List(std::iter::once(first).chain(rest).collect())))
            }
            Token::Sign("{") => {
                self.advance();
                self.entries(at)
            }
            _ => Err(self.unexpected(
                "mismatched input",
                "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
            )),
        }
    }

    fn list(&mut self, close: &str) -> Parsed<Vec<Expr>> {
        let mut out = Vec::new();
        while !self.take(close) {
            if !out.is_empty() {
                self.expect(",")?;
            }
            out.push(self.expr()?);
        }
        Ok(out)
    }

    fn elements(&mut self, at: usize) -> Parsed<Expr> {
        let mut out = Vec::new();
        while !self.take("]") {
            let optional = self.take("?");
            out.push(Item { key: (), value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Expr::new(at, Kind::List(out)))
    }

    fn entries(&mut self, at: usize) -> Parsed<Expr> {
        Ok(Expr::new(at, Kind::Map(self.items(Self::expr)?)))
    }

    fn fields(&mut self) -> Parsed<Vec<Item<String>>> {
        self.items(Self::field)
    }

    /// `[?]KEY: VALUE, …}`
    fn items<K>(&mut self, key: fn(&mut Self) -> Parsed<K>) -> Parsed<Vec<Item<K>>> {
        let mut out = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let key = key(self)?;
            self.expect(":")?;
            out.push(Item { key, value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(out)
    }

    // ---- macros

    fn function_or_macro(&self, at: usize, name: String, mut args: Vec<Expr>) -> Parsed<Expr> {
        if name != "has" || args.len() != 1 {
            return Ok(Expr::call(at, &name, args));
        }
        match args.pop().map(|arg| (arg.at, arg.kind)) {
            Some((_, Kind::Select(mut select))) if !select.test => {
                select.test = true;
                Ok(Expr::new(at, Kind::Select(select)))
            }
            other => self.fail(other.map_or(at, |(at, _)| at), "invalid argument to has() macro"),
        }
    }

    fn method_or_macro(&self, at: usize, target: Expr, name: String, mut args: Vec<Expr>) -> Parsed<Expr> {
        let variables = match (name.as_str(), args.len()) {
            ("all" | "exists" | "exists_one" | "existsOne" | "filter" | "map", 2) => 1,
            ("map", 3) => 1,
            ("optMap" | "optFlatMap" | "sortBy", 2) => 1,
            ("all" | "exists" | "existsOne", 3) => 2,
            ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => 2,
            _ => {
                let call = Call { name, method: true, args: std::iter::once(target).chain(args).collect(), run: None };
                return Ok(Expr::new(at, Kind::Call(Box::new(call))));
            }
        };
        let mut names = Vec::new();
        for arg in args.drain(..variables) {
            match arg.kind {
                Kind::Ident(name) if name != ACCU && name != "__result__" => names.push(name),
                _ => return self.fail(arg.at, "argument must be a simple name"),
            }
        }
        if variables == 2 && names.first() == names.get(1) {
            return self.fail(at, "duplicate variable name");
        }
        let mut names = names.into_iter();
        let mut args = args.into_iter();
        let (var, var2) = (names.next().unwrap_or_default(), names.next());
        let (Some(first), second) = (args.next(), args.next()) else { return self.fail(at, "missing argument") };
        Ok(expand(at, target, &name, (var, var2), first, second))
    }
}

/// A chain of `&&` or `||` as a balanced tree: its height is the logarithm of its length.
fn balance(name: &str, mut terms: Vec<Expr>, signs: &[usize]) -> Expr {
    let middle = signs.len() / 2;
    match (signs.get(middle), terms.len()) {
        (Some(at), 2..) => {
            let right = terms.split_off(middle + 1);
            let sides = vec![balance(name, terms, &signs[..middle]), balance(name, right, &signs[middle + 1..])];
            Expr::call(*at, name, sides)
        }
        _ => terms.pop().unwrap_or_else(|| Expr::new(0, Kind::Const(Const::Null))),
    }
}

fn expand(
    at: usize,
    target: Expr,
    name: &str,
    vars: (String, Option<String>),
    first: Expr,
    second: Option<Expr>,
) -> Expr {
    let accu = || Expr::ident(at, ACCU);
    let value = |c: Const| Expr::new(at, Kind::Const(c));
    let call = |name: &str, args: Vec<Expr>| Expr::call(at, name, args);
    let one = |e: Expr| Expr::new(at, Kind::List(vec![Item { key: (), value: e, optional: false }]));
    let empty_list = || Expr::new(at, Kind::List(Vec::new()));
    let empty_map = || Expr::new(at, Kind::Map(Vec::new()));
    let (var, var2) = vars;
    let fold = |range: Expr, init: Expr, condition: Expr, step: Expr, result: Expr| {
        let fold =
            Fold { range, var: var.clone(), var2: var2.clone(), accu: ACCU.into(), init, condition, step, result };
        Expr::new(at, Kind::Fold(Box::new(fold)))
    };
    let always = || value(Const::Bool(true));
    // With a filter it comes first and what is made of the element second.
    let filtered = |filter: Option<Expr>, step: Expr| match filter {
        Some(filter) => call("_?_:_", vec![filter, step, accu()]),
        None => step,
    };
    match name {
        "all" => {
            let condition = call("@not_strictly_false", vec![accu()]);
            fold(target, value(Const::Bool(true)), condition, call("_&&_", vec![accu(), first]), accu())
        }
        "exists" => {
            let condition = call("@not_strictly_false", vec![call("!_", vec![accu()])]);
            fold(target, value(Const::Bool(false)), condition, call("_||_", vec![accu(), first]), accu())
        }
        "exists_one" | "existsOne" => {
            let more = call("_+_", vec![accu(), value(Const::Int(1))]);
            let step = filtered(Some(first), more);
            let result = call("_==_", vec![accu(), value(Const::Int(1))]);
            fold(target, value(Const::Int(0)), always(), step, result)
        }
        "filter" => {
            let element = Expr::ident(at, &var);
            let step = filtered(Some(first), call("_+_", vec![accu(), one(element)]));
            fold(target, empty_list(), always(), step, accu())
        }
        "map" | "transformList" => {
            let (filter, made) = split(first, second);
            fold(target, empty_list(), always(), filtered(filter, call("_+_", vec![accu(), one(made)])), accu())
        }
        "transformMap" => {
            let (filter, made) = split(first, second);
            let step = call("cel.@mapInsert", vec![accu(), Expr::ident(at, &var), made]);
            fold(target, empty_map(), always(), filtered(filter, step), accu())
        }
        "transformMapEntry" => {
            let (filter, made) = split(first, second);
            fold(target, empty_map(), always(), filtered(filter, call("cel.@mapInsert", vec![accu(), made])), accu())
        }
        "sortBy" => {
            let held = || Expr::ident(at, HELD);
            let keys = expand(at, held(), "map", (var, None), first, None);
            bind(at, HELD, target, Expr::method(at, "@sortByAssociatedKeys", vec![held(), keys]))
        }
        // optMap and optFlatMap.
        _ => {
            let held = || Expr::ident(at, HELD);
            let bound = bind(at, &var, Expr::method(at, "value", vec![held()]), first);
            let made = if name == "optMap" { call("optional.of", vec![bound]) } else { bound };
            let is_there = Expr::method(at, "hasValue", vec![held()]);
            bind(at, HELD, target, call("_?_:_", vec![is_there, made, call("optional.none", Vec::new())]))
        }
    }
}

/// `result`, in which `name` is a value: a loop over nothing, whose accumulator is the variable.
fn bind(at: usize, name: &str, value: Expr, result: Expr) -> Expr {
    let fold = Fold {
        range: Expr::new(at, Kind::List(Vec::new())),
        var: "#unused".into(),
        var2: None,
        accu: name.into(),
        init: value,
        condition: Expr::new(at, Kind::Const(Const::Bool(false))),
        step: Expr::ident(at, name),
        result,
    };
    Expr::new(at, Kind::Fold(Box::new(fold)))
}

fn split(first: Expr, second: Option<Expr>) -> (Option<Expr>, Expr) {
    match second {
        Some(made) => (Some(first), made),
        None => (None, first),
    }
}
