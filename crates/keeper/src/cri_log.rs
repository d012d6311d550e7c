//! A container's log file in the CRI format: `2024-01-31T10:00:00.123456789Z stdout F text`.
//!
//! A line is written when it is complete, or as `P`, a part, when it grows beyond 16 KiB. The file is rotated here:
//! when it would exceed its size it is renamed as kubelet does (`.20240131-100000`) and the oldest are removed.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;
use crate::wire::MAX_LOG_LINE;

/// What one `write` gathers; it is the keeper's only large buffer.
const BATCH: usize = 16 * 1024;

pub struct Log {
    path: Vec<u8>,
    file: Option<OwnedFd>,
    size: u64,
    /// 0: never rotated.
    max_size: u64,
    /// How many files stay, the current one included.
    max_files: u32,
    batch: Vec<u8>,
}

impl Log {
    pub fn open(path: &[u8], max_size: u64, max_files: u32) -> std::io::Result<Log> {
        let mut log =
            Log { path: path.to_vec(), file: None, size: 0, max_size, max_files: max_files.max(1), batch: Vec::new() };
        log.reopen().map(|()| log)
    }

    /// Opens the path anew, for somebody else has moved the file away.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        let file = sys::open(&self.path, libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT, 0o640)?;
        self.size = sys::check(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_END) } as _)? as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Appends what a stream gave; `part` keeps its unfinished line.
    pub fn put(&mut self, stream: &str, part: &mut Vec<u8>, mut data: &[u8], now_ns: u64) {
        let stamp = format_time(now_ns);
        while !data.is_empty() {
            let room = MAX_LOG_LINE - part.len();
            let (end, complete) = match data.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(at) => (at, true),
                None if data.len() < room => {
                    part.extend_from_slice(data);
                    break;
                }
                None => (room.min(data.len()), false),
            };
            self.line(&stamp, stream, if complete { "F" } else { "P" }, part, &data[..end]);
            part.clear();
            data = &data[end + complete as usize..];
        }
        if part.is_empty() {
            *part = Vec::new(); // idle containers keep no buffer
        }
        self.flush();
        self.batch = Vec::new();
    }

    /// Writes what has no newline, at the end of the stream: part of a line, to which its readers add none.
    pub fn finish(&mut self, stream: &str, part: &mut Vec<u8>, now_ns: u64) {
        if !part.is_empty() {
            self.line(&format_time(now_ns), stream, "P", part, b"");
            *part = Vec::new();
            self.flush();
        }
    }

    fn line(&mut self, stamp: &[u8], stream: &str, tag: &str, part: &[u8], rest: &[u8]) {
        let length = stamp.len() + stream.len() + tag.len() + part.len() + rest.len() + 4;
        if self.max_size > 0 && self.size > 0 && self.size + (self.batch.len() + length) as u64 > self.max_size {
            self.flush();
            self.rotate(stamp);
        }
        if self.batch.len() + length > BATCH {
            self.flush();
        }
        for piece in [stamp, b" ", stream.as_bytes(), b" ", tag.as_bytes(), b" ", part, rest, b"\n"] {
            self.batch.extend_from_slice(piece);
        }
    }

    /// A full disk loses log lines, never the container.
    fn flush(&mut self) {
        if let (Some(file), false) = (&self.file, self.batch.is_empty())
            && sys::write_all(file.as_raw_fd(), &self.batch).is_ok()
        {
            self.size += self.batch.len() as u64;
        }
        self.batch.clear();
    }

    fn rotate(&mut self, stamp: &[u8]) {
        // 2024-01-31T10:00:00.1… becomes .20240131-100000
        let digits: Vec<u8> = stamp[..19].iter().filter(|b| b.is_ascii_digit()).copied().collect();
        let base = [&self.path[..], b".", &digits[..8], b"-", &digits[8..]].concat();
        let name = (0..100u32)
            .map(|n| if n == 0 { base.clone() } else { [&base[..], format!(".{n:02}").as_bytes()].concat() });
        for name in name {
            let (Ok(from), Ok(to)) = (sys::c(&self.path), sys::c(&name)) else { return };
            // Never over an earlier one of the same second.
            let (here, no_replace) = (libc::AT_FDCWD, 1u32);
            let renamed =
                unsafe { libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), no_replace) };
            match sys::check(renamed) {
                Err(e) if sys::errno(&e) == libc::EEXIST => continue,
                _ => break,
            }
        }
        if self.reopen().is_ok() {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&self) {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let at = self.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let (dir, name) = (std::path::Path::new(std::ffi::OsStr::from_bytes(&self.path[..at])), &self.path[at + 1..]);
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let is_rotated =
            |file: &Vec<u8>| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(b".") && rest.len() > 1);
        let mut rotated: Vec<Vec<u8>> =
            entries.flatten().map(|e| e.file_name().into_vec()).filter(is_rotated).collect();
        rotated.sort();
        let surplus = rotated.len().saturating_sub(self.max_files as usize - 1);
        for name in &rotated[..surplus] {
            let _ = std::fs::remove_file(dir.join(std::ffi::OsStr::from_bytes(name)));
        }
    }
}

/// RFC 3339 with nanoseconds, in UTC: 30 bytes.
pub fn format_time(ns: u64) -> Vec<u8> {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a civil date, by years that start in March (the leap day comes last).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z").into_bytes()
}

#[cfg(test)]
mod tests;
