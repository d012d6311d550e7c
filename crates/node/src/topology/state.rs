//! Checkpoints of the managers in upstream's form: the data as a string, and its checksum.

use std::path::Path;

use serde_json::{Value, json};

use crate::store;

/// FNV-1a, 32 bits, over what upstream's hash writes of a string.
fn checksum(data: &str) -> u32 {
    let bytes = b"(string)".iter().chain(data.as_bytes());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// What was kept, if anything was; an error names the file that must go.
pub fn load(path: &Path, policy: &str) -> Result<Option<Value>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let corrupt = || format!("{}: checkpoint is corrupted", path.display());
    let outer: Value = serde_json::from_str(&text).map_err(|_| corrupt())?;
    let data = match outer["data"].as_str() {
        Some(data) if outer["dataChecksum"] != json!(checksum(data)) => return Err(corrupt()),
        Some(data) => serde_json::from_str(data).map_err(|_| corrupt())?,
        // Before 1.37 the file was the data.
        None => outer,
    };
    match data["policyName"].as_str() {
        Some(known) if known == policy => Ok(Some(data)),
        known => Err(format!(
            "{}: configured policy \"{policy}\" differs from state checkpoint policy \"{}\"",
            path.display(),
            known.unwrap_or_default()
        )),
    }
}

/// Keeps it, also where kubelets before 1.37 look.
pub fn save(path: &Path, data: &Value) {
    let text = data.to_string();
    let mut outer = data.clone();
    outer["checksum"] = json!(0);
    outer["dataChecksum"] = json!(checksum(&text));
    outer["data"] = json!(text);
    store::write_private(path, outer.to_string().as_bytes());
}

#[cfg(test)]
mod tests;
