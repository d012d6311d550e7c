//! Protobuf's wire: varints, tags, lengths.

use super::WireError;

pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const LEN: u8 = 2;
pub const FIXED32: u8 = 5;

#[derive(Clone)]
pub struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    #[cold]
    fn cut<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError::Truncated { what, offset: self.at as u64 })
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        if let Some(&b) = self.bytes.get(self.at)
            && b < 0x80
        {
            self.at += 1;
            return Ok(b.into());
        }
        self.long_varint()
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(&b) = self.bytes.get(self.at) else { return self.cut("a varint") };
            self.at += 1;
            value |= u64::from(b & 0x7f).checked_shl(shift).unwrap_or(0);
            if b < 0x80 {
                return Ok(value);
            }
        }
        self.cut("an overlong varint")
    }

    /// The next field number and wire type; `None` at the end.
    #[inline(always)]
    pub fn tag(&mut self) -> Result<Option<(u32, u8)>, WireError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).unwrap_or(0);
        if tag == 0 {
            return self.cut("a field number");
        }
        Ok(Some((tag, (key & 7) as u8)))
    }

    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.varint()?;
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => self.cut("a length-delimited field"),
        }
    }

    pub fn fixed64(&mut self) -> Result<u64, WireError> {
        let Some(bytes) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) else { return self.cut("a fixed64") };
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub fn fixed32(&mut self) -> Result<u32, WireError> {
        let Some(bytes) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) else { return self.cut("a fixed32") };
        self.at += 4;
        Ok(u32::from_le_bytes(*bytes))
    }

    /// Reads a field's payload, whatever its wire type.
    #[inline(always)]
    pub fn payload(&mut self, wire: u8) -> Result<Payload<'a>, WireError> {
        Ok(match wire {
            LEN => Payload { wire, int: 0, bytes: self.bytes()? },
            VARINT => Payload { wire, int: self.varint()?, bytes: &[] },
            FIXED64 => Payload { wire, int: self.fixed64()?, bytes: &[] },
            FIXED32 => Payload { wire, int: self.fixed32()?.into(), bytes: &[] },
            _ => return self.cut("a group"),
        })
    }

    pub fn skip(&mut self, wire: u8) -> Result<(), WireError> {
        self.payload(wire).map(drop)
    }
}

/// What stands behind a tag: `bytes` if it has a length, else `int`.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub wire: u8,
    pub int: u64,
    pub bytes: &'a [u8],
}

#[inline]
pub fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub fn write_tag(tag: u32, wire: u8, out: &mut Vec<u8>) {
    write_varint(u64::from(tag) << 3 | u64::from(wire), out);
}

pub fn write_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_tag(tag, LEN, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub fn write_nested(tag: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    write_tag(tag, LEN, out);
    write_len(out, content);
}

/// Writes content whose length is known only afterwards: the length goes in before it, and it moves up if that takes
/// more than the one byte kept for it.
pub fn write_len(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    content(out);
    let len = (out.len() - at - 1) as u64;
    let width = varint_width(len);
    if width > 1 {
        let end = out.len();
        out.resize(end + width - 1, 0);
        out.copy_within(at + 1..end, at + width);
    }
    let mut rest = len;
    for slot in &mut out[at..at + width] {
        *slot = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + width - 1] &= 0x7f;
}

pub fn varint_width(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Size of a length-delimited field with a tag below 16.
pub fn bytes_width(length: usize) -> usize {
    1 + varint_width(length as u64) + length
}
