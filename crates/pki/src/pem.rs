//! PEM blocks (RFC 7468), read leniently about what stands around them.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{Error, Result};

/// One block: its label and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pem {
    pub label: String,
    pub contents: Vec<u8>,
}

impl Pem {
    pub fn encode(label: &str, contents: &[u8]) -> String {
        let body = STANDARD.encode(contents);
        let mut out = format!("-----BEGIN {label}-----\n");
        for line in body.as_bytes().chunks(64) {
            out.extend(line.iter().map(|b| char::from(*b)));
            out.push('\n');
        }
        out + &format!("-----END {label}-----\n")
    }

    /// All blocks in order. Text between blocks and headers inside them are skipped.
    pub fn parse_all(text: &str) -> Result<Vec<Pem>> {
        let mut blocks = Vec::new();
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) else { continue };
            let end = format!("-----END {label}-----");
            let mut body = String::new();
            loop {
                match lines.next() {
                    None => return Err(Error::Pem("a block has no end")),
                    Some(line) if line == end => break,
                    Some(line) if line.contains(':') => {}
                    Some(line) => body.push_str(line),
                }
            }
            let contents = STANDARD.decode(body).map_err(|_| Error::Pem("a block is not base64"))?;
            blocks.push(Pem { label: label.to_owned(), contents });
        }
        Ok(blocks)
    }
}
