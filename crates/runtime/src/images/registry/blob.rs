//! Downloading one blob: hashed and written on a blocking thread while it streams, taken up where it broke off, from
//! whichever endpoint has it.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Session, backoff};
use crate::images::blobs::{Blobs, Ingest, check_space};
use crate::images::digest::Digest;
use crate::images::error::{Error, Kind, Result};
use crate::images::{Failed, blocking};

/// Bytes that count as headway: after so many, the tries start anew.
const HEADWAY: u64 = 1 << 20;
const CHUNKS_AHEAD: usize = 16;

pub struct Download<'a> {
    pub blobs: Arc<Blobs>,
    pub digest: &'a Digest,
    pub size: u64,
    /// Bytes that must stay free on the disk.
    pub reserve: u64,
    /// Told how many bytes an earlier pull has left, if any.
    pub on_resume: &'a (dyn Fn(u64) + Send + Sync),
    /// Told how many bytes are there.
    pub on_bytes: &'a (dyn Fn(u64) + Send + Sync),
    /// Told of a try that failed.
    pub on_retry: &'a (dyn Fn(&Error) + Send + Sync),
    /// Held as long as anything writes the partial file.
    pub guard: Arc<dyn Any + Send + Sync>,
}

impl Download<'_> {
    /// Tries the endpoints in order until the blob is complete and right.
    pub async fn run(&self, sessions: &[&Session]) -> Result<()> {
        let (blobs, digest, size) = (self.blobs.clone(), self.digest.clone(), self.size);
        let mut ingest = blocking(move || Ingest::resume(&blobs, &digest, size)).await?;
        if ingest.written > 0 {
            (self.on_resume)(ingest.written);
        }
        let mut failures = Vec::new();
        for session in sessions {
            match self.from(session, ingest).await {
                Ok(()) => return Ok(()),
                Err(error) if matches!(error.kind(), Kind::Local | Kind::Cancelled) => return Err(error),
                Err(error) => failures.push(error),
            }
            let (blobs, digest) = (self.blobs.clone(), self.digest.clone());
            ingest = blocking(move || Ingest::resume(&blobs, &digest, size)).await?;
        }
        Err(Failed(failures).into_error(sessions.first().map(|s| &s.reference)))
    }

    async fn from(&self, session: &Session, mut ingest: Ingest) -> Result<()> {
        let patience = &session.registry.patience;
        let mut attempt = 1;
        let mut anew = ingest.written == 0;
        loop {
            let begun_at = ingest.written;
            let (returned, outcome) = self.stream(session, ingest).await?;
            ingest = returned;
            let error = match outcome {
                Ok(()) if ingest.written == self.size => {
                    let (blobs, guard) = (self.blobs.clone(), self.guard.clone());
                    let committed = blocking(move || {
                        let _guard = guard;
                        ingest.commit(&blobs, "blob")
                    });
                    match committed.await {
                        Err(Error::DigestMismatch { .. }) if !anew => {
                            // An older part was wrong, or the registry's answer to a range: once more from the beginning.
                            anew = true;
                            let (blobs, digest, size) = (self.blobs.clone(), self.digest.clone(), self.size);
                            ingest = blocking(move || Ingest::start(&blobs, &digest, size)).await?;
                            continue;
                        }
                        done => return done,
                    }
                }
                Ok(()) => Error::SizeMismatch {
                    what: format!("{}: blob {}", session.endpoint.url(), self.digest),
                    want: self.size,
                    got: ingest.written,
                },
                Err(error) => error,
            };
            let passing = match &error {
                Error::Unreachable { .. } => true,
                Error::Answer { status, .. } => *status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16(),
                Error::SizeMismatch { got, want, .. } => got < want,
                _ => false,
            };
            if ingest.written >= begun_at + HEADWAY {
                attempt = 1;
            }
            if !passing || attempt >= patience.attempts {
                return Err(error);
            }
            (self.on_retry)(&error);
            sleep(backoff(patience, attempt)).await;
            attempt += 1;
        }
    }

    /// One answer's bytes, from where the file ends.
    async fn stream(&self, session: &Session, mut ingest: Ingest) -> Result<(Ingest, Result<()>)> {
        if ingest.written == self.size {
            return Ok((ingest, Ok(())));
        }
        check_space(&self.blobs.path(self.digest).with_file_name(""), self.size - ingest.written, self.reserve)?;
        let mut headers = HeaderMap::new();
        if ingest.written > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", ingest.written))
        {
            headers.insert(header::RANGE, range);
        }
        let mut response = match session.request(Method::GET, &format!("blobs/{}", self.digest), headers).await {
            Ok(response) => response,
            Err(error) => {
                if matches!(error, Error::Answer { status: 416, .. }) {
                    ingest.restart()?;
                }
                return Ok((ingest, Err(error)));
            }
        };
        let continues = response.status == StatusCode::PARTIAL_CONTENT
            && response
                .header("content-range")
                .is_some_and(|range| range.starts_with(&format!("bytes {}-", ingest.written)));
        if !continues && ingest.written > 0 {
            ingest.restart()?;
        }
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let guard = self.guard.clone();
        let mut count = ingest.written;
        let writer = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            let mut write = || -> Result<()> {
                while let Some(chunk) = receiver.blocking_recv() {
                    ingest.write(&chunk)?;
                }
                Ok(())
            };
            let outcome = write();
            drop(receiver);
            (ingest, outcome)
        });
        let received = loop {
            match response.chunk().await {
                Ok(None) => break Ok(()),
                Err(source) => break Err(session.unreachable(source)),
                Ok(Some(chunk)) => {
                    count += chunk.len() as u64;
                    (self.on_bytes)(count);
                    if sender.send(chunk).await.is_err() {
                        break Ok(());
                    }
                }
            }
        };
        drop(sender);
        let (ingest, written) = writer.await.map_err(|_| Error::Cancelled)?;
        Ok((ingest, written.and(received)))
    }
}
