//! Decompression and hashing on a thread of their own, a few chunks ahead of whoever reads.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Limits;
use crate::images::compression::Decoder;
use crate::images::digest::{Digest, Hasher};
use crate::images::error::{Error, Result};

const CHUNK: usize = 256 << 10;
const AHEAD: usize = 4;

/// Runs `read` on the decompressed bytes of `blob`, reads on to their end, and checks their digest.
pub fn decompressed<T>(
    blob: &Path,
    diff_id: &Digest,
    limits: &Limits,
    read: impl FnOnce(&mut Chunks) -> Result<T>,
) -> Result<T> {
    let file = File::open(blob).map_err(Error::io("open", blob))?;
    let size = file.metadata().map_err(Error::io("look at", blob))?.len();
    let cap = size.saturating_mul(limits.ratio).max(limits.free_ratio_bytes).min(limits.bytes.saturating_add(1 << 30));
    std::thread::scope(|scope| {
        let (full, chunks) = sync_channel(AHEAD);
        let (recycle, empty) = sync_channel(AHEAD + 2);
        let producer =
            scope.spawn(move || produce(BufReader::with_capacity(CHUNK, file), cap, diff_id.hasher(), &full, &empty));
        let mut stream = Chunks { chunks, recycle, current: Vec::new(), at: 0 };
        let outcome = read(&mut stream);
        // Archives may end before their stream does.
        let drained = if outcome.is_ok() { stream.drain() } else { Ok(()) };
        drop(stream);
        let produced = producer.join().unwrap_or_else(|_| Err(io::Error::other("the decompressor ended early")));
        let layer = || format!("layer {diff_id}");
        match produced {
            Ok(Produced::TooMuch) => {
                return Err(Error::Limit { what: layer(), limit: cap, unit: "bytes for its compressed size" });
            }
            Err(e) if outcome.is_ok() => return Err(Error::malformed(layer(), e)),
            _ => {}
        }
        let value = outcome?;
        drained.map_err(|e| Error::malformed(layer(), e))?;
        match produced {
            Ok(Produced::All(got)) if got == *diff_id => Ok(value),
            Ok(Produced::All(got)) => Err(Error::DigestMismatch { what: layer(), want: diff_id.clone(), got }),
            _ => Err(Error::Cancelled),
        }
    })
}

enum Produced {
    All(Digest),
    TooMuch,
    /// The reader lost interest.
    Stopped,
}

fn produce(
    input: impl Read,
    cap: u64,
    mut hasher: Hasher,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<Produced> {
    let mut total = 0u64;
    let fail = |e: io::Error| {
        // The reader sees the cause in place of a mere end.
        let _ = full.send(Err(io::Error::new(e.kind(), e.to_string())));
        e
    };
    let mut decoder = Decoder::new(input).map_err(fail)?;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        if filled == 0 {
            return Ok(Produced::All(hasher.finish()));
        }
        chunk.truncate(filled);
        total += filled as u64;
        if total > cap {
            return Ok(Produced::TooMuch);
        }
        hasher.update(&chunk);
        if full.send(Ok(chunk)).is_err() {
            return Ok(Produced::Stopped);
        }
    }
}

/// The reading end.
pub struct Chunks {
    chunks: Receiver<io::Result<Vec<u8>>>,
    recycle: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Chunks {
    fn drain(&mut self) -> io::Result<()> {
        while let Ok(chunk) = self.chunks.recv() {
            chunk?;
        }
        Ok(())
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            let Ok(next) = self.chunks.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.current, next?);
            self.at = 0;
            let _ = self.recycle.try_send(used);
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
