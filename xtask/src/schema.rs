//! `cargo xtask schema`: the facts, the golden objects and upstream's answers, from the Kubernetes modules.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the generator could not do.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("go run in xtask/{program}: {source}")]
    Start { program: &'static str, source: std::io::Error },
    #[error("go run in xtask/{program} failed: {stderr}")]
    Failed { program: &'static str, stderr: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// Writes `schema-data/kubernetes-1.37.txt` and the golden objects anew.
pub fn write(root: &Path) -> Result<(), SchemaError> {
    let path = root.join("schema-data/kubernetes-1.37.txt");
    std::fs::write(&path, facts(root)?).map_err(|source| SchemaError::File { path, source })?;
    let golden = root.join("crates/schema/tests/golden");
    go(root, "schema-gen", &["golden".as_ref(), golden.as_os_str()])?;
    let (given, want) = (golden.join("given.txt"), golden.join("want.txt.gz"));
    go(root, "server-gen", &[given.as_os_str(), want.as_os_str()]).map(drop)
}

/// The facts as the modules have them now.
pub fn facts(root: &Path) -> Result<Vec<u8>, SchemaError> {
    go(root, "schema-gen", &["facts".as_ref()])
}

/// Runs one of the Go programs beside this one; `server-gen` builds much of upstream's API server.
fn go(root: &Path, program: &'static str, arguments: &[&OsStr]) -> Result<Vec<u8>, SchemaError> {
    let mut go = Command::new("go");
    go.current_dir(root.join("xtask").join(program))
        .env("GOFLAGS", "-mod=mod -trimpath -buildvcs=false")
        .env("CGO_ENABLED", "0");
    let output = go.args(["run", "."]).args(arguments).output();
    let output = output.map_err(|source| SchemaError::Start { program, source })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(SchemaError::Failed { program, stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs Go and the modules; where they are not to be had it says so and passes.
    #[test]
    fn the_committed_facts_are_upstreams() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let have = std::fs::read(root.join("schema-data/kubernetes-1.37.txt")).unwrap();
        match facts(&root) {
            Ok(fresh) => assert!(have == fresh, "schema-data/ differs from upstream: run `cargo xtask schema`"),
            Err(e) => eprintln!("SKIPPED: the facts were not compared with upstream's modules: {e}"),
        }
    }
}
