//! Container logs in the CRI format, read as the API serves them: from the end, since a time, followed over rotations.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::{memory::SECOND, ports::Nanos, watch::Watch};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub timestamps: bool,
    /// Lines before this are left out.
    pub since: Option<Nanos>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr`; `None`: both.
    pub stream: Option<String>,
}

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub stamp: &'a str,
    pub stream: &'a str,
    /// Not the end of a line of the container.
    pub partial: bool,
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// `2016-10-06T00:17:09.669794202Z stdout F message`, without its newline.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
        let (stamp, stream, tags) = (word()?, word()?, word()?);
        let text = parts.next().unwrap_or_default();
        if !matches!(stream, "stdout" | "stderr") || stamp.len() < 20 {
            return None;
        }
        Some(Self { stamp, stream, partial: tags.split(':').any(|tag| tag == "P"), text })
    }

    fn nanos(&self) -> Nanos {
        schema::time::parse(self.stamp).map_or(0, |(seconds, nanos)| seconds * SECOND + Nanos::from(nanos))
    }
}

/// The file and those rotated out of it, the oldest first; compressed ones are left out.
fn files(log: &Path) -> Vec<PathBuf> {
    let Some((dir, name)) = log.parent().zip(log.file_name().and_then(|name| name.to_str())) else { return Vec::new() };
    let mut rotated: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let own = path.file_name().and_then(|own| own.to_str()).unwrap_or_default();
            own.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
                && !own.ends_with(".gz")
                && !own.ends_with(".tmp")
        })
        .collect();
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

const BLOCK: usize = 64 << 10;
/// What is kept of a line that never ends.
const MAX_LINE: usize = 1 << 20;

/// Where the last `lines` whole lines of a file begin, and how many there are (fewer if the file has fewer).
fn tail_offset(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((length, 0));
    }
    let (mut at, mut found) = (length, 0);
    let mut block = vec![0; BLOCK];
    while at > 0 {
        let size = at.min(BLOCK as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let block = &mut block[..size as usize];
        file.read_exact(block)?;
        for index in (0..block.len()).rev() {
            let position = at + index as u64;
            if block[index] == b'\n' && position + 1 != length {
                found += 1;
                if found == lines {
                    return Ok((position + 1, lines));
                }
            }
        }
    }
    Ok((0, found + u64::from(length > 0)))
}

/// Turns raw lines into what a reader asked for.
struct Filter<'a> {
    options: &'a Options,
    left: u64,
    /// Whether the next text begins a line of its stream.
    fresh: [bool; 2],
}

impl<'a> Filter<'a> {
    fn new(options: &'a Options) -> Self {
        Self { options, left: options.limit_bytes.unwrap_or(u64::MAX), fresh: [true; 2] }
    }

    fn put(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(raw) else { return };
        if self.options.stream.as_deref().is_some_and(|stream| stream != line.stream) {
            return;
        }
        if self.options.since.is_some_and(|since| line.nanos() < since) {
            return;
        }
        let from = out.len();
        let of = usize::from(line.stream == "stderr");
        if self.options.timestamps && self.fresh[of] {
            out.extend_from_slice(line.stamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.fresh[of] = !line.partial;
        let written = (out.len() - from) as u64;
        if written > self.left {
            out.truncate(from + self.left as usize);
        }
        self.left = self.left.saturating_sub(written);
    }
}

/// The last lines of a log as plain text, for termination messages.
pub fn tail(log: &Path, lines: usize, limit: usize) -> String {
    let options = Options { tail_lines: Some(lines as u64), ..Options::default() };
    let mut text = Vec::new();
    let mut reader = Reader::new(log, &options);
    let mut filter = Filter::new(&options);
    while let Ok(true) = reader.next(&mut filter, &mut text) {}
    let from = text.len().saturating_sub(limit);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

/// Reads the files of a log one after the other.
struct Reader {
    log: PathBuf,
    /// Still to read, the next one last.
    queue: Vec<(PathBuf, u64)>,
    file: Option<File>,
    /// Of the file that is read, to notice its rotation.
    inode: u64,
    part: Vec<u8>,
}

impl Reader {
    fn new(log: &Path, options: &Options) -> Self {
        let mut queue = Vec::new();
        let mut wanted = options.tail_lines;
        for path in files(log).into_iter().rev() {
            let mut from = 0;
            if let Some(lines) = &mut wanted {
                let Ok((offset, found)) = File::open(&path).and_then(|mut file| tail_offset(&mut file, *lines)) else {
                    continue;
                };
                from = offset;
                *lines -= found.min(*lines);
            }
            queue.push((path, from));
            if wanted == Some(0) {
                break;
            }
        }
        Self { log: log.to_owned(), queue, file: None, inode: 0, part: Vec::new() }
    }

    /// Reads one block; false at the end of the newest file.
    fn next(&mut self, filter: &mut Filter<'_>, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.file.is_none() {
            let Some((path, from)) = self.queue.pop() else { return Ok(false) };
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(!self.queue.is_empty()),
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(from))?;
            self.inode = file.metadata()?.ino();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut block = vec![0; BLOCK];
        let length = file.read(&mut block)?;
        if length == 0 {
            if self.queue.is_empty() {
                return Ok(false);
            }
            self.file = None;
            return Ok(true);
        }
        let mut rest = &block[..length];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if self.part.is_empty() {
                filter.put(&rest[..end], out);
            } else {
                self.part.extend_from_slice(&rest[..end]);
                filter.put(&std::mem::take(&mut self.part), out);
            }
            rest = &rest[end + 1..];
        }
        if self.part.len() + rest.len() <= MAX_LINE {
            self.part.extend_from_slice(rest);
        }
        Ok(true)
    }

    /// A new file stands where the one that was read to its end was.
    fn rotated(&mut self) -> bool {
        let Ok(now) = fs::metadata(&self.log) else { return false };
        if self.file.is_some() && now.ino() == self.inode {
            return false;
        }
        self.file = None;
        self.queue = vec![(self.log.clone(), 0)];
        true
    }
}

/// Sends a log. While it is followed, `alive` says whether more may come; its end is read once more after that.
pub async fn send(
    log: PathBuf,
    options: Options,
    mut alive: watch::Receiver<bool>,
    to: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut filter = Filter::new(&options);
    let mut reader = Reader::new(&log, &options);
    // Made before the first read, so that nothing is missed between the two.
    let changes = match log.parent().filter(|_| options.follow) {
        Some(dir) => Some(Watch::new([dir])?),
        None => None,
    };
    let mut last_round = false;
    loop {
        let mut out = Vec::new();
        let more = reader.next(&mut filter, &mut out)?;
        if !out.is_empty() && to.send(out.into()).await.is_err() {
            return Ok(());
        }
        if filter.left == 0 {
            return Ok(());
        }
        if more {
            continue;
        }
        let Some(changes) = changes.as_ref().filter(|_| !last_round) else { return Ok(()) };
        if reader.rotated() {
            continue;
        }
        if !*alive.borrow_and_update() {
            last_round = true;
            continue;
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
            () = changes.changed() => {}
            changed = alive.changed() => last_round = changed.is_err(),
        }
    }
}

#[cfg(test)]
mod tests;
