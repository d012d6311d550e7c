//! `resource.Quantity`: exact decimals with SI and binary suffixes.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DecimalSI,
    BinarySI,
    DecimalExponent,
}

/// `mantissa · 10^exponent`, at nano precision, as upstream rounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// In nano units (10⁻⁹).
    pub nanos: i128,
    pub format: Format,
}

impl Quantity {
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let _ = text;
        todo!()
    }
    /// Rounded up, as `Quantity.Value()`.
    pub fn value(self) -> i64 {
        todo!()
    }
    /// Rounded up, as `Quantity.MilliValue()`.
    pub fn milli_value(self) -> i64 {
        todo!()
    }
    pub fn compare(self, other: Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
