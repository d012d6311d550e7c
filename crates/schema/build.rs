//! Makes, from `schema-data/`, the table that `src/builtin.rs` loads and the typed structs of `src/api.rs`.

#[path = "build/facts.rs"]
mod facts;
#[path = "build/overlay.rs"]
mod overlay;
#[path = "build/table.rs"]
mod table;
#[path = "build/typed.rs"]
mod typed;
#[path = "build/yaml.rs"]
mod yaml;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    if let Err(problem) = build() {
        println!("cargo::error={}", problem.replace('\n', " "));
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?).join("../../schema-data");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", root.display());

    let facts = facts::Facts::parse(&read(&root.join("kubernetes-1.37.txt"))?)?;
    let mut overlay = overlay::Overlay::default();
    let folder = root.join("overlay");
    let files = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> =
        files.flatten().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    for file in files {
        overlay.add(&file.display().to_string(), &read(&file)?)?;
    }
    overlay.complete(&facts)?;
    overlay.check(&facts)?;
    write(&out.join("table.txt"), &table::write(&facts, &overlay)?)?;
    write(&out.join("rules.txt"), &table::rules(&facts, &overlay)?)?;
    write(&out.join("api.rs"), &typed::generate(&facts, &overlay, &read(&root.join("typed.txt"))?)?)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
