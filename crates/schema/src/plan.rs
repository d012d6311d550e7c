//! What the codecs need of a message on every object, worked out once: keys as they are written, fields by their
//! protobuf number, and which of them are printed even if they are absent.

use crate::json::write_string;
use crate::{Message, Table, Value};

/// "No such field."
const NONE: u16 = u16::MAX;
/// Numbers past this are looked for one by one.
const MAX_DENSE_TAG: u32 = 1024;

#[derive(Debug)]
pub struct Plan {
    /// By field: `"name":`.
    keys: Box<[Box<[u8]>]>,
    /// Protobuf number → field.
    by_tag: Box<[u16]>,
    /// The fields in the order of their protobuf numbers, those without one left out.
    pub wire_order: Box<[u16]>,
    /// The fields which print something when they are absent, in Go's order; inlined structs are among them.
    pub always: Box<[u16]>,
    /// What [`Table::fill`] adds: the zero values of absent members, those of inlined structs too.
    pub zeros: Box<[(crate::value::Key, Value)]>,
}

impl Plan {
    fn new(table: &Table, message: &Message) -> Plan {
        let fields = &message.fields;
        let key = |name: &str| {
            let mut key = Vec::with_capacity(name.len() + 3);
            write_string(name.as_bytes(), &mut key);
            key.push(b':');
            key.into_boxed_slice()
        };
        let dense = fields.iter().map(|f| f.tag).filter(|t| *t < MAX_DENSE_TAG).max().unwrap_or(0);
        let mut by_tag = vec![NONE; dense as usize + 1].into_boxed_slice();
        for (field, at) in fields.iter().zip(0..).filter(|(f, _)| (1..=dense).contains(&f.tag)) {
            by_tag[field.tag as usize] = at;
        }
        let mut wire_order: Vec<u16> = (0..fields.len() as u16).filter(|i| fields[usize::from(*i)].tag != 0).collect();
        wire_order.sort_by_key(|i| fields[usize::from(*i)].tag);
        let always =
            fields.iter().zip(0..).filter(|(f, _)| f.inline || table.printed_zero(f).is_some()).map(|(_, i)| i);
        let mut zeros = Vec::new();
        table.each_field(message, &mut |field| {
            if let Some(zero) = table.printed_zero(field) {
                zeros.push((field.name.clone(), zero));
            }
        });
        Plan {
            keys: fields.iter().map(|f| key(&f.name)).collect(),
            by_tag,
            wire_order: wire_order.into(),
            always: always.collect(),
            zeros: zeros.into(),
        }
    }

    #[inline]
    pub fn key(&self, field: usize) -> &[u8] {
        &self.keys[field]
    }
}

impl Message {
    #[inline]
    pub(crate) fn plan<'t>(&'t self, table: &Table) -> &'t Plan {
        self.plan.get_or_init(|| Box::new(Plan::new(table, self)))
    }

    /// The place of the field with this protobuf number.
    #[inline]
    pub(crate) fn index_of_tag(&self, plan: &Plan, tag: u32) -> Option<usize> {
        match plan.by_tag.get(tag as usize) {
            Some(&NONE) => None,
            Some(&at) => Some(usize::from(at)),
            None if tag < MAX_DENSE_TAG => None,
            None => self.fields.iter().position(|f| f.tag == tag),
        }
    }
}
