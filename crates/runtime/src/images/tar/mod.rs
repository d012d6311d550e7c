//! A tar reader for untrusted archives and a writer for our own.
//!
//! The reader knows ustar, GNU (long names, base-256 numbers, sparse files) and pax, as image builders write them. It
//! streams: memory is bounded by [`MAX_EXTENSION`], whatever an archive claims. Names are bytes, returned as they stand
//! there; that they stay inside a directory is the unpacker's business.

mod sparse;
mod write;

#[cfg(test)]
mod tests;

use std::io::{self, Read};

pub use write::Writer;

/// Long names and pax headers (with their xattrs) longer than this are refused.
const MAX_EXTENSION: u64 = 1 << 20;
const BLOCK: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it ends in the middle of an entry")]
    Truncated,
    #[error("at byte {at}: {why}")]
    Malformed { at: u64, why: &'static str },
    #[error("entry type {:?} is unknown", char::from(*.0))]
    UnknownType(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    /// A further name of the file that `Entry::link` names.
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The file's size when unpacked (a sparse one's holes included).
    pub size: u64,
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub struct Reader<R> {
    input: R,
    at: u64,
    /// The current entry's data in the archive, and the padding after it, not yet read.
    data: u64,
    padding: u64,
    sparse: Option<sparse::Map>,
    done: bool,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::PaxKeys,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Reader<R> {
        Reader { input, at: 0, data: 0, padding: 0, sparse: None, done: false }
    }

    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what was not read of the last one's data is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.done {
            return Ok(None);
        }
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                self.done = true;
                return if extended { Err(TarError::Truncated) } else { Ok(None) };
            };
            let kind = header[156];
            let size = self.number(&header[124..136])?;
            match kind {
                b'x' | b'X' => {
                    let body = self.extension(size)?;
                    pax = self.parse_pax(&body)?;
                    extended = true;
                }
                // Global headers hold comments (git archive); no builder puts more there, and containerd ignores them.
                b'g' | b'V' => self.begin_data(size)?,
                b'L' | b'K' => {
                    let mut name = self.extension(size)?;
                    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
                    *(if kind == b'L' { &mut long_path } else { &mut long_link }) = Some(name);
                    extended = true;
                }
                _ => return self.entry(&header, size, pax, long_path, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let until_nul = |field: &[u8]| field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())].to_vec();
        let mut path = until_nul(&header[..100]);
        // GNU archives keep other things in the place of ustar's prefix.
        if &header[257..263] == b"ustar\0" && header[345] != 0 {
            let mut full = until_nul(&header[345..500]);
            full.push(b'/');
            full.extend_from_slice(&path);
            path = full;
        }
        let path = pax.path.take().or(long_path).unwrap_or(path);
        let link = pax.link.take().or(long_link).unwrap_or_else(|| until_nul(&header[157..257]));
        let kind = match header[156] {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Dir,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' | b'D' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(TarError::UnknownType(other)),
        };
        // Some writers give links the size of their target, and no data.
        let stored = match kind {
            Kind::File => pax.size.unwrap_or(size),
            Kind::HardLink | Kind::Symlink => 0,
            _ => pax.size.unwrap_or(size),
        };
        let id = |value: u64| {
            // The last one means "nobody in particular" to the kernel.
            let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
            id.ok_or(TarError::Malformed { at: self.at, why: "a user or group id is too large" })
        };
        let uid = id(match pax.uid {
            Some(uid) => uid,
            None => self.number(&header[108..116])?,
        })?;
        let gid = id(match pax.gid {
            Some(gid) => gid,
            None => self.number(&header[116..124])?,
        })?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (self.signed(&header[136..148])?, 0),
        };
        let mode = (self.number(&header[100..108])? & 0o7777) as u32;
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                let part = |this: &Self, field: &[u8]| {
                    u32::try_from(this.number(field)?)
                        .map_err(|_| TarError::Malformed { at: this.at, why: "a device number is too large" })
                };
                (part(self, &header[329..337])?, part(self, &header[337..345])?)
            }
            _ => (0, 0),
        };
        self.begin_data(stored)?;
        let mut entry = Entry { path, link, kind, mode, uid, gid, size: stored, mtime, device, xattrs: pax.xattrs };
        if kind == Kind::File {
            self.sparse = match header[156] {
                b'S' => Some(self.gnu_sparse(header)?),
                _ => self.pax_sparse(&mut pax.sparse)?,
            };
            if let Some(map) = &self.sparse {
                entry.size = map.real_size;
                if let Some(name) = pax.sparse.name {
                    entry.path = name;
                }
            }
        }
        Ok(entry)
    }

    /// Data of the current entry, holes as zeros; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let Some(mut map) = self.sparse.take() else { return self.read_stored(buffer) };
        let result = map.read(buffer, |part| self.read_stored(part));
        self.sparse = Some(map);
        result
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = read_some(&mut self.input, &mut buffer[..want])?;
        if n == 0 {
            return Err(TarError::Truncated);
        }
        self.data -= n as u64;
        self.at += n as u64;
        Ok(n)
    }

    /// The whole data of the current entry, if it has at most `limit` bytes.
    pub fn read_to_vec(&mut self, limit: u64) -> Result<Vec<u8>, TarError> {
        if self.data > limit {
            return Err(TarError::Malformed { at: self.at, why: "an entry is too large" });
        }
        let mut bytes = vec![0; self.data as usize];
        self.fill(&mut bytes)?;
        self.data = 0;
        Ok(bytes)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), TarError> {
        self.sparse = None;
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        if size > i64::MAX as u64 { Err(self.malformed("a size is absurd")) } else { Ok(()) }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(self.malformed("an extended header is too long"));
        }
        self.begin_data(size)?;
        self.read_to_vec(size)
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let mut left = self.data + self.padding;
        let mut scratch = [0; 8192];
        while left > 0 {
            let n = (left as usize).min(scratch.len());
            self.fill(&mut scratch[..n])?;
            left -= n as u64;
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match read_some(&mut self.input, &mut buffer[filled..])? {
                0 => return Err(TarError::Truncated),
                n => filled += n,
            }
        }
        self.at += filled as u64;
        Ok(())
    }

    /// One header block with a right checksum, `None` at the archive's end (two zero blocks, or none at all).
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        for zeros in 0..2 {
            let first = read_some(&mut self.input, &mut block[..])?;
            if first == 0 {
                return Ok(None);
            }
            self.at += first as u64;
            self.fill(&mut block[first..])?;
            if block.iter().any(|b| *b != 0) {
                if zeros == 1 {
                    return Err(self.malformed("an entry follows the archive's end"));
                }
                let stored = self.number(&block[148..156]).unwrap_or(u64::MAX);
                let sum = |signed: bool| {
                    block.iter().enumerate().fold(0i64, |sum, (i, byte)| {
                        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
                        sum + if signed { i64::from(byte as i8) } else { i64::from(byte) }
                    })
                };
                if stored as i64 != sum(false) && stored as i64 != sum(true) {
                    return Err(
                        self.malformed("a header's checksum is wrong: this is no tar archive, or a damaged one")
                    );
                }
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn malformed(&self, why: &'static str) -> TarError {
        TarError::Malformed { at: self.at, why }
    }

    fn number(&self, field: &[u8]) -> Result<u64, TarError> {
        u64::try_from(self.signed(field)?).map_err(|_| self.malformed("a number is negative"))
    }

    /// Octal text, or big-endian base 256 when the first bit is set.
    fn signed(&self, field: &[u8]) -> Result<i64, TarError> {
        if field[0] & 0x80 != 0 {
            let negative = field[0] & 0x40 != 0;
            let mut value: i64 = if negative { -1 } else { 0 };
            for (i, byte) in field.iter().enumerate() {
                let byte = if i == 0 { (byte & 0x3f) | if negative { 0xc0 } else { 0 } } else { *byte };
                if value >> 55 != 0 && value >> 55 != -1 {
                    return Err(self.malformed("a number is too large"));
                }
                value = (value << 8) | i64::from(byte);
            }
            return Ok(value);
        }
        let text = field.iter().copied().skip_while(|b| *b == b' ').take_while(|b| !matches!(b, 0 | b' '));
        let mut text = text;
        text.try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(|| self.malformed("a number is malformed"))
    }

    fn parse_pax(&self, mut body: &[u8]) -> Result<Pax, TarError> {
        let mut pax = Pax::default();
        let bad = || self.malformed("a pax header is malformed");
        while !body.is_empty() && body[0] != 0 {
            let space = body.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
            let length: usize = ascii(&body[..space]).ok_or_else(bad)?;
            let record = body.get(space + 1..length).ok_or_else(bad)?;
            body = &body[length..];
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let name = || if value.contains(&0) { Err(bad()) } else { Ok(Some(value.to_vec())) };
            // An empty value takes the key back, so the header's own field stands.
            match key {
                b"path" | b"linkpath" if value.is_empty() => {}
                b"path" => pax.path = name()?,
                b"linkpath" => pax.link = name()?,
                b"size" if !value.is_empty() => pax.size = Some(ascii(value).ok_or_else(bad)?),
                b"uid" if !value.is_empty() => pax.uid = Some(ascii(value).ok_or_else(bad)?),
                b"gid" if !value.is_empty() => pax.gid = Some(ascii(value).ok_or_else(bad)?),
                b"mtime" if !value.is_empty() => pax.mtime = Some(pax_time(value).ok_or_else(bad)?),
                _ => {
                    if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                        pax.xattrs.push((xattr.to_vec(), value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        pax.sparse.set(key, value).ok_or_else(bad)?;
                    }
                }
            }
        }
        Ok(pax)
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn ascii<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}
