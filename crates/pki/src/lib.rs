//! Certificates, keys and tokens of a cluster, as values.
//!
//! [`Authority`] makes and issues, [`Certificate`] and [`CertificateRequest`] read, [`jwt`] signs and checks
//! service account tokens, [`JoinToken`] is what a new node is given, [`kubeconfig`] what a client is given.
//! Pure: the time (seconds since 1970) and the source of randomness are arguments; files are the caller's.

mod authority;
mod certificate;
mod der;
mod join;
pub mod jwt;
mod key;
pub mod kubeconfig;
mod pem;
mod request;
#[cfg(test)]
mod tests;

pub use authority::{Authority, Leaf, renewal};
pub use certificate::{Certificate, ExtendedUsage, Names, Renewal, Subject};
pub use join::{Credential, JoinToken, ca_hash, random_hex, same_secret};
pub use key::{Algorithm, KeyPair, PublicKey};
pub use pem::Pem;
pub use request::CertificateRequest;
pub use ring::rand::{SecureRandom, SystemRandom};

/// Seconds of a day, for validities.
pub const DAY: i64 = 86_400;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{what} is not valid DER at {field}")]
    Der { what: &'static str, field: &'static str },
    #[error("no {label} block in the PEM data")]
    NoPem { label: &'static str },
    #[error("the PEM data is malformed: {0}")]
    Pem(&'static str),
    #[error("the private key is of a kind that is not supported: {0}")]
    Key(&'static str),
    #[error("public key algorithm {0} is not supported")]
    Algorithm(String),
    #[error("the signature of {0} does not match its key")]
    Signature(&'static str),
    #[error("the key does not belong to the certificate of {0:?}")]
    Mismatch(String),
    #[error("the source of randomness failed")]
    Randomness,
    #[error("signing failed")]
    Signing,
    #[error("join token: {0}")]
    JoinToken(&'static str),
    #[error("the CA at the server has the hash {found}, the token was made for {expected}")]
    CaHash { expected: String, found: String },
}

pub type Result<T> = std::result::Result<T, Error>;
