//! Content digests: `sha256:…` and `sha512:…`, and hashing while bytes stream by.

use std::fmt;

use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::Error;

/// `algorithm:hex`, checked: a registered algorithm, the right number of lower-case digits. Safe as a file name part.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

impl Digest {
    pub fn parse(text: &str) -> Result<Digest, Error> {
        let valid = text.split_once(':').is_some_and(|(algorithm, hex)| {
            let digits = match algorithm {
                "sha256" => 64,
                "sha512" => 128,
                _ => return false,
            };
            hex.len() == digits && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if valid { Ok(Digest(text.into())) } else { Err(Error::InvalidDigest(text.chars().take(150).collect())) }
    }

    /// The SHA-256 of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn algorithm(&self) -> &str {
        &self.0[..6]
    }

    pub fn hex(&self) -> &str {
        &self.0[7..]
    }

    /// A hasher of this digest's algorithm.
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::new("sha512", &digest::SHA512) } else { Hasher::sha256() }
    }

    /// The OCI chain id of a layer on top of `parent`: it names a layer together with everything below.
    pub fn chain(parent: Option<&Digest>, diff: &Digest) -> Digest {
        match parent {
            None => diff.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone)]
pub struct Hasher {
    name: &'static str,
    context: digest::Context,
}

impl Hasher {
    fn new(name: &'static str, algorithm: &'static digest::Algorithm) -> Hasher {
        Hasher { name, context: digest::Context::new(algorithm) }
    }

    pub fn sha256() -> Hasher {
        Hasher::new("sha256", &digest::SHA256)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let mut text = String::with_capacity(136);
        text.push_str(self.name);
        text.push(':');
        for byte in self.context.finish().as_ref() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
        }
        Digest(text.into())
    }
}
