//! Field errors in upstream's words, and the rules that make them.
//!
//! [`object`] walks an object along its table and applies the [`RuleBook`]'s rows; [`metadata`] and
//! [`metadata_update`] are upstream's ObjectMeta validation. All problems come at once.

mod meta;
pub mod names;
mod rules;
#[cfg(test)]
mod tests;

use crate::Value;

pub use meta::{NameRule, annotations, field_manager, labels, metadata, metadata_update};
pub use rules::{Rule, RuleBook, UpdateRule, label_selector, object};

/// `field.Error`: one cause of a 422. Its `Display` is the cause's whole text, field included.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// `spec.containers[0].name`
    pub field: String,
    pub bad_value: Value,
    pub detail: String,
}

/// `field.ErrorType`; its reason strings are those of `metav1.CauseType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TooShort,
    Internal,
    TypeInvalid,
    /// As `Invalid`, of a value that is not shown.
    InvalidWhole,
}

impl ErrorKind {
    /// `metav1.StatusCause.reason`
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid | ErrorKind::InvalidWhole => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::TooShort => "FieldValueTooShort",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::InvalidWhole | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::TooShort => "Too short",
            ErrorKind::Internal => "Internal error",
        }
    }
}

impl FieldError {
    pub fn new(
        kind: ErrorKind,
        field: impl Into<String>,
        bad_value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError { kind, field: field.into(), bad_value: bad_value.into(), detail: detail.into() }
    }

    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, field, value, detail)
    }

    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, field, Value::String(String::new()), detail)
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, field, Value::String(String::new()), detail)
    }

    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, field, value, "")
    }

    /// `Unsupported value: "x": supported values: "a", "b"`
    pub fn not_supported<S: AsRef<str>>(field: impl Into<String>, value: impl Into<Value>, supported: &[S]) -> Self {
        let supported: Vec<String> = supported.iter().map(|s| format!("{:?}", s.as_ref())).collect();
        let detail =
            if supported.is_empty() { String::new() } else { format!("supported values: {}", supported.join(", ")) };
        Self::new(ErrorKind::NotSupported, field, value, detail)
    }

    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(ErrorKind::TooLong, field, "<value omitted>", format!("may not be more than {max} {unit}"))
    }

    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(ErrorKind::TooMany, field, Value::Int(actual as i64), format!("must have at most {max} {unit}"))
    }

    pub fn too_few(field: impl Into<String>, actual: usize, min: usize) -> Self {
        let unit = if min == 1 { "item" } else { "items" };
        Self::new(ErrorKind::TooFew, field, Value::Int(actual as i64), format!("must have at least {min} {unit}"))
    }

    /// The cause's message: everything but the field.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        match self.kind {
            ErrorKind::Required
            | ErrorKind::Forbidden
            | ErrorKind::InvalidWhole
            | ErrorKind::TooLong
            | ErrorKind::TooShort
            | ErrorKind::Internal => {}
            // A whole object is not shown.
            ErrorKind::Duplicate if self.bad_value.is_null() => {}
            _ => {
                text.push_str(": ");
                match &self.bad_value {
                    Value::String(s) => text.push_str(&format!("{s:?}")),
                    other => text.push_str(&other.to_string()),
                }
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// `field.ErrorList.ToAggregate().Error()`: one error as it is, several in brackets, doubles left out.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
