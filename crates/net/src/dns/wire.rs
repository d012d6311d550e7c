//! DNS messages as bytes (RFC 1035, EDNS of RFC 6891): reading questions and records, writing replies.
//!
//! Everything read is bounded: a name by 255 bytes and by the pointers it may follow, a message by its length.

use std::net::IpAddr;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const OPT: u16 = 41;
pub const ANY: u16 = 255;
pub const IN: u16 = 1;

pub const NO_ERROR: u8 = 0;
pub const FORMAT_ERROR: u8 = 1;
pub const SERVER_FAILURE: u8 = 2;
pub const NAME_ERROR: u8 = 3;
pub const NOT_IMPLEMENTED: u8 = 4;

pub const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// What we take over UDP, and say that we take (the value of DNS flag day 2020).
pub const UDP_SIZE: u16 = 1232;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a name at `at`; returns it as lower-case text without a final dot, and where the next field begins.
/// `None` for one that is malformed, too long or has bytes that no name of ours has (a dot within a label).
pub fn read_name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = at;
    let mut end = None;
    let mut jumps = 0;
    loop {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some((text, end.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + length)?;
                if text.len() + length > 253 {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                for byte in label {
                    if !byte.is_ascii_graphic() || *byte == b'.' {
                        return None;
                    }
                    text.push(byte.to_ascii_lowercase().into());
                }
                at += 1 + length;
            }
            3 => {
                end.get_or_insert(at + 2);
                jumps += 1;
                let to = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                // Pointers lead backwards only, so they end.
                if to >= at || jumps > 32 {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
}

/// Where the field after the name at `at` begins, whatever its labels hold.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + length,
            3 => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// A query's one question, and what it says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    /// Lower case, no final dot; `None`: a name that can't be one of ours.
    pub name: Option<String>,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends.
    pub question_end: usize,
    pub recursion_desired: bool,
    /// The size that the client takes over UDP, if it speaks EDNS.
    pub edns: Option<u16>,
    /// EDNS' flags (DNSSEC OK), and the header's (checking disabled): answers differ by them.
    pub flags: u16,
    /// Opcodes other than QUERY.
    pub opcode: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a query, or too short to have an id: say nothing.
    Ignore,
    Malformed,
}

/// Reads a query.
pub fn read_query(message: &[u8]) -> Result<Query, Refusal> {
    let header = message.get(..HEADER).ok_or(Refusal::Ignore)?;
    if header[2] & RESPONSE != 0 {
        return Err(Refusal::Ignore);
    }
    let count = |at| u16_at(header, at).unwrap_or(0);
    let opcode = header[2] >> 3 & 0xf;
    if opcode == 0 && count(4) != 1 {
        return Err(Refusal::Malformed);
    }
    let end = skip_name(message, HEADER).ok_or(Refusal::Malformed)?;
    let (kind, class) = u16_at(message, end).zip(u16_at(message, end + 2)).ok_or(Refusal::Malformed)?;
    let mut query = Query {
        id: count(0),
        name: read_name(message, HEADER).map(|(name, _)| name),
        kind,
        class,
        question_end: end + 4,
        recursion_desired: header[2] & RECURSION_DESIRED != 0,
        edns: None,
        flags: u16::from(header[3] & 0x10),
        opcode,
    };
    let records = u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10));
    let mut at = query.question_end;
    for _ in 0..records {
        let record = read_record(message, at).ok_or(Refusal::Malformed)?;
        if record.kind == OPT {
            query.edns = Some(record.class);
            query.flags |= record.ttl as u16 & 0x8000;
        }
        at = record.end;
    }
    Ok(query)
}

/// A record where it stands in a message.
#[derive(Clone, Copy, Debug)]
pub struct RecordAt {
    pub name: usize,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub ttl_at: usize,
    pub data: usize,
    pub end: usize,
}

fn read_record(message: &[u8], name: usize) -> Option<RecordAt> {
    let at = skip_name(message, name)?;
    let fixed = message.get(at..at + 10)?;
    let data = at + 10;
    let end = data + usize::from(u16_at(fixed, 8)?);
    message.get(data..end)?;
    Some(RecordAt {
        name,
        kind: u16_at(fixed, 0)?,
        class: u16_at(fixed, 2)?,
        ttl: u32::from_be_bytes(fixed[4..8].try_into().ok()?),
        ttl_at: at + 4,
        data,
        end,
    })
}

/// A response's records, as far as they can be read; `None` if it is not a well-formed response.
pub struct Response {
    pub id: u16,
    pub code: u8,
    pub truncated: bool,
    pub question_end: usize,
    pub answers: usize,
    pub records: Vec<RecordAt>,
}

pub fn read_response(message: &[u8]) -> Option<Response> {
    let header = message.get(..HEADER)?;
    if header[2] & RESPONSE == 0 || u16_at(header, 4)? != 1 {
        return None;
    }
    let question_end = skip_name(message, HEADER)? + 4;
    message.get(..question_end)?;
    let counts = [u16_at(header, 6)?, u16_at(header, 8)?, u16_at(header, 10)?];
    let truncated = header[2] & TRUNCATED != 0;
    let mut records = Vec::new();
    let mut at = question_end;
    for _ in 0..counts.iter().map(|n| u32::from(*n)).sum::<u32>() {
        match read_record(message, at) {
            Some(record) => {
                at = record.end;
                records.push(record);
            }
            None if truncated => break,
            None => return None,
        }
    }
    Some(Response {
        id: u16_at(header, 0)?,
        code: header[3] & 0xf,
        truncated,
        question_end,
        answers: usize::from(counts[0]).min(records.len()),
        records,
    })
}

/// The same question with the same flags, as a fresh query of ours.
pub fn write_query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    push_name(&mut out, name);
    out.extend_from_slice(&[kind.to_be_bytes(), IN.to_be_bytes()].concat());
    push_opt(&mut out);
    out
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
}

fn push_opt(out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&[OPT.to_be_bytes(), UDP_SIZE.to_be_bytes(), [0, 0], [0, 0], [0, 0]].concat());
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Address(IpAddr),
    Cname(String),
    Ptr(String),
    Ns(String),
    Txt(String),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Soa { primary: String, contact: String, serial: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Empty: the question's own name.
    pub name: String,
    pub ttl: u32,
    pub data: Data,
}

impl Data {
    pub fn kind(&self) -> u16 {
        match self {
            Data::Address(IpAddr::V4(_)) => A,
            Data::Address(IpAddr::V6(_)) => AAAA,
            Data::Cname(_) => CNAME,
            Data::Ptr(_) => PTR,
            Data::Ns(_) => NS,
            Data::Txt(_) => TXT,
            Data::Srv { .. } => SRV,
            Data::Soa { .. } => SOA,
        }
    }
}

/// The records of a reply, by section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    pub code: u8,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// From our own data, not from another resolver.
    pub authoritative: bool,
}

fn push_record(out: &mut Vec<u8>, record: &Record, question: &str) {
    const QUESTION: [u8; 2] = [0xc0, HEADER as u8];
    if record.name.is_empty() || record.name == question {
        out.extend_from_slice(&QUESTION);
    } else {
        push_name(out, &record.name);
    }
    out.extend_from_slice(&record.data.kind().to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    match &record.data {
        Data::Address(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
        Data::Address(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
        Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => push_name(out, name),
        Data::Txt(text) => {
            let text = &text.as_bytes()[..text.len().min(255)];
            out.push(text.len() as u8);
            out.extend_from_slice(text);
        }
        Data::Srv { priority, weight, port, target } => {
            out.extend_from_slice(&[priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat());
            push_name(out, target);
        }
        Data::Soa { primary, contact, serial } => {
            push_name(out, primary);
            push_name(out, contact);
            // Refresh, retry, expire; and how long a denial may be kept.
            for number in [*serial, 7200, 1800, 86400, super::TTL] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
    let length = (out.len() - length_at - 2) as u16;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Writes the reply to `query` (whose bytes are `message`) in at most `limit` bytes. What does not fit is left out,
/// and said to be if it was an answer.
pub fn write_reply(message: &[u8], query: &Query, sections: &Sections, limit: usize) -> Vec<u8> {
    let question = query.name.as_deref().unwrap_or_default();
    let mut out = message.get(..query.question_end).unwrap_or_default().to_vec();
    out.resize(out.len().max(HEADER), 0);
    out[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let opt = if query.edns.is_some() { 11 } else { 0 };
    let mut truncated = false;
    let mut counts = [0u16; 3];
    let lists = [&sections.answers, &sections.authority, &sections.additional];
    'sections: for (section, list) in lists.into_iter().enumerate() {
        for record in list {
            let before = out.len();
            push_record(&mut out, record, question);
            if out.len() + opt > limit {
                out.truncate(before);
                // Additional records are a courtesy.
                truncated = section < 2;
                break 'sections;
            }
            counts[section] += 1;
        }
    }
    if query.edns.is_some() {
        push_opt(&mut out);
        counts[2] += 1;
    }
    for (section, count) in counts.iter().enumerate() {
        out[6 + 2 * section..8 + 2 * section].copy_from_slice(&count.to_be_bytes());
    }
    out[2] = RESPONSE | query.opcode << 3;
    out[2] |= if query.recursion_desired { RECURSION_DESIRED } else { 0 };
    out[2] |= if truncated { TRUNCATED } else { 0 };
    out[2] |= if sections.authoritative { AUTHORITATIVE } else { 0 };
    out[3] = RECURSION_AVAILABLE | sections.code;
    out
}

/// A header alone, for what could not be read.
pub fn write_refusal(message: &[u8], code: u8) -> Vec<u8> {
    let mut out = message.get(..HEADER).unwrap_or_default().to_vec();
    out.resize(HEADER, 0);
    out[2] = RESPONSE | out[2] & 0x79;
    out[3] = RECURSION_AVAILABLE | code;
    out[4..].fill(0);
    out
}
