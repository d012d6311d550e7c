//! Cron schedules as upstream reads them: five fields with names, ranges, lists and steps, macros, `@every`.
//!
//! Times are seconds since 1970. Across a change of the clock a time that does not exist is left out, and one that
//! exists twice is met twice.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schema::time::parse_duration;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("expected exactly 5 fields, found {count}: [{text}]")]
    Fields { count: usize, text: String },
    #[error("failed to parse {part:?} of field {field}")]
    Part { field: &'static str, part: String },
    #[error("unrecognized descriptor: {0}")]
    Macro(String),
    #[error("TZ and CRON_TZ are not supported, use timeZone")]
    Zone,
}

/// A set of numbers below 64, a bit each.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Set(u64);

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).ok().and_then(|number| 1u64.checked_shl(number)).is_some_and(|bit| self.0 & bit != 0)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    Every { seconds: i64 },
    Fields(Box<Fields>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// Neither days nor weekdays are open: either of them is enough.
    either_day: bool,
}

/// Name, lowest and highest number of a field, and the names of its numbers.
struct Field(&'static str, u32, u32, &'static [&'static str]);

const FIELDS: [Field; 5] = [
    Field("minute", 0, 59, &[]),
    Field("hour", 0, 23, &[]),
    Field("day of month", 1, 31, &[]),
    Field("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    Field("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Schedule {
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.contains("TZ=") {
            return Err(Error::Zone);
        }
        let text = text.trim();
        if text.starts_with('@') {
            if let Some(every) = text.strip_prefix("@every ") {
                let nanos = parse_duration(every.trim()).ok_or_else(|| Error::Macro(text.to_owned()))?;
                return Ok(Self::Every { seconds: (nanos / 1_000_000_000).max(1) });
            }
            let known = MACROS.iter().find(|(name, _)| *name == text);
            return known.map_or_else(|| Err(Error::Macro(text.to_owned())), |(_, fields)| Self::parse(fields));
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(Error::Fields { count: parts.len(), text: parts.join(" ") });
        };
        let field = |index: usize, text: &str| FIELDS[index].parse(text);
        let (days, any_day) = field(2, days)?;
        let (weekdays, any_weekday) = field(4, weekdays)?;
        Ok(Self::Fields(Box::new(Fields {
            minutes: field(0, minutes)?.0,
            hours: field(1, hours)?.0,
            days,
            months: field(3, months)?.0,
            weekdays,
            either_day: !any_day && !any_weekday,
        })))
    }

    /// The first time after `after`, if there is one within five years.
    pub fn next(&self, after: i64, zone: &Zone) -> Option<i64> {
        match self {
            Self::Every { seconds } => Some(after + seconds),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Field {
    /// The numbers, and whether the field is open (`*`).
    fn parse(&self, text: &str) -> Result<(Set, bool), Error> {
        let (mut set, mut open) = (0, false);
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let wrong = || Error::Part { field: self.0, part: part.to_owned() };
            let (range, step) = match part.split_once('/') {
                None => (part, None),
                Some((range, step)) => {
                    (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(wrong)?))
                }
            };
            let (low, high) = match range {
                "*" | "?" => {
                    open |= step.is_none_or(|step| step == 1);
                    (self.1, self.2)
                }
                _ => match range.split_once('-') {
                    Some((low, high)) => (self.number(low).ok_or_else(wrong)?, self.number(high).ok_or_else(wrong)?),
                    None => {
                        let low = self.number(range).ok_or_else(wrong)?;
                        (low, if step.is_some() { self.2 } else { low })
                    }
                },
            };
            if low < self.1 || high > self.2 || low > high {
                return Err(wrong());
            }
            for number in (low..=high).step_by(step.unwrap_or(1) as usize) {
                set |= 1 << number;
            }
        }
        if set == 0 { Err(Error::Part { field: self.0, part: text.to_owned() }) } else { Ok((Set(set), open)) }
    }

    fn number(&self, text: &str) -> Option<u32> {
        let named =
            self.3.iter().zip(self.1..).find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| number);
        named.or_else(|| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())))
    }
}

impl Fields {
    fn next(&self, after: i64, zone: &Zone) -> Option<i64> {
        let mut at = after.div_euclid(60) * 60 + 60;
        let last_year = zone.local(at)?.year().saturating_add(5);
        loop {
            let local = zone.local(at)?;
            if local.year() > last_year {
                return None;
            }
            let later = if !self.months.has(local.month()) {
                zone.start_of(local.date().last_of_month().tomorrow().ok()?)?
            } else if !self.is_day(local.date()) {
                zone.start_of(local.date().tomorrow().ok()?)?
            } else if !self.hours.has(local.hour()) {
                at + i64::from(60 - local.minute()) * 60 - i64::from(local.second())
            } else if !self.minutes.has(local.minute()) {
                at + 60
            } else {
                return Some(at);
            };
            at = later.max(at + 60);
        }
    }

    fn is_day(&self, date: Date) -> bool {
        let (day, weekday) = (self.days.has(date.day()), self.weekdays.has(date.weekday().to_sunday_zero_offset()));
        if self.either_day { day || weekday } else { day && weekday }
    }
}

/// A time zone of the database that is part of this program.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// `None` or an empty name: UTC.
    pub fn named(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("") => Some(Self(TimeZone::UTC)),
            Some(name) => TimeZoneDatabase::bundled().get(name).ok().map(Self),
        }
    }

    fn local(&self, at: i64) -> Option<DateTime> {
        Timestamp::from_second(at).ok().map(|at| self.0.to_datetime(at))
    }

    fn start_of(&self, date: Date) -> Option<i64> {
        self.0.to_timestamp(date.at(0, 0, 0, 0)).ok().map(Timestamp::as_second)
    }

    /// RFC 3339 with this zone's offset; `Z` if it has none.
    pub fn format(&self, at: i64) -> String {
        let offset = i64::from(Timestamp::from_second(at).map_or(0, |at| self.0.to_offset(at).seconds()));
        let mut text = schema::time::format(at + offset);
        if offset != 0 {
            text.pop();
            let minutes = offset.abs() / 60;
            text.push_str(&format!("{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, minutes / 60, minutes % 60));
        }
        text
    }
}

/// `Thu, 01 Jan 2026 00:00:00 +0000`
pub fn rfc1123(at: i64) -> String {
    Timestamp::from_second(at).map_or_else(|_| String::new(), |at| at.strftime("%a, %d %b %Y %H:%M:%S %z").to_string())
}
