//! The keeper's protocol: one message per packet on a `SOCK_SEQPACKET` socket, file descriptors beside it.
//!
//! A message is a little-endian u32 id and then fields, each ended by a zero byte. A request's first field is the
//! operation; the reply carries the request's id and starts with `ok` or `err`. Messages of id 0 are events.
//! Both sides compile this file. Every released version stays supported: fields may be added at the end of a message,
//! `key=value` fields may appear, nothing else changes without a new [`VERSION`].

/// Version of the protocol, exchanged by `hello`.
pub const VERSION: u32 = 1;
/// Longest message: no operation comes near it.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most file descriptors beside one message.
pub const MAX_FDS: usize = 8;
/// Longest line of a log before it is split, as containerd's default.
#[allow(dead_code)]
pub const MAX_LOG_LINE: usize = 16 * 1024;

/// One message in its encoded form. A zero byte inside a field would end it early; callers have checked their input.
pub fn encode(id: u32, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + fields.iter().map(|f| f.len() + 1).sum::<usize>());
    out.extend_from_slice(&id.to_le_bytes());
    for field in fields {
        out.extend(field.iter().take_while(|b| **b != 0));
        out.push(0);
    }
    out
}

/// Id and fields of a message; `None` if it is not one.
pub fn decode(message: &[u8]) -> Option<(u32, Vec<&[u8]>)> {
    let (id, body) = message.split_first_chunk::<4>()?;
    let body = body.strip_suffix(&[0])?;
    Some((u32::from_le_bytes(*id), body.split(|b| *b == 0).collect()))
}

/// The value of the first `key=value` field of that key.
#[allow(dead_code)]
pub fn value<'a>(fields: &[&'a [u8]], key: &str) -> Option<&'a [u8]> {
    fields.iter().find_map(|f| f.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
}

/// A field as a number.
pub fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}
