//! `cargo xtask schema`: the facts and the golden objects, from the Kubernetes API modules.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the generator could not do.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("go run {task}: {source}")]
    Start { task: &'static str, source: std::io::Error },
    #[error("go run {task} failed: {stderr}")]
    Failed { task: &'static str, stderr: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// Writes `schema-data/kubernetes-1.37.txt` and the golden objects anew.
pub fn write(root: &Path) -> Result<(), SchemaError> {
    let path = root.join("schema-data/kubernetes-1.37.txt");
    std::fs::write(&path, facts(root)?).map_err(|source| SchemaError::File { path, source })?;
    let golden = root.join("crates/schema/tests/golden");
    run(root, "golden", Some(&golden)).map(drop)
}

/// The facts as the modules have them now.
pub fn facts(root: &Path) -> Result<Vec<u8>, SchemaError> {
    run(root, "facts", None)
}

fn run(root: &Path, task: &'static str, argument: Option<&Path>) -> Result<Vec<u8>, SchemaError> {
    let mut go = Command::new("go");
    go.current_dir(root.join("xtask/schema-gen")).args(["run", ".", task]).args(argument);
    let output = go.output().map_err(|source| SchemaError::Start { task, source })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(SchemaError::Failed { task, stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
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
