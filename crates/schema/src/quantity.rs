//! `resource.Quantity`: exact decimals with SI and binary suffixes.

use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    DecimalSI,
    BinarySI,
    DecimalExponent,
}

/// An exact amount in nano units; what is finer was rounded up, as upstream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Quantity {
    /// In nano units (10⁻⁹).
    pub nanos: i128,
    pub format: Format,
}

const NANO: i128 = 1_000_000_000;
const SUFFIXES: [(&str, u32, i32); 17] = [
    ("", 10, 0),
    ("n", 10, -9),
    ("u", 10, -6),
    ("m", 10, -3),
    ("k", 10, 3),
    ("M", 10, 6),
    ("G", 10, 9),
    ("T", 10, 12),
    ("P", 10, 15),
    ("E", 10, 18),
    ("Ki", 2, 10),
    ("Mi", 2, 20),
    ("Gi", 2, 30),
    ("Ti", 2, 40),
    ("Pi", 2, 50),
    ("Ei", 2, 60),
    ("", 2, 0),
];

/// A quantity's text, split.
struct Parts<'a> {
    positive: bool,
    /// Without leading zeros; `0` if nothing is left.
    whole: &'a str,
    fraction: &'a str,
    base: u32,
    exponent: i32,
    format: Format,
}

impl<'a> Parts<'a> {
    fn new(text: &'a str) -> Result<Parts<'a>, QuantityError> {
        let (positive, unsigned) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (false, &text[1..]),
            Some(b'+') => (true, &text[1..]),
            Some(_) => (true, text),
        };
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let stripped = unsigned.trim_start_matches('0');
        let (whole, mut rest) = stripped.split_at(digits(stripped));
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            (fraction, rest) = after.split_at(digits(after));
        }
        let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let tail = &rest[letters..];
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if digits(tail) != tail.len() {
            return Err(QuantityError::Format);
        }
        let (base, exponent, format) = suffix(rest).ok_or(QuantityError::Suffix)?;
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(Parts { positive, whole, fraction, base, exponent, format })
    }

    /// Upstream keeps the text as it was given where it takes it for canonical (`1.500` and `+5` too).
    fn kept_as_is(&self) -> bool {
        let (len, places) = ((self.whole.len() + self.fraction.len()) as i32, self.fraction.len() as i32);
        let digits = || self.whole.bytes().chain(self.fraction.bytes());
        match self.format {
            Format::BinarySI => {
                places == 0
                    && 15 - len - (self.exponent as f32 * 3.0 / 10.0) as i32 > 0
                    && self.whole.parse::<i64>().is_ok_and(|v| v & 7 != 0)
            }
            _ => {
                let scale = self.exponent - places;
                len <= 18
                    && scale >= -9
                    && scale % 3 == 0
                    && !(len >= 3 && digits().rev().take(3).all(|d| d == b'0'))
                    && digits().next() != Some(b'0')
            }
        }
    }
}

fn suffix(text: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, base, exponent)) = SUFFIXES[..16].iter().find(|(s, ..)| *s == text) {
        return Some((*base, *exponent, if *base == 2 { Format::BinarySI } else { Format::DecimalSI }));
    }
    let exponent = text.strip_prefix(['e', 'E'])?;
    Some((10, exponent.parse::<i64>().ok()?.clamp(-1_000_000, 1_000_000) as i32, Format::DecimalExponent))
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let parts = Parts::new(text)?;
        let mut format = parts.format;
        let mut mantissa: i128 = 0;
        let mut dropped = false;
        // Digits past the nano place of a plain decimal decide only whether it is rounded up.
        let mut places = 0i32;
        for d in parts.whole.bytes().chain(parts.fraction.bytes()).map(|b| i128::from(b - b'0')) {
            match mantissa.checked_mul(10).and_then(|m| m.checked_add(d)) {
                Some(m) if m < i128::MAX / 1_000_000_000_000 => {
                    mantissa = m;
                    places += 1;
                }
                _ => dropped |= d != 0,
            }
        }
        let mut power = parts.whole.len() as i32 - places + 9;
        if parts.base == 10 {
            power = power.saturating_add(parts.exponent);
        } else {
            mantissa = mantissa.saturating_mul(1i128 << parts.exponent);
        }
        while power > 0 && mantissa != 0 {
            mantissa = mantissa.saturating_mul(10);
            power -= 1;
            if mantissa == i128::MAX {
                break;
            }
        }
        while power < 0 && mantissa != 0 {
            dropped |= mantissa % 10 != 0;
            mantissa /= 10;
            power += 1;
            if mantissa == 0 && dropped {
                break;
            }
        }
        let mut nanos = if dropped { mantissa.saturating_add(1) } else { mantissa };
        if format == Format::BinarySI {
            nanos = nanos.min(i64::MAX as i128 * NANO);
            if nanos > 0 && nanos < NANO {
                format = Format::DecimalSI;
            }
        }
        Ok(Quantity { nanos: if parts.positive { nanos } else { -nanos }, format })
    }

    pub fn from_int(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * NANO, format }
    }

    pub fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * 1_000_000, format }
    }

    /// Rounded up (away from zero), as `Quantity.Value()`.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// Rounded up, as `Quantity.MilliValue()`.
    pub fn milli_value(self) -> i64 {
        self.scaled(1_000_000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = self.nanos / unit + (self.nanos % unit).signum();
        up.clamp(i64::MIN as i128, i64::MAX as i128) as i64
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn compare(self, other: Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The format is the left one's, unless that is zero.
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

/// The canonical form (`Quantity.String()`).
impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySI && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO {
            let mut value = self.nanos / NANO;
            let mut exponent = 0;
            while value % 1024 == 0 && exponent < 60 {
                value /= 1024;
                exponent += 10;
            }
            let suffix = SUFFIXES.iter().find(|(_, b, e)| *b == 2 && *e == exponent).map_or("", |s| s.0);
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        while value % 10 == 0 {
            value /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 || (exponent > 18 && self.format != Format::DecimalExponent) {
            value *= 10;
            exponent -= 1;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{value}"),
            Format::DecimalExponent => write!(f, "{value}e{exponent}"),
            _ => {
                let suffix = SUFFIXES.iter().find(|(_, b, e)| *b == 10 && *e == exponent).map_or("", |s| s.0);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

/// What upstream prints after having read this text.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    if text == "0" || Parts::new(text)?.kept_as_is() {
        return Ok(text.into());
    }
    let printed = Quantity::parse(text)?.to_string();
    Ok(if printed == text { text.into() } else { printed.into() })
}
