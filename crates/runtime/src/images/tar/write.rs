//! Writing tar archives: ustar with pax headers where it does not suffice; equal input gives equal bytes.

use std::io::{self, Read, Write};

use super::{BLOCK, Entry, Kind};

pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    pub fn new(output: W) -> Writer<W> {
        Writer { output }
    }

    /// A plain file of root's, from the year 0: what image layouts are made of.
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.append(&plain(path, Kind::File, bytes.len() as u64), bytes)
    }

    pub fn dir(&mut self, path: &str) -> io::Result<()> {
        self.append(&plain(path, Kind::Dir, 0), io::empty())
    }

    /// Writes an entry and exactly `entry.size` bytes of data (files only).
    pub fn append(&mut self, entry: &Entry, data: impl Read) -> io::Result<()> {
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        let mut pax = Vec::new();
        if entry.path.len() > 100 || !entry.path.is_ascii() {
            pax_record(&mut pax, b"path", &entry.path);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            pax_record(&mut pax, b"linkpath", &entry.link);
        }
        let mut number = |key: &[u8], value: u64, limit: u64| {
            if value > limit {
                pax_record(&mut pax, key, value.to_string().as_bytes());
            }
            value.min(limit)
        };
        let octal_size = number(b"size", size, 0o77_777_777_777);
        let uid = number(b"uid", entry.uid.into(), 0o7_777_777);
        let gid = number(b"gid", entry.gid.into(), 0o7_777_777);
        let (seconds, nanos) = entry.mtime;
        if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
            let text = match (seconds, nanos) {
                (s, 0) => s.to_string(),
                (s, n) if s < 0 => format!("-{}.{:09}", -(s + 1), 1_000_000_000 - n),
                (s, n) => format!("{s}.{n:09}"),
            };
            pax_record(&mut pax, b"mtime", text.as_bytes());
        }
        for (key, value) in &entry.xattrs {
            pax_record(&mut pax, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let header = plain("PaxHeaders/entry", Kind::File, pax.len() as u64);
            self.header(&header, b'x', pax.len() as u64, (0, 0, 0))?;
            self.data(pax.len() as u64, pax.as_slice())?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        };
        self.header(entry, kind, octal_size, (uid, gid, seconds.clamp(0, 0o77_777_777_777) as u64))?;
        self.data(size, data)
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, entry: &Entry, kind: u8, size: u64, (uid, gid, mtime): (u64, u64, u64)) -> io::Result<()> {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.path[..entry.path.len().min(100)]);
        put(100, format!("{:07o}", entry.mode & 0o7777).as_bytes());
        put(108, format!("{uid:07o}").as_bytes());
        put(116, format!("{gid:07o}").as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{mtime:011o}").as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &entry.link[..entry.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", entry.device.0 & 0o7_777_777).as_bytes());
        put(337, format!("{:07o}", entry.device.1 & 0o7_777_777).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.output.write_all(&block)
    }

    fn data(&mut self, size: u64, data: impl Read) -> io::Result<()> {
        let copied = io::copy(&mut data.take(size), &mut self.output)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the entry's data is shorter than its size"));
        }
        let padding = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.output.write_all(&[0; BLOCK][..padding])
    }
}

fn plain(path: &str, kind: Kind, size: u64) -> Entry {
    let mode = if kind == Kind::Dir { 0o755 } else { 0o644 };
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        size,
        mtime: (0, 0),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

/// `length key=value\n`, where the length counts itself.
fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
