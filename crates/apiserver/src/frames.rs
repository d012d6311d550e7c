//! Encoded watch frames of one event, kept while the event is fresh so that all its watchers share them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// In what form a watcher wants an event: which served version and encoding, and as what event type it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKey {
    /// [`crate::kind::Kind::number`]
    pub kind: u64,
    pub encoding: u16,
    pub event_type: u8,
}

#[derive(Default)]
pub struct Frames(Mutex<Vec<(FrameKey, Bytes)>>);

impl Frames {
    pub fn get_or_encode<E>(&self, key: FrameKey, encode: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = frames.iter().find(|(k, _)| *k == key) {
            return Ok(bytes.clone());
        }
        let bytes = encode()?;
        frames.push((key, bytes.clone()));
        Ok(bytes)
    }

    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}
