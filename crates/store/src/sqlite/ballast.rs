//! Space kept back for the day the disk is full: a file beside the database that is given up piece by piece, so that
//! deletions and compaction, which make room, still find some.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// How much one refused write frees.
const PIECE_BYTES: u64 = 256 << 10;

pub(super) struct Ballast {
    path: PathBuf,
    full_bytes: u64,
}

impl Ballast {
    /// `full_bytes` 0: none.
    pub fn new(path: PathBuf, full_bytes: u64) -> Self {
        Self { path, full_bytes }
    }

    /// Makes it whole, if there is space. `false`: it is not.
    pub fn refill(&self) -> bool {
        if self.full_bytes == 0 {
            return true;
        }
        let whole = fs::metadata(&self.path)
            .is_ok_and(|meta| meta.len() == self.full_bytes && meta.blocks() * 512 >= self.full_bytes / 2);
        whole || self.fill().is_ok()
    }

    fn fill(&self) -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
        let at = file.metadata()?.len().min(self.full_bytes);
        // A hole holds no space: what is not backed by blocks is written again.
        let at = if file.metadata()?.blocks() * 512 >= at { at } else { 0 };
        file.seek(SeekFrom::Start(at))?;
        let result = write_noise(&mut file, self.full_bytes - at);
        if result.is_err() {
            // Only whole pieces count; give the rest back.
            let _ = file.set_len(at);
        }
        result
    }

    /// Gives up a piece. `false`: there is nothing left.
    pub fn release(&self) -> bool {
        let Ok(file) = OpenOptions::new().write(true).open(&self.path) else { return false };
        let Ok(meta) = file.metadata() else { return false };
        meta.len() > 0 && file.set_len(meta.len().saturating_sub(PIECE_BYTES)).is_ok()
    }
}

/// Bytes that no file system compresses away.
fn write_noise(file: &mut File, mut bytes: u64) -> std::io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = [0_u8; 4096];
    while bytes > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let part = bytes.min(block.len() as u64);
        file.write_all(&block[..part as usize])?;
        bytes -= part;
    }
    Ok(())
}
