//! What can go wrong with images: one enum that says what was tried on what, and a coarse [`Kind`] that the
//! kubelet turns into a reason. `Display` prints one link of the chain; [`Error::chain`] prints all of it.

use std::io;
use std::path::PathBuf;

use super::digest::Digest;
use super::platform::Platform;
use super::registry::http::HttpError;
use super::tar::TarError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid image reference {reference:?}: {why}")]
    InvalidReference { reference: String, why: &'static str },
    #[error("invalid digest {0:?}")]
    InvalidDigest(String),
    #[error("image {0:?} is not present on this node")]
    NotPresent(String),
    #[error("{0:?} matches several images")]
    Ambiguous(String),
    #[error("{reference}: not found at {endpoint}")]
    NotFound { reference: String, endpoint: String },
    #[error("{reference}: {endpoint} denies access ({status}){}", detail_suffix(detail))]
    Unauthorized { reference: String, endpoint: String, status: u16, detail: String },
    #[error("{reference}: {endpoint} answers {status}{}", detail_suffix(detail))]
    Answer { reference: String, endpoint: String, status: u16, detail: String },
    #[error("{reference}: cannot reach {endpoint}")]
    Unreachable { reference: String, endpoint: String, source: HttpError },
    #[error("{reference}: no endpoint served it: {}", join(.failures))]
    AllEndpoints { reference: String, failures: Vec<Error> },
    #[error("{reference}: no registry endpoint is configured and the default one is disabled")]
    NoEndpoint { reference: String },
    #[error("no image for {wanted}: {} offers {}", .reference, offers(.offered))]
    NoPlatform { reference: String, wanted: Platform, offered: Vec<Platform> },
    #[error("{0}: image manifest schema 1 is not supported; push the image again with a current tool")]
    Schema1(String),
    #[error("{what}: unsupported media type {media_type:?}")]
    UnsupportedMediaType { what: String, media_type: String },
    #[error("{reference}: signature validation failed: {why}")]
    Signature { reference: String, why: String },
    #[error("{what}: {why}")]
    Malformed { what: String, why: String },
    #[error("{what}: digest is {got}, expected {want}")]
    DigestMismatch { what: String, want: Digest, got: Digest },
    #[error("{what}: size is {got} bytes, expected {want}")]
    SizeMismatch { what: String, want: u64, got: u64 },
    #[error("{what}: exceeds the limit of {limit} {unit}")]
    Limit { what: String, limit: u64, unit: &'static str },
    #[error("not enough space on {}: {needed} bytes wanted, {free} free, {reserve} kept in reserve", .path.display())]
    NoSpace { path: PathBuf, needed: u64, free: u64, reserve: u64 },
    #[error("{image}: not enough space on {}: {needed} bytes wanted at least, {free} free, {reserve} kept in reserve", .path.display())]
    NoRoom { image: String, path: PathBuf, needed: u64, free: u64, reserve: u64 },
    #[error("layer {layer}: {path:?}: {why}")]
    Entry { layer: String, path: String, why: &'static str },
    #[error("layer {layer}: bad tar archive")]
    Tar { layer: String, source: TarError },
    #[error("image {image}: layer {layer} is damaged on disk and could not be restored")]
    Damaged { image: String, layer: Digest, source: Box<Error> },
    #[error("image {image} lacks blob {digest}, and there is no way to fetch it again")]
    BlobMissing { image: String, digest: Digest },
    #[error("registries.yaml: {}", .0.join("; "))]
    Registries(Vec<String>),
    #[error("TLS material for {host}: {why}")]
    Tls { host: String, why: String },
    #[error("image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("image record {} is unreadable: {why}", .path.display())]
    Records { path: PathBuf, why: String },
    #[error("cannot {doing} {}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the operation was cancelled")]
    Cancelled,
}

/// What the kubelet, the CRI server and a retry need to know of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    InvalidName,
    NotPresent,
    NotFound,
    Unauthorized,
    /// The image is not signed as this node's policy wants.
    Signature,
    /// The registry could not be reached or keeps failing: worth another try later.
    Unavailable,
    NoPlatform,
    /// The image's own fault: hostile, broken or of an unknown type.
    BadImage,
    /// This node's fault: disk, configuration.
    Local,
    Cancelled,
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { doing, path, source }
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Error {
        Error::Malformed { what: what.into(), why: why.to_string() }
    }

    pub fn kind(&self) -> Kind {
        use Error::*;
        match self {
            InvalidReference { .. } | InvalidDigest(_) => Kind::InvalidName,
            NotPresent(_) | Ambiguous(_) => Kind::NotPresent,
            NotFound { .. } => Kind::NotFound,
            Unauthorized { .. } => Kind::Unauthorized,
            Signature { .. } => Kind::Signature,
            Answer { .. } | Unreachable { .. } | NoEndpoint { .. } => Kind::Unavailable,
            // The most telling of the endpoints' answers: a mirror that lacks an image says nothing about the image.
            AllEndpoints { failures, .. } => {
                let has = |kind| failures.iter().any(|f| f.kind() == kind);
                [Kind::BadImage, Kind::NoPlatform, Kind::Unauthorized, Kind::Unavailable, Kind::NotFound]
                    .into_iter()
                    .find(|kind| has(*kind))
                    .unwrap_or(Kind::Unavailable)
            }
            NoPlatform { .. } => Kind::NoPlatform,
            Schema1(_) | UnsupportedMediaType { .. } | Malformed { .. } | DigestMismatch { .. } => Kind::BadImage,
            SizeMismatch { .. } | Limit { .. } | Entry { .. } | Tar { .. } => Kind::BadImage,
            NoSpace { .. } | NoRoom { .. } | Damaged { .. } | BlobMissing { .. } | Registries(_) | Tls { .. } => {
                Kind::Local
            }
            Locked(_) | Records { .. } | Io { .. } => Kind::Local,
            Cancelled => Kind::Cancelled,
        }
    }

    /// The whole chain in one line, as events and container statuses print it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn join(failures: &[Error]) -> String {
    failures.iter().map(Error::chain).collect::<Vec<_>>().join("; ")
}

fn offers(offered: &[Platform]) -> String {
    if offered.is_empty() {
        return "nothing that runs".into();
    }
    offered.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}
