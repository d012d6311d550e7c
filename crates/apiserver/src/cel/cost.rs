//! What an expression may cost at most, before it is ever evaluated: custom resources' rules that might exceed
//! upstream's budget are refused with the definition.

use std::collections::BTreeMap;

use super::Program;
use super::ast::{ACCU, Call, Const, Expr, Fold, HELD, Kind};
use super::types::Type;

/// The least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub min: u64,
    pub max: u64,
}

const UNKNOWN: Estimate = Estimate { min: 0, max: u64::MAX };

impl Estimate {
    pub fn fixed(n: u64) -> Estimate {
        Estimate { min: n, max: n }
    }

    fn plus(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// One for each so many, rounded up.
    fn per(self, units: u64) -> Estimate {
        Estimate { min: self.min.div_ceil(units), max: self.max.div_ceil(units) }
    }

    fn or(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// How much can be at a place of an object.
#[derive(Debug, Default)]
pub struct Place {
    /// Characters, elements or entries; 0 of what has no size.
    pub max: u64,
    /// By the name that expressions use.
    pub fields: BTreeMap<String, Place>,
    /// Of a list's elements or a map's values.
    pub items: Option<Box<Place>>,
}

impl Program {
    /// What evaluating costs where `self` and `oldSelf` are values of that place.
    pub fn estimate(&self, place: &Place) -> Estimate {
        Estimator { root: place, locals: Vec::new() }.cost(&self.expr).cost
    }
}

/// What is known of one expression.
#[derive(Clone, Copy)]
struct Known<'p> {
    cost: Estimate,
    size: Option<Estimate>,
    /// Of the elements of what it makes.
    element: Option<Estimate>,
    place: Option<&'p Place>,
}

impl<'p> Known<'p> {
    fn cost(cost: Estimate) -> Known<'p> {
        Known { cost, size: None, element: None, place: None }
    }

    fn size(&self) -> Estimate {
        self.size.unwrap_or(UNKNOWN)
    }
}

struct Estimator<'p> {
    root: &'p Place,
    locals: Vec<(String, Known<'p>)>,
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}

impl<'p> Estimator<'p> {
    fn cost(&mut self, expr: &Expr) -> Known<'p> {
        let mut known = match &expr.kind {
            Kind::Const(value) => {
                let size = match value {
                    Const::String(text) => text.chars().count() as u64,
                    Const::Bytes(bytes) => bytes.len() as u64,
                    _ => 1,
                };
                Known { size: Some(Estimate::fixed(size)), ..Known::cost(Estimate::fixed(0)) }
            }
            Kind::Ident(name) => self.ident(name),
            Kind::Select(select) => {
                let operand = self.cost(&select.operand);
                if select.test {
                    return Known { size: Some(Estimate::fixed(1)), ..Known::cost(operand.cost) };
                }
                let reads = matches!(select.operand.ty, Type::Map(_) | Type::Object(_));
                let cost = operand.cost.plus(Estimate::fixed(reads.into()));
                let place = operand.place.and_then(|p| p.fields.get(&select.field).or(p.items.as_deref()));
                Known { place, ..Known::cost(cost) }
            }
            Kind::Call(call) => self.call(call),
            Kind::List(items) => {
                let parts: Vec<Known<'p>> = items.iter().map(|item| self.cost(&item.value)).collect();
                let element = parts.iter().map(Known::size).reduce(Estimate::or);
                let cost = parts.iter().fold(Estimate::fixed(10), |sum, part| sum.plus(part.cost));
                let size = Some(Estimate::fixed(items.len() as u64));
                Known { cost, size, element: element.or(Some(Estimate::fixed(0))), place: None }
            }
            Kind::Map(entries) => {
                let mut cost = Estimate::fixed(30);
                let mut element: Option<Estimate> = None;
                for entry in entries {
                    let (key, value) = (self.cost(&entry.key), self.cost(&entry.value));
                    cost = cost.plus(key.cost).plus(value.cost);
                    element = Some(element.map_or(value.size(), |e| e.or(value.size())));
                }
                Known { cost, size: Some(Estimate::fixed(entries.len() as u64)), element, place: None }
            }
            Kind::Struct(_, fields) => {
                let sum = fields.iter().fold(Estimate::fixed(40), |sum, f| sum.plus(self.cost(&f.value).cost));
                Known::cost(sum)
            }
            Kind::Fold(fold) => self.fold(fold),
        };
        let by_place = known.place.map(|place| Estimate { min: 0, max: place.max });
        let by_type = is_scalar(&expr.ty).then(|| Estimate::fixed(1));
        known.size = known.size.or(by_place).or(by_type);
        known
    }

    fn ident(&self, name: &str) -> Known<'p> {
        if let Some((_, local)) = self.locals.iter().rev().find(|(n, _)| n == name) {
            return Known { cost: Estimate::fixed(1), ..*local };
        }
        // Whatever is not a loop's is taken for the whole, as upstream does.
        Known { place: Some(self.root), ..Known::cost(Estimate::fixed(1)) }
    }

    fn fold(&mut self, fold: &Fold) -> Known<'p> {
        let range = self.cost(&fold.range);
        let init = self.cost(&fold.init);
        let base = self.locals.len();
        self.locals.push((fold.accu.clone(), Known { cost: Estimate::fixed(1), ..init }));
        if fold.accu != ACCU {
            // Only a name for a value.
            let result = self.cost(&fold.result);
            self.locals.truncate(base);
            let made = if fold.accu == HELD { Estimate::fixed(0) } else { range.cost };
            return Known { cost: made.plus(init.cost).plus(result.cost), ..result };
        }
        let is_map = matches!(fold.range.ty, Type::Map(_));
        let item = Known {
            cost: Estimate::fixed(1),
            size: if range.place.is_some() { range.element } else { Some(Estimate { min: 0, max: self.root.max }) },
            element: None,
            place: range.place.and_then(|p| p.items.as_deref()),
        };
        // Keys have no declared length; upstream takes none for it.
        let key_size = range.place.map(|_| Estimate::fixed(0));
        let key = Known { size: key_size, ..Known::cost(Estimate::fixed(1)) };
        match &fold.var2 {
            Some(second) => {
                self.locals.push((fold.var.clone(), key));
                self.locals.push((second.clone(), item));
            }
            None => self.locals.push((fold.var.clone(), if is_map { key } else { item })),
        }
        let round = self.cost(&fold.condition).cost;
        let step = self.cost(&fold.step);
        self.locals.truncate(base + 1);
        let result = self.cost(&fold.result).cost;
        self.locals.truncate(base);
        let rounds = range.size().times(step.cost.plus(round));
        let cost = range.cost.plus(init.cost).plus(result).plus(rounds);
        let makes_container = matches!(fold.init.kind, Kind::List(_) | Kind::Map(_));
        Known {
            cost,
            size: if makes_container { Some(range.size()) } else { init.size },
            element: if makes_container { step.element } else { None },
            place: None,
        }
    }

    fn call(&mut self, call: &Call) -> Known<'p> {
        let args: Vec<Known<'p>> = call.args.iter().map(|arg| self.cost(arg)).collect();
        let sum = args.iter().fold(Estimate::fixed(0), |sum, arg| sum.plus(arg.cost));
        let size = |at: usize| args.get(at).map_or(UNKNOWN, Known::size);
        let ty = |at: usize| call.args.get(at).map_or(&Type::Dyn, |arg| &arg.ty);
        let one = Estimate::fixed(1);
        let of = |cost: Estimate, size: Option<Estimate>| Known { size, ..Known::cost(cost.plus(sum)) };
        match call.name.as_str() {
            "_&&_" | "_||_" => {
                let min = args.first().map_or(0, |a| a.cost.min);
                of(Estimate { min: 0, max: 0 }, Some(one)).with_min(min)
            }
            "_?_:_" => match args.as_slice() {
                [condition, yes, no] => Known {
                    cost: condition.cost.plus(yes.cost.or(no.cost)),
                    size: Some(yes.size().or(no.size())),
                    element: yes.element.zip(no.element).map(|(a, b)| a.or(b)),
                    place: None,
                },
                _ => of(one, None),
            },
            "dyn" => Known { cost: sum.plus(one), ..args.first().copied().unwrap_or(Known::cost(one)) },
            "_+_" => {
                let both = size(0).plus(size(1));
                let element = args.first().and_then(|a| a.element).zip(args.get(1).and_then(|b| b.element));
                let is_text = |t: &Type| matches!(t, Type::String | Type::Bytes | Type::Dyn);
                let is_number = |t: &Type| is_scalar(t);
                let cost = if is_text(ty(0)) && is_text(ty(1)) { both.per(10) } else { one };
                let size = if is_number(ty(0)) || is_number(ty(1)) { one } else { both };
                let element = element.map(|(a, b)| a.or(b)).or(args.get(1).and_then(|b| b.element));
                Known { element, ..of(cost, Some(size)) }
            }
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => {
                let is_equality = matches!(call.name.as_str(), "_==_" | "_!=_");
                let is_text = |t: &Type| matches!(t, Type::String | Type::Bytes | Type::Dyn);
                let is_fixed = !is_equality && !is_text(ty(0)) && !is_text(ty(1))
                    || matches!((ty(0), ty(1)), (Type::Named(_), Type::Named(_)));
                let smaller = size(0).max.min(size(1).max);
                let least = u64::from(smaller > 0);
                let cost = Estimate { min: least, max: smaller }.per(10);
                of(if is_fixed { one } else { cost }, Some(one))
            }
            "@in" if !matches!(ty(1), Type::Map(_)) => of(size(1), Some(one)),
            "_[_]" => {
                let target = args.first().copied().unwrap_or(Known::cost(one));
                let place = target.place.and_then(|p| p.items.as_deref());
                Known { cost: sum.plus(one), size: target.element, element: None, place }
            }
            "bytes" => of(size(0).per(10), Some(Estimate { min: size(0).min, max: size(0).max.saturating_mul(4) })),
            "string" if matches!(ty(0), Type::Bytes | Type::Dyn) => of(size(0).per(10).or(one), Some(size(0))),
            "strings.quote" => of(size(0).per(10), Some(size(0).times(Estimate::fixed(2)).plus(Estimate::fixed(2)))),
            "startsWith" | "endsWith" => of(size(1).per(10), Some(one)),
            "matches" | "find" | "findAll" => {
                let found = Estimate { min: 0, max: size(0).max };
                of(size(0).plus(one).per(10).times(size(1).per(4)), Some(found))
            }
            "contains" => of(size(0).per(10).times(size(1).per(10)), Some(one)),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match ty(0) {
                Type::List(element) => {
                    let inner = args.first().and_then(|a| a.place).and_then(|p| p.items.as_deref());
                    let inner = inner.map_or(UNKNOWN, |p| Estimate { min: 0, max: p.max });
                    let is_text = matches!(**element, Type::String | Type::Bytes);
                    let each = if is_text { one.plus(inner.per(10)) } else { one };
                    of(size(0).times(each), None)
                }
                _ => of(size(0).per(10), None),
            },
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" | "charAt" => {
                of(size(0).per(10), Some(size(0)))
            }
            "replace" => {
                // At worst every smallest part becomes the largest replacement.
                let count = size(0).max.checked_div(size(1).min).unwrap_or(size(0).max.saturating_add(1));
                let max = count.saturating_mul(size(2).max).saturating_add(size(0).max);
                of(size(0).per(5), Some(Estimate { min: 0, max }))
            }
            "split" => of(size(0).per(5), Some(Estimate { min: 0, max: size(0).max })),
            "join" => {
                let inner = args.first().and_then(|a| a.place).and_then(|p| p.items.as_deref());
                let inner = inner.map(|p| Estimate { min: 0, max: p.max });
                let element = args.first().and_then(|a| a.element).or(inner).unwrap_or(UNKNOWN);
                let separators = if args.len() > 1 { size(1).times(size(0)) } else { Estimate::fixed(0) };
                let made = size(0).times(element).plus(separators);
                of(made.per(10), Some(made))
            }
            "format" => of(size(0).per(10), None),
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" | "isURL" => {
                of(size(0).per(10), None)
            }
            "ip" if !call.method => of(size(0).per(10), None),
            "ip.isCanonical" => of(size(0).per(5), Some(one)),
            "containsIP" | "containsCIDR" => {
                let text = if *ty(1) == Type::String { size(1).per(10) } else { Estimate::fixed(0) };
                let more = if call.name == "containsCIDR" { 3 } else { 0 };
                of(Estimate { min: 1 + more.min(2), max: 4 + more }.plus(text), Some(one))
            }
            "validate" => of(size(1).per(10).times(Estimate::fixed(32)), None),
            "check" => of(Estimate::fixed(350_000), None),
            "sort" | "distinct" | "@sortByAssociatedKeys" => {
                of(Estimate::fixed(10).plus(size(0).times(size(0))), Some(size(0)))
            }
            "reverse" | "slice" | "flatten" => of(Estimate::fixed(11).plus(size(0)), Some(size(0))),
            "lists.range" => {
                let count = match call.args.first().map(|a| &a.kind) {
                    Some(Kind::Const(Const::Int(n))) => Estimate::fixed((*n).max(0).unsigned_abs()),
                    _ => UNKNOWN,
                };
                of(Estimate::fixed(11).plus(count), Some(count))
            }
            "sets.contains" | "sets.intersects" => of(one.plus(size(0).times(size(1))), Some(one)),
            "sets.equivalent" => of(one.plus(size(0).times(size(1)).times(Estimate::fixed(2))), Some(one)),
            "cel.@mapInsert" => Known { element: args.last().map(Known::size), ..of(one, None) },
            _ => of(one, None),
        }
    }
}

impl Known<'_> {
    /// Lazy operators may cost as little as their first side.
    fn with_min(mut self, min: u64) -> Self {
        self.cost.min = min;
        self
    }
}
