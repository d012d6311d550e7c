//! The protobuf codec of the typed structs. A struct only lists its fields ([`Fields`]); everything else is shared
//! code over trait objects, which keeps five hundred structs small.

use std::collections::BTreeMap as Map;

use super::{DecodeError, Duration, FieldsV1, IntOrString, Json, MicroTime, Quantity, RawExtension, Time};

pub use super::{Kind, List, Object};
pub(crate) use std::collections::BTreeMap;

use crate::proto::wire::{Cursor, FIXED64, LEN, VARINT, write_len, write_tag, write_varint};

/// As deep as messages may nest; upstream's types stay below 30, JSONSchemaProps aside.
const MAX_DEPTH: u32 = 100;

/// A typed struct that protobuf carries.
pub trait Message: Fields + Default + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// `io.k8s.api.core.v1.Pod`: its name in the table.
    const NAME: &'static str;

    /// Reads a message without envelope.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        merge_fields(&mut message, &mut Reader { cursor: Cursor::new(bytes), depth: 0 })?;
        Ok(message)
    }

    /// Appends the bytes that upstream's `Marshal` makes of this value, unknown fields last.
    fn encode(&self, out: &mut Vec<u8>) {
        write_fields(self, out);
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Fields of a newer version, as they came. One word each, for every struct has it and almost none uses it.
#[derive(Clone, Default, PartialEq)]
#[allow(clippy::box_collection)]
pub struct Unknown(Option<Box<Vec<u8>>>);

impl Unknown {
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |b| b)
    }
}

impl std::fmt::Debug for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// The fields of a message, by tag.
pub trait Fields {
    fn type_name(&self) -> &'static str;
    /// All fields, by ascending tag.
    fn each<'a>(&'a self, f: &mut dyn FnMut(u32, &'a dyn Slot));
    fn slot(&mut self, tag: u32) -> Option<&mut dyn Slot>;
    fn unknown(&self) -> &[u8];
    fn keep_unknown(&mut self, bytes: &[u8]);
}

/// A place that knows how it is written under a tag, and whether it is at all.
pub trait Slot {
    fn put(&self, tag: u32, out: &mut Vec<u8>);
    fn take(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch>;
}

/// What stands under one key: a scalar or a message.
pub trait Element: Default {
    const WIRE: u8;
    /// Empty bytes are not written, as Go leaves out a nil slice.
    fn absent(&self) -> bool {
        false
    }
    fn write(&self, out: &mut Vec<u8>);
    fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch>;
}

/// Why a field could not be read; the message around it adds its name.
pub enum Mismatch {
    Wire,
    Error(DecodeError),
}

impl From<DecodeError> for Mismatch {
    fn from(e: DecodeError) -> Mismatch {
        Mismatch::Error(e)
    }
}

/// The bytes of one message, and how deep it lies.
pub struct Reader<'a> {
    cursor: Cursor<'a>,
    depth: u32,
}

impl Reader<'_> {
    /// Reads a message's length, lets `read` see its bytes only, one level deeper.
    fn nested(&mut self, read: &mut dyn FnMut(&mut Reader) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        if self.depth >= MAX_DEPTH {
            return Err(DecodeError::TooDeep(MAX_DEPTH as usize));
        }
        read(&mut Reader { cursor: Cursor::new(self.cursor.bytes()?), depth: self.depth + 1 })
    }
}

fn write_fields(message: &dyn Fields, out: &mut Vec<u8>) {
    message.each(&mut |tag, slot| slot.put(tag, out));
    out.extend_from_slice(message.unknown());
}

fn merge_fields(message: &mut dyn Fields, r: &mut Reader) -> Result<(), DecodeError> {
    loop {
        let start = r.cursor.at;
        let Some((tag, wire)) = r.cursor.tag()? else { return Ok(()) };
        let result = match message.slot(tag) {
            Some(slot) => slot.take(wire, r),
            None => {
                r.cursor.skip(wire)?;
                message.keep_unknown(&r.cursor.bytes[start..r.cursor.at]);
                Ok(())
            }
        };
        result.map_err(|e| match e {
            Mismatch::Error(e) => e,
            Mismatch::Wire => DecodeError::WireType { message: message.type_name().to_owned(), field: tag, wire },
        })?;
    }
}

pub(crate) fn write_message(message: &dyn Fields, out: &mut Vec<u8>) {
    write_len(out, |out| write_fields(message, out));
}

pub(crate) fn read_message(message: &mut dyn Fields, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
    if wire != LEN {
        return Err(Mismatch::Wire);
    }
    Ok(r.nested(&mut |inner| merge_fields(message, inner))?)
}

pub(crate) fn keep(unknown: &mut Unknown, bytes: &[u8]) {
    unknown.0.get_or_insert_default().extend_from_slice(bytes);
}

impl<T: Element> Slot for T {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if !self.absent() {
            write_tag(tag, T::WIRE, out);
            self.write(out);
        }
    }
    fn take(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        self.read(wire, r)
    }
}

impl<T: Element> Slot for Option<T> {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(tag, out);
        }
    }
    fn take(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        self.get_or_insert_default().read(wire, r)
    }
}

impl<T: Element> Element for Box<T> {
    const WIRE: u8 = T::WIRE;
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }
    fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        T::read(self, wire, r)
    }
}

impl<T: Element> Slot for Vec<T> {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        for value in self {
            write_tag(tag, T::WIRE, out);
            value.write(out);
        }
    }
    fn take(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        if wire == LEN && T::WIRE != LEN {
            // Packed, as other writers of protobuf may have it.
            let mut packed = Reader { cursor: Cursor::new(r.cursor.bytes()?), depth: r.depth };
            while packed.cursor.at < packed.cursor.bytes.len() {
                let mut value = T::default();
                value.read(T::WIRE, &mut packed)?;
                self.push(value);
            }
            return Ok(());
        }
        let mut value = T::default();
        value.read(wire, r)?;
        self.push(value);
        Ok(())
    }
}

impl<T: Element> Slot for Map<String, T> {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        for (name, value) in self {
            write_tag(tag, LEN, out);
            write_len(out, |out| {
                name.put(1, out);
                write_tag(2, T::WIRE, out);
                value.write(out);
            });
        }
    }
    fn take(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        let mut entry = Entry { key: String::new(), value: T::default() };
        read_message(&mut entry, wire, r)?;
        self.insert(entry.key, entry.value);
        Ok(())
    }
}

struct Entry<T> {
    key: String,
    value: T,
}

impl<T: Element> Fields for Entry<T> {
    fn type_name(&self) -> &'static str {
        "a map entry"
    }
    fn each<'a>(&'a self, _: &mut dyn FnMut(u32, &'a dyn Slot)) {}
    fn slot(&mut self, tag: u32) -> Option<&mut dyn Slot> {
        match tag {
            1 => Some(&mut self.key),
            2 => Some(&mut self.value),
            _ => None,
        }
    }
    fn unknown(&self) -> &[u8] {
        &[]
    }
    fn keep_unknown(&mut self, _: &[u8]) {}
}

macro_rules! varints {
    ($($t:ty, |$v:ident| $from:expr, |$w:ident| $to:expr;)*) => {
        $(impl Element for $t {
            const WIRE: u8 = VARINT;
            fn write(&self, out: &mut Vec<u8>) {
                let $w = *self;
                write_varint($to, out);
            }
            fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
                if wire != VARINT {
                    return Err(Mismatch::Wire);
                }
                let $v = r.cursor.varint()?;
                *self = $from;
                Ok(())
            }
        })*
    };
}
// A negative int32 travels as ten bytes, sign-extended.
varints! {
    bool, |v| v != 0, |w| w.into();
    i32, |v| v as i32, |w| i64::from(w) as u64;
    i64, |v| v as i64, |w| w as u64;
    u32, |v| v as u32, |w| w.into();
    u64, |v| v, |w| w;
}

impl Element for f64 {
    const WIRE: u8 = FIXED64;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
    fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        if wire != FIXED64 {
            return Err(Mismatch::Wire);
        }
        *self = f64::from_bits(r.cursor.fixed64()?);
        Ok(())
    }
}

impl Element for String {
    const WIRE: u8 = LEN;
    fn write(&self, out: &mut Vec<u8>) {
        write_varint(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }
    fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        if wire != LEN {
            return Err(Mismatch::Wire);
        }
        // Go does not check; neither may one broken byte spoil a list.
        *self = String::from_utf8_lossy(r.cursor.bytes()?).into_owned();
        Ok(())
    }
}

impl Element for Vec<u8> {
    const WIRE: u8 = LEN;
    fn absent(&self) -> bool {
        self.is_empty()
    }
    fn write(&self, out: &mut Vec<u8>) {
        write_varint(self.len() as u64, out);
        out.extend_from_slice(self);
    }
    fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
        if wire != LEN {
            return Err(Mismatch::Wire);
        }
        *self = r.cursor.bytes()?.to_vec();
        Ok(())
    }
}

/// `message!(Pod, "io.k8s.api.core.v1.Pod", 1 metadata, 2 spec)`, fields by ascending tag.
macro_rules! message {
    ($t:ident, $name:literal $(, $tag:literal $field:ident)*) => {
        impl Fields for $t {
            fn type_name(&self) -> &'static str {
                $name
            }
            fn each<'a>(&'a self, f: &mut dyn FnMut(u32, &'a dyn Slot)) {
                $(f($tag, &self.$field);)*
                let _ = f;
            }
            fn slot(&mut self, tag: u32) -> Option<&mut dyn Slot> {
                match tag {
                    $($tag => Some(&mut self.$field),)*
                    _ => None,
                }
            }
            fn unknown(&self) -> &[u8] {
                self.unknown.bytes()
            }
            fn keep_unknown(&mut self, bytes: &[u8]) {
                keep(&mut self.unknown, bytes);
            }
        }
        element!($t);
        impl Message for $t {
            const NAME: &'static str = $name;
        }
    };
}

/// A message under a key.
macro_rules! element {
    ($t:ident) => {
        impl Element for $t {
            const WIRE: u8 = 2;
            fn write(&self, out: &mut Vec<u8>) {
                write_message(self, out);
            }
            fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
                read_message(self, wire, r)
            }
        }
    };
}

macro_rules! kind {
    ($t:ident, $group:literal, $version:literal, $kind:literal) => {
        impl Kind for $t {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
        }
    };
}

macro_rules! object {
    ($t:ident, $plural:literal, $namespaced:literal) => {
        impl Object for $t {
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn metadata(&self) -> &crate::api::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut crate::api::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

macro_rules! list {
    ($t:ident, $item:ident) => {
        impl List for $t {
            type Item = $item;
            fn metadata(&self) -> &crate::api::meta::v1::ListMeta {
                &self.metadata
            }
            fn items(&self) -> &[$item] {
                &self.items
            }
            fn into_items(self) -> Vec<$item> {
                self.items
            }
        }
    };
}

pub(crate) use {element, kind, list, message, object};

/// Messages whose Rust type is not their protobuf fields: they read into and write from a struct that is.
macro_rules! through {
    ($($t:ident, $name:literal, { $($tag:literal $field:ident: $ty:ty),* }, |$a:ident| $to:expr, |$b:ident| $from:expr;)*) => {
        $(const _: () = {
            #[derive(Default)]
            struct Wire { $($field: $ty),* }
            impl Fields for Wire {
                fn type_name(&self) -> &'static str {
                    $name
                }
                fn each<'a>(&'a self, f: &mut dyn FnMut(u32, &'a dyn Slot)) {
                    $(f($tag, &self.$field);)*
                }
                fn slot(&mut self, tag: u32) -> Option<&mut dyn Slot> {
                    match tag {
                        $($tag => Some(&mut self.$field),)*
                        _ => None,
                    }
                }
                fn unknown(&self) -> &[u8] {
                    &[]
                }
                fn keep_unknown(&mut self, _: &[u8]) {}
            }
            impl Element for $t {
                const WIRE: u8 = LEN;
                fn write(&self, out: &mut Vec<u8>) {
                    let $a = self;
                    let wire: Wire = $to;
                    write_message(&wire, out);
                }
                fn read(&mut self, wire: u8, r: &mut Reader) -> Result<(), Mismatch> {
                    let mut $b = Wire::default();
                    read_message(&mut $b, wire, r)?;
                    *self = $from;
                    Ok(())
                }
            }
        };)*
    };
}

through! {
    Quantity, "io.k8s.apimachinery.pkg.api.resource.Quantity", { 1 string: String },
        |v| Wire { string: v.0.clone() }, |w| Quantity(w.string);
    Duration, "io.k8s.apimachinery.pkg.apis.meta.v1.Duration", { 1 duration: i64 },
        |v| Wire { duration: v.nanos }, |w| Duration { nanos: w.duration };
    // The zero time is an empty message; one that is there has both fields, and seconds only.
    Time, "io.k8s.apimachinery.pkg.apis.meta.v1.Time", { 1 seconds: Option<i64>, 2 nanos: Option<i32> },
        |v| if v.is_zero() { Wire::default() } else { Wire { seconds: Some(v.seconds), nanos: Some(0) } },
        |w| match (w.seconds, w.nanos) {
            (None, None) => Time::default(),
            (seconds, _) => Time { seconds: seconds.unwrap_or(0) },
        };
    MicroTime, "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", { 1 seconds: Option<i64>, 2 nanos: Option<i32> },
        |v| if v.is_zero() {
            Wire::default()
        } else {
            Wire { seconds: Some(v.seconds), nanos: Some((v.nanos / 1000 * 1000) as i32) }
        },
        |w| match (w.seconds, w.nanos) {
            (None, None) => MicroTime::default(),
            (seconds, nanos) => {
                MicroTime { seconds: seconds.unwrap_or(0), nanos: nanos.unwrap_or(0).clamp(0, 999_999_999) as u32 / 1000 * 1000 }
            }
        };
    IntOrString, "io.k8s.apimachinery.pkg.util.intstr.IntOrString", { 1 kind: i64, 2 int: i32, 3 string: String },
        |v| match v {
            IntOrString::Int(int) => Wire { int: *int, ..Wire::default() },
            IntOrString::String(string) => Wire { kind: 1, string: string.clone(), ..Wire::default() },
        },
        |w| if w.kind == 0 { IntOrString::Int(w.int) } else { IntOrString::String(w.string) };
    RawExtension, "io.k8s.apimachinery.pkg.runtime.RawExtension", { 1 raw: Vec<u8> },
        |v| Wire { raw: v.raw.clone() }, |w| RawExtension { raw: w.raw };
    FieldsV1, "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", { 1 raw: Vec<u8> },
        |v| Wire { raw: v.raw.clone() }, |w| FieldsV1 { raw: w.raw };
    Json, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", { 1 raw: Vec<u8> },
        |v| Wire { raw: v.raw.clone() }, |w| Json { raw: w.raw };
}
