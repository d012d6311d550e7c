//! Lists and sets: Kubernetes' library and cel-go's extensions.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::Cx;
use super::ops::{add, compare, equal, position};
use super::value::{Evaluated, Fault, Key, Val};

type Args<'c, 'v> = &'c [Val<'v>];

/// Pays for a walk over a list, and gives its elements.
fn walked<'c, 'v>(cx: &mut Cx<'v>, args: Args<'c, 'v>) -> Evaluated<super::value::Items<'c, 'v>> {
    let list = args.first().ok_or_else(Fault::no_such_overload)?;
    cx.charge(list.size())?;
    list.items()
}

pub fn is_sorted<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = walked(cx, args)?;
    let mut before: Option<Val<'v>> = None;
    for item in items.iter() {
        if let Some(before) = before
            && compare(&before, &item)?.is_some_and(Ordering::is_gt)
        {
            return Ok(Val::Bool(false));
        }
        before = Some(item);
    }
    Ok(Val::Bool(true))
}

pub fn sum<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = walked(cx, args)?;
    let mut total: Option<Val<'v>> = None;
    for item in items.iter() {
        total = Some(match total {
            // A list of doubles may hold integers: JSON does not tell them apart.
            Some(total) => match (&total, &item) {
                (Val::Double(a), Val::Int(b)) => Val::Double(a + *b as f64),
                (Val::Int(a), Val::Double(b)) => Val::Double(*a as f64 + b),
                _ => add(cx, vec![total, item])?,
            },
            None => item,
        });
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn extreme<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>, name: &str, wanted: Ordering) -> Evaluated<Val<'v>> {
    let items = walked(cx, args)?;
    let mut best: Option<Val<'v>> = None;
    for item in items.iter() {
        let is_better = match &best {
            Some(best) => compare(&item, best)? == Some(wanted),
            None => true,
        };
        if is_better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| Fault::Failed(format!("{name} called on empty list")))
}

pub fn min<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    extreme(cx, args, "min", Ordering::Less)
}

pub fn max<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    extreme(cx, args, "max", Ordering::Greater)
}

pub fn index_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    if let [Val::String(_), ..] = args {
        return super::strings::index_of(cx, args);
    }
    let items = walked(cx, args)?;
    let [_, wanted] = args else { return Err(Fault::no_such_overload()) };
    Ok(Val::Int(position(cx, items, wanted)?.map_or(-1, |at| at as i64)))
}

pub fn last_index_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    if let [Val::String(_), ..] = args {
        return super::strings::last_index_of(cx, args);
    }
    let items = walked(cx, args)?;
    let [_, wanted] = args else { return Err(Fault::no_such_overload()) };
    for at in (0..items.len()).rev() {
        if let Some(item) = items.get(at)
            && equal(cx, &item, wanted)?
        {
            return Ok(Val::Int(at as i64));
        }
    }
    Ok(Val::Int(-1))
}

/// Pays for a list that is made of another, and gives the elements.
fn copied<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Vec<Val<'v>>> {
    cx.charge(10)?;
    Ok(walked(cx, args)?.iter().collect())
}

pub fn slice<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [list, Val::Int(start), Val::Int(end)] = args else { return Err(Fault::no_such_overload()) };
    let items = list.items()?;
    if start > end {
        return Err(Fault::Failed(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    if *start < 0 || *end < 0 {
        return Err(Fault::Failed(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if *end > items.len() as i64 {
        return Err(Fault::Failed(format!("cannot slice({start}, {end}), list is length {}", items.len())));
    }
    cx.charge(11 + (end - start).unsigned_abs())?;
    Ok(Val::list((*start as usize..*end as usize).filter_map(|at| items.get(at)).collect()))
}

pub fn flatten<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let depth = match args {
        [_] => 1,
        [_, Val::Int(depth)] if *depth < 0 => return Err(Fault::new("level must be non-negative")),
        [_, Val::Int(depth)] => *depth,
        _ => return Err(Fault::no_such_overload()),
    };
    let mut flat = copied(cx, args)?;
    for _ in 0..depth {
        if !flat.iter().any(|item| matches!(item, Val::List(_) | Val::JsonList(_))) {
            break;
        }
        let mut next = Vec::new();
        for item in flat {
            match item.items() {
                Ok(items) => {
                    cx.charge(items.len() as u64)?;
                    next.extend(items.iter());
                }
                Err(_) => next.push(item),
            }
        }
        flat = next;
    }
    Ok(Val::list(flat))
}

/// Orders values by their keys, of which each must compare with all others.
fn sorted<'v>(cx: &mut Cx<'v>, pairs: Vec<(Val<'v>, Val<'v>)>) -> Evaluated<Val<'v>> {
    let count = pairs.len() as u64;
    cx.charge(count * u64::from(u64::BITS - count.leading_zeros()))?;
    // Sorting may panic where an order is none: keys of several types are refused before, and NaN stands last.
    if let Some((first, _)) = pairs.first() {
        for (key, _) in &pairs {
            compare(first, key)?;
        }
    }
    let is_number = |(key, _): &(Val<'v>, Val<'v>)| compare(key, key) == Ok(Some(Ordering::Equal));
    let (mut ordered, nan): (Vec<_>, Vec<_>) = pairs.into_iter().partition(is_number);
    ordered.sort_by(|(a, _), (b, _)| compare(a, b).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(Val::list(ordered.into_iter().chain(nan).map(|(_, value)| value).collect()))
}

pub fn sort<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = copied(cx, args)?;
    sorted(cx, items.into_iter().map(|item| (item.clone(), item)).collect())
}

pub fn sort_by_keys<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = copied(cx, args)?;
    let [_, keys] = args else { return Err(Fault::no_such_overload()) };
    sorted(cx, keys.items()?.iter().zip(items).collect())
}

pub fn range<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [Val::Int(count)] = args else { return Err(Fault::no_such_overload()) };
    cx.charge(11 + (*count).max(0).unsigned_abs())?;
    Ok(Val::list((0..*count).map(Val::Int).collect()))
}

pub fn reverse<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let mut items = copied(cx, args)?;
    items.reverse();
    Ok(Val::list(items))
}

pub fn distinct<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = copied(cx, args)?;
    cx.charge((items.len() as u64).saturating_pow(2) / 2)?;
    let mut out: Vec<Val<'v>> = Vec::new();
    for item in items {
        if position(cx, super::value::Items::Vals(&out), &item)?.is_none() {
            out.push(item);
        }
    }
    Ok(Val::list(out))
}

pub fn first<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let items = args.first().ok_or_else(Fault::no_such_overload)?.items()?;
    Ok(Val::Optional(items.get(0).map(Rc::new)))
}

pub fn last<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let items = args.first().ok_or_else(Fault::no_such_overload)?.items()?;
    Ok(Val::Optional(items.len().checked_sub(1).and_then(|at| items.get(at)).map(Rc::new)))
}

/// Whether `sub` has something, or everything, of `list`.
fn overlap<'v>(cx: &mut Cx<'v>, list: &Val<'v>, sub: &Val<'v>, all: bool) -> Evaluated<bool> {
    cx.charge(1 + list.size().saturating_mul(sub.size()))?;
    let list = list.items()?;
    for item in sub.items()?.iter() {
        if position(cx, list, &item)?.is_some() != all {
            return Ok(!all);
        }
    }
    Ok(all)
}

pub fn sets_contains<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [list, sub] = args else { return Err(Fault::no_such_overload()) };
    overlap(cx, list, sub, true).map(Val::Bool)
}

pub fn sets_equivalent<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [a, b] = args else { return Err(Fault::no_such_overload()) };
    Ok(Val::Bool(overlap(cx, a, b, true)? && overlap(cx, b, a, true)?))
}

pub fn sets_intersects<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let [list, sub] = args else { return Err(Fault::no_such_overload()) };
    overlap(cx, list, sub, false).map(Val::Bool)
}

/// Adds an entry to the map that a loop makes, or all of another map.
pub fn map_insert<'v>(cx: &mut Cx<'v>, args: Vec<Val<'v>>) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    let mut args = args.into_iter();
    let (Some(Val::Map(mut map)), Some(first)) = (args.next(), args.next()) else {
        return Err(Fault::no_such_overload());
    };
    let entries = match (args.next(), first) {
        (Some(value), key) => vec![(Key::of(&key)?, value)],
        (None, Val::Map(more)) => more.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        _ => return Err(Fault::no_such_overload()),
    };
    let target = Rc::make_mut(&mut map);
    for (key, value) in entries {
        if target.contains_key(&key) {
            return Err(Fault::Failed(format!("insert failed: key {} already exists", shown(&key))));
        }
        target.insert(key, value);
    }
    Ok(Val::Map(map))
}

fn shown(key: &Key<'_>) -> String {
    match key {
        Key::Bool(b) => b.to_string(),
        Key::Number(n) => n.to_string(),
        Key::String(text) => text.to_string(),
    }
}
