//! Tasks of the repository: `cargo xtask NAME`.

mod schema;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  schema   write schema-data's facts and the golden objects from the Kubernetes API's Go modules
  tidy     check the rules of the house";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("schema") => schema::write(&root).map_err(|e| e.to_string()),
        Some("tidy") => tidy::run(),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
