//! Declared defaults.

use crate::{MessageId, Table, Value};

/// Sets every declared default which is absent, in everything that is present.
pub fn apply(table: &Table, id: MessageId, value: &mut Value) {
    let _ = (table, id, value);
    todo!()
}
