//! Operators and conversions.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::Cx;
use super::time;
use super::value::{Evaluated, Fault, Items, Key, Library, Val};

type Args<'c, 'v> = &'c [Val<'v>];

fn overflow<T>(what: &str) -> Evaluated<T> {
    Err(Fault::Failed(format!("{what} overflow")))
}

fn checked<'v>(n: Option<i64>) -> Evaluated<Val<'v>> {
    n.map_or_else(|| overflow("integer"), |n| Ok(Val::Int(n)))
}

fn checked_unsigned<'v>(n: Option<u64>) -> Evaluated<Val<'v>> {
    n.map_or_else(|| overflow("unsigned integer"), |n| Ok(Val::Uint(n)))
}

fn checked_duration<'v>(n: Option<i64>) -> Evaluated<Val<'v>> {
    n.map_or_else(|| overflow("duration"), |n| Ok(Val::Duration(n)))
}

fn timestamp<'v>(nanos: i128) -> Evaluated<Val<'v>> {
    if time::is_in_range(nanos) { Ok(Val::Timestamp(nanos)) } else { overflow("timestamp") }
}

fn as_doubles(a: &Val<'_>, b: &Val<'_>) -> Option<(f64, f64)> {
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => Some((*a, *b)),
        _ => None,
    }
}

/// Adds; owns its arguments, so that a loop's accumulator grows in place.
pub fn add<'v>(cx: &mut Cx<'v>, args: Vec<Val<'v>>) -> Evaluated<Val<'v>> {
    let Ok([a, b]) = <[Val<'v>; 2]>::try_from(args) else { return Err(Fault::no_such_overload()) };
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => {
            cx.charge(1)?;
            checked(a.checked_add(b))
        }
        (Val::String(a), Val::String(b)) => {
            cx.charge_text(a.chars().count() as u64 + b.chars().count() as u64)?;
            Ok(Val::text([&*a, &*b].concat()))
        }
        (Val::Bytes(a), Val::Bytes(b)) => {
            cx.charge_text(a.len() as u64 + b.len() as u64)?;
            Ok(Val::Bytes([&*a, &*b].concat().into()))
        }
        (Val::List(mut list), more @ (Val::List(_) | Val::JsonList(_))) => {
            let more = more.items()?;
            let is_own = Rc::strong_count(&list) == 1;
            let copied = more.len() + if is_own { 0 } else { list.len() };
            cx.charge((copied as u64 / 8).max(1))?;
            Rc::make_mut(&mut list).extend(more.iter());
            Ok(Val::List(list))
        }
        (list @ Val::JsonList(_), more @ (Val::List(_) | Val::JsonList(_))) => {
            let (list, more) = (list.items()?, more.items()?);
            cx.charge(((list.len() + more.len()) as u64 / 8).max(1))?;
            Ok(Val::list(list.iter().chain(more.iter()).collect()))
        }
        (a, b) => {
            cx.charge(1)?;
            match (&a, &b) {
                (Val::Uint(a), Val::Uint(b)) => checked_unsigned(a.checked_add(*b)),
                (Val::Duration(a), Val::Duration(b)) => checked_duration(a.checked_add(*b)),
                (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
                    timestamp(t + i128::from(*d))
                }
                _ => as_doubles(&a, &b).map(|(a, b)| Val::Double(a + b)).ok_or_else(Fault::no_such_overload),
            }
        }
    }
}

pub fn plus<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    add(cx, args.to_vec())
}

pub fn minus<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(a), Val::Int(b)] => checked(a.checked_sub(*b)),
        [Val::Uint(a), Val::Uint(b)] => checked_unsigned(a.checked_sub(*b)),
        [Val::Duration(a), Val::Duration(b)] => checked_duration(a.checked_sub(*b)),
        [Val::Timestamp(t), Val::Duration(d)] => timestamp(t - i128::from(*d)),
        [Val::Timestamp(a), Val::Timestamp(b)] => checked_duration(i64::try_from(a - b).ok()),
        [a, b] => as_doubles(a, b).map(|(a, b)| Val::Double(a - b)).ok_or_else(Fault::no_such_overload),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn times<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(a), Val::Int(b)] => checked(a.checked_mul(*b)),
        [Val::Uint(a), Val::Uint(b)] => checked_unsigned(a.checked_mul(*b)),
        [a, b] => as_doubles(a, b).map(|(a, b)| Val::Double(a * b)).ok_or_else(Fault::no_such_overload),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn divide<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(Fault::new("division by zero")),
        [Val::Int(a), Val::Int(b)] => checked(a.checked_div(*b)),
        [Val::Uint(a), Val::Uint(b)] => checked_unsigned(a.checked_div(*b)),
        [a, b] => as_doubles(a, b).map(|(a, b)| Val::Double(a / b)).ok_or_else(Fault::no_such_overload),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn modulo<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(Fault::new("modulus by zero")),
        [Val::Int(a), Val::Int(b)] => checked(a.checked_rem(*b)),
        [Val::Uint(a), Val::Uint(b)] => checked_unsigned(a.checked_rem(*b)),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn negate<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(a)] => checked(a.checked_neg()),
        [Val::Double(a)] => Ok(Val::Double(-a)),
        [Val::Duration(a)] => checked_duration(a.checked_neg()),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn not<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Bool(b)] => Ok(Val::Bool(!b)),
        _ => Err(Fault::no_such_overload()),
    }
}

// ---- equality and order

/// Whether two values are the same; numbers of any kind compare, everything else only with its own kind. Deep
/// values pay for what is looked at.
pub fn equal<'v>(cx: &mut Cx<'v>, a: &Val<'v>, b: &Val<'v>) -> Evaluated<bool> {
    if let Some(order) = numbers(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Val::Null, Val::Null) | (Val::Optional(None), Val::Optional(None)) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::String(a), Val::String(b)) => **a == **b,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Duration(a), Val::Duration(b)) => a == b,
        (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Optional(Some(a)), Val::Optional(Some(b))) => return equal(cx, a, b),
        (Val::Library(a), Val::Library(b)) => match (&**a, &**b) {
            (Library::Quantity(a), Library::Quantity(b)) => a.compare(*b).is_eq(),
            (Library::Semver(a), Library::Semver(b)) => a.compare(b).is_eq(),
            (a, b) => a == b,
        },
        (Val::List(_) | Val::JsonList(_), Val::List(_) | Val::JsonList(_)) => {
            let (a, b) = (a.items()?, b.items()?);
            if a.len() != b.len() {
                return Ok(false);
            }
            cx.charge_text(a.len() as u64)?;
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(cx, &a, &b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Val::Json(a), Val::Json(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            cx.charge_text(a.len() as u64)?;
            for ((ka, va), (kb, vb)) in a.iter().zip(b.iter()) {
                if ka != kb || !equal(cx, &va.into(), &vb.into())? {
                    return Ok(false);
                }
            }
            true
        }
        (Val::Map(map), other @ (Val::Map(_) | Val::Json(_))) | (other @ Val::Json(_), Val::Map(map)) => {
            if map.len() as u64 != other.size() {
                return Ok(false);
            }
            cx.charge_text(map.len() as u64)?;
            for (key, value) in map.iter() {
                match other.find(key)? {
                    Some(found) if equal(cx, value, &found)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Val::Struct(n, a), Val::Struct(m, b)) => {
            if n != m || a.len() != b.len() {
                return Ok(false);
            }
            for ((ka, va), (kb, vb)) in a.iter().zip(b.iter()) {
                cx.charge(1)?;
                if ka != kb || !equal(cx, va, vb)? {
                    return Ok(false);
                }
            }
            true
        }
        _ => false,
    })
}

/// The order of two numbers; `Some(None)` if one is not a number (NaN), `None` if these are no numbers.
fn numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Option<Ordering>> {
    let integer = |v: &Val<'_>| match v {
        Val::Int(i) => Some(i128::from(*i)),
        Val::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => Some(a.partial_cmp(b)),
        (Val::Double(a), b) => integer(b).map(|b| against(*a, b)),
        (a, Val::Double(b)) => integer(a).map(|a| against(*b, a).map(Ordering::reverse)),
        _ => Some(integer(a)?.partial_cmp(&integer(b)?)),
    }
}

fn against(double: f64, integer: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Beyond these no integer goes, and within them the whole part is exact.
    if double.abs() > 1e30 {
        return Some(if double > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let whole = double.trunc();
    let order = (whole as i128).cmp(&integer);
    Some(order.then(double.partial_cmp(&whole).unwrap_or(Ordering::Equal)))
}

/// The order of two values that have one; `None` with NaN.
pub fn compare(a: &Val<'_>, b: &Val<'_>) -> Evaluated<Option<Ordering>> {
    if let Some(order) = numbers(a, b) {
        return Ok(order);
    }
    Ok(Some(match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
        (Val::String(a), Val::String(b)) => (**a).cmp(&**b),
        (Val::Bytes(a), Val::Bytes(b)) => a.cmp(b),
        (Val::Duration(a), Val::Duration(b)) => a.cmp(b),
        (Val::Timestamp(a), Val::Timestamp(b)) => a.cmp(b),
        _ => return Err(Fault::no_such_overload()),
    }))
}

fn charge_smaller<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<()> {
    let smaller = args.iter().map(|v| if let Val::String(s) = v { s.len() as u64 } else { v.size() }).min();
    cx.charge_text(smaller.unwrap_or(1))
}

pub fn equals<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    charge_smaller(cx, args)?;
    let [a, b] = args else { return Err(Fault::no_such_overload()) };
    equal(cx, a, b).map(Val::Bool)
}

pub fn not_equals<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    charge_smaller(cx, args)?;
    let [a, b] = args else { return Err(Fault::no_such_overload()) };
    equal(cx, a, b).map(|same| Val::Bool(!same))
}

fn ordered<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>, wanted: fn(Ordering) -> bool) -> Evaluated<Val<'v>> {
    charge_smaller(cx, args)?;
    let [a, b] = args else { return Err(Fault::no_such_overload()) };
    Ok(Val::Bool(compare(a, b)?.is_some_and(wanted)))
}

pub fn less<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    ordered(cx, args, Ordering::is_lt)
}

pub fn less_equals<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    ordered(cx, args, Ordering::is_le)
}

pub fn greater<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    ordered(cx, args, Ordering::is_gt)
}

pub fn greater_equals<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    ordered(cx, args, Ordering::is_ge)
}

// ---- containers

pub fn is_in<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [value, container] = args else { return Err(Fault::no_such_overload()) };
    match container {
        Val::List(_) | Val::JsonList(_) => {
            let items = container.items()?;
            cx.charge(items.len() as u64)?;
            position(cx, items, value).map(|at| Val::Bool(at.is_some()))
        }
        _ => {
            cx.charge(1)?;
            Ok(Val::Bool(Key::of(value).is_ok_and(|key| matches!(container.find(&key), Ok(Some(_))))))
        }
    }
}

/// Where a value stands first in a list.
pub fn position<'v>(cx: &mut Cx<'v>, items: Items<'_, 'v>, value: &Val<'v>) -> Evaluated<Option<usize>> {
    for (at, item) in items.iter().enumerate() {
        if equal(cx, &item, value)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn element<'v>(container: &Val<'v>, index: &Val<'v>) -> Evaluated<Option<Val<'v>>> {
    match container {
        Val::List(_) | Val::JsonList(_) => {
            let at = match index {
                Val::Int(i) => usize::try_from(*i).ok(),
                Val::Uint(u) => usize::try_from(*u).ok(),
                Val::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                _ => return Err(Fault::Failed(format!("unsupported index type '{}' in list", index.type_name()))),
            };
            Ok(at.and_then(|at| container.items().ok()?.get(at)))
        }
        Val::Optional(inner) => inner.as_ref().map_or(Ok(None), |inner| element(inner, index)),
        _ => container.find(&Key::of(index)?),
    }
}

fn shown(index: &Val<'_>) -> String {
    match index {
        Val::String(text) => text.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Bool(b) => b.to_string(),
        other => other.type_name().to_owned(),
    }
}

pub fn index<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let [container, at] = args else { return Err(Fault::no_such_overload()) };
    let found = element(container, at)?;
    match (container, found) {
        (Val::Optional(_), found) => Ok(Val::Optional(found.map(Rc::new))),
        (_, Some(value)) => Ok(value),
        (Val::List(_) | Val::JsonList(_), None) => Err(Fault::Failed(format!("index out of bounds: {}", shown(at)))),
        _ => Err(Fault::no_such_key(&shown(at))),
    }
}

/// `a.?b` and `a[?b]`.
pub fn optional_index<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let [container, at] = args else { return Err(Fault::no_such_overload()) };
    let found = match (container, at) {
        // Of what has no fields there is none.
        (Val::List(_) | Val::JsonList(_) | Val::Map(_) | Val::Json(_) | Val::Struct(..) | Val::Optional(_), _) => {
            element(container, at).unwrap_or(None)
        }
        _ => None,
    };
    Ok(Val::Optional(found.map(Rc::new)))
}

pub fn size<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [value] = args else { return Err(Fault::no_such_overload()) };
    // Characters have to be counted.
    cx.charge(1 + if let Val::String(text) = value { text.len() as u64 / 4096 } else { 0 })?;
    match value {
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::JsonList(_) | Val::Map(_) | Val::Json(_) => {
            Ok(Val::Int(value.size() as i64))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

// ---- optionals

pub fn optional_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    args.first().cloned().map(Val::some).ok_or_else(Fault::no_such_overload)
}

pub fn optional_none<'v>(cx: &mut Cx<'v>, _: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    Ok(Val::Optional(None))
}

pub fn optional_of_non_zero<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let [value] = args else { return Err(Fault::no_such_overload()) };
    let is_zero = match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => true,
        Val::Double(d) => *d == 0.0,
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::JsonList(_) | Val::Map(_) | Val::Json(_) => {
            value.size() == 0
        }
        Val::Optional(inner) => inner.is_none(),
        _ => false,
    };
    Ok(if is_zero { Val::Optional(None) } else { Val::some(value.clone()) })
}

pub fn optional_has_value<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Optional(inner)] => Ok(Val::Bool(inner.is_some())),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn optional_value<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Optional(Some(inner))] => Ok((**inner).clone()),
        [Val::Optional(None)] => Err(Fault::new("optional.none() dereference")),
        _ => Err(Fault::no_such_overload()),
    }
}

// ---- conversions

fn unconvertible<'v>(value: &Val<'_>, to: &str) -> Evaluated<Val<'v>> {
    Err(Fault::Failed(format!("type conversion error from '{}' to '{to}'", value.type_name())))
}

pub fn to_bool<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Bool(b)] => Ok(Val::Bool(*b)),
        [value @ Val::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => unconvertible(value, "bool"),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn to_int<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Int(i)] => Ok(Val::Int(*i)),
        [Val::Uint(u)] => checked(i64::try_from(*u).ok()),
        [Val::Double(d)] => checked((d.abs() < 9_223_372_036_854_775_807.0).then_some(*d as i64)),
        [Val::Duration(nanos)] => Ok(Val::Int(*nanos)),
        [Val::Timestamp(nanos)] => Ok(Val::Int(nanos.div_euclid(1_000_000_000) as i64)),
        [value @ Val::String(text)] => text.parse().map_or_else(|_| unconvertible(value, "int"), |n| Ok(Val::Int(n))),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn to_uint<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Uint(u)] => Ok(Val::Uint(*u)),
        [Val::Int(i)] => checked_unsigned(u64::try_from(*i).ok()),
        [Val::Double(d)] => checked_unsigned((*d >= 0.0 && *d < 18_446_744_073_709_551_615.0).then_some(*d as u64)),
        [value @ Val::String(text)] => text.parse().map_or_else(|_| unconvertible(value, "uint"), |n| Ok(Val::Uint(n))),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn to_double<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Double(d)] => Ok(Val::Double(*d)),
        [Val::Int(i)] => Ok(Val::Double(*i as f64)),
        [Val::Uint(u)] => Ok(Val::Double(*u as f64)),
        [value @ Val::String(text)] => {
            text.parse().map_or_else(|_| unconvertible(value, "double"), |n| Ok(Val::Double(n)))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn to_bytes<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    match args {
        [Val::Bytes(bytes)] => {
            cx.charge(1)?;
            Ok(Val::Bytes(bytes.clone()))
        }
        [Val::String(text)] => {
            cx.charge_text(text.len() as u64)?;
            Ok(Val::Bytes(text.as_bytes().into()))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

/// A double as Go's shortest form has it: `1`, `1.5`, `1e+30`.
pub fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{d:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if d != 0.0 && !(-4..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{d}")
}

pub fn to_string<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [value] = args else { return Err(Fault::no_such_overload()) };
    if let Val::Bytes(bytes) = value {
        cx.charge_text(bytes.len() as u64)?;
        return match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Val::text(text)),
            Err(_) => Err(Fault::new("invalid UTF-8 in bytes, cannot convert to string")),
        };
    }
    cx.charge(1)?;
    Ok(Val::text(match value {
        Val::String(_) => return Ok(value.clone()),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => double_text(*d),
        Val::Duration(nanos) => time::format_duration(*nanos),
        Val::Timestamp(nanos) => time::format_timestamp(*nanos),
        Val::Library(library) => match &**library {
            Library::Ip(ip) => ip.to_string(),
            Library::Cidr(ip, prefix) => format!("{ip}/{prefix}"),
            _ => return Err(Fault::no_such_overload()),
        },
        _ => return Err(Fault::no_such_overload()),
    }))
}

pub fn to_dyn<'v>(_: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    args.first().cloned().ok_or_else(Fault::no_such_overload)
}

pub fn type_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    args.first().map(|v| Val::Type(v.type_name().into())).ok_or_else(Fault::no_such_overload)
}
