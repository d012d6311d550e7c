//! The API from outside: a [`Transport`] that carries requests, a typed [`Client`] on it, and [`reflector`]s.

mod client;
mod frames;
mod metadata;
pub mod reflector;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

pub(crate) use client::Effect;
pub use client::{Client, List, collect};
pub use frames::{Event, EventKind, Frames};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Carries a request to the API server: in this process by a call, from an agent by HTTPS.
///
/// The caller's [`Identity`] stands in the request's extensions; a transport whose connection has an identity of its
/// own (a client certificate) ignores it.
pub trait Transport: Send + Sync + 'static {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Body>, BoxError>>;
}

/// The user name of a component, such as `system:kube-scheduler`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub Arc<str>);

/// Why a request to the API failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API answered with a `Status`.
    #[error("{method} {path}: {code} {reason}: {message}")]
    Api {
        method: &'static str,
        path: String,
        code: u16,
        reason: String,
        message: String,
        retry_after_seconds: Option<u64>,
    },
    /// No answer, or one that ended early.
    #[error("{method} {path}")]
    Transport {
        method: &'static str,
        path: String,
        #[source]
        source: BoxError,
    },
    /// An answer that is not what was asked for.
    #[error("{path}: the answer is no {expected}")]
    Decode { path: String, expected: &'static str },
}

impl Error {
    pub fn code(&self) -> u16 {
        if let Self::Api { code, .. } = self { *code } else { 0 }
    }

    pub fn reason(&self) -> &str {
        if let Self::Api { reason, .. } = self { reason } else { "" }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Somebody else was first: what we decided from is old.
    pub fn is_stale(&self) -> bool {
        matches!(self.code(), 404 | 409)
    }
}
