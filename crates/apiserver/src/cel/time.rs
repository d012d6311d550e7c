//! Timestamps and durations.

use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use super::eval::Cx;
use super::value::{Evaluated, Fault, Val};

const SECOND: i128 = 1_000_000_000;
/// The years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i128> = -62_135_596_800..=253_402_300_799;

pub fn is_in_range(nanos: i128) -> bool {
    SECONDS.contains(&nanos.div_euclid(SECOND))
}

/// RFC 3339 to nanoseconds since 1970.
pub fn parse_timestamp(text: &str) -> Option<i128> {
    let (seconds, nanos) = schema::time::parse(text)?;
    let nanos = i128::from(seconds) * SECOND + i128::from(nanos);
    is_in_range(nanos).then_some(nanos)
}

/// Go's durations (`1h30m`) to nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    schema::time::parse_duration(text)
}

/// A fraction of a second, without what says nothing: `.5`.
fn fraction(nanos: u128) -> String {
    if nanos == 0 { String::new() } else { format!(".{nanos:09}").trim_end_matches('0').to_owned() }
}

pub fn format_timestamp(nanos: i128) -> String {
    let whole = schema::time::format(nanos.div_euclid(SECOND) as i64);
    format!("{}{}Z", whole.trim_end_matches('Z'), fraction(nanos.rem_euclid(SECOND) as u128))
}

/// As protobuf's JSON has it: `5400s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    format!("{sign}{seconds}{}s", fraction(rest.into()))
}

pub fn timestamp<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Timestamp(nanos)] => Ok(Val::Timestamp(*nanos)),
        [Val::Int(seconds)] => {
            let nanos = i128::from(*seconds) * SECOND;
            if is_in_range(nanos) { Ok(Val::Timestamp(nanos)) } else { Err(Fault::new("timestamp overflow")) }
        }
        [Val::String(text)] => parse_timestamp(text)
            .map(Val::Timestamp)
            .ok_or_else(|| Fault::new("type conversion error from 'string' to 'google.protobuf.Timestamp'")),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn duration<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match args {
        [Val::Duration(nanos)] | [Val::Int(nanos)] => Ok(Val::Duration(*nanos)),
        [Val::String(text)] => parse_duration(text)
            .map(Val::Duration)
            .ok_or_else(|| Fault::new("type conversion error from 'string' to 'google.protobuf.Duration'")),
        _ => Err(Fault::no_such_overload()),
    }
}

/// A name of the time zone database or an offset (`-02:30`).
fn zone(text: &str) -> Evaluated<TimeZone> {
    let offset = || {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (hours, minutes) = digits.split_once(':')?;
        let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok().filter(|m| *m < 60)?);
        let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
        Offset::from_seconds(sign * seconds).ok()
    };
    if text.contains(':') {
        return offset().map(TimeZone::fixed).ok_or_else(|| Fault::Failed(format!("unknown time zone {text}")));
    }
    TimeZoneDatabase::bundled().get(text).map_err(|_| Fault::Failed(format!("unknown time zone {text}")))
}

fn part<'v>(
    cx: &mut Cx<'v>,
    args: &[Val<'v>],
    of_time: fn(&Zoned) -> i64,
    of_duration: Option<i64>,
) -> Evaluated<Val<'v>> {
    cx.charge(1)?;
    match (args, of_duration) {
        ([Val::Duration(nanos)], Some(unit)) => Ok(Val::Int(nanos / unit)),
        ([Val::Timestamp(nanos), rest @ ..], _) => {
            let zone = match rest {
                [] => TimeZone::UTC,
                [Val::String(name)] => zone(name)?,
                _ => return Err(Fault::no_such_overload()),
            };
            let timestamp = Timestamp::from_nanosecond(*nanos).map_err(|e| Fault::new(e.to_string()))?;
            Ok(Val::Int(of_time(&timestamp.to_zoned(zone))))
        }
        _ => Err(Fault::no_such_overload()),
    }
}

macro_rules! parts {
    ($($name:ident: $of_time:expr, $of_duration:expr;)*) => {
        $(pub fn $name<'v>(cx: &mut Cx<'v>, args: &[Val<'v>]) -> Evaluated<Val<'v>> {
            part(cx, args, $of_time, $of_duration)
        })*
    };
}

parts! {
    full_year: |t| t.year().into(), None;
    month: |t| i64::from(t.month()) - 1, None;
    date: |t| t.day().into(), None;
    day_of_month: |t| i64::from(t.day()) - 1, None;
    day_of_week: |t| t.weekday().to_sunday_zero_offset().into(), None;
    day_of_year: |t| i64::from(t.day_of_year()) - 1, None;
    hours: |t| t.hour().into(), Some(3_600_000_000_000);
    minutes: |t| t.minute().into(), Some(60_000_000_000);
    seconds: |t| t.second().into(), Some(1_000_000_000);
    milliseconds: |t| t.millisecond().into(), Some(1_000_000);
}
