//! The rules of the house, as checks whose message names the right place (ARCHITECTURE.md has the reasons).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Which of our crates a crate may depend on; tests may use any.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("schema", &[]),
    ("store", &[]),
    ("pki", &[]),
    ("streams", &[]),
    ("rpc", &[]),
    ("runtime", &["rpc", "streams"]),
    ("keeper", &[]),
    ("apiserver", &["schema", "store", "pki", "streams"]),
    ("reconcile", &["schema"]),
    ("control", &["reconcile", "schema"]),
    ("node", &["reconcile", "rpc", "schema", "streams"]),
    ("net", &["schema"]),
];

/// Rooms whose code touches its arguments only, with the folders in them that are the exception.
const PURE: &[(&str, &[&str])] =
    &[("schema", &[]), ("pki", &[]), ("reconcile", &["io/"]), ("control", &["io/"]), ("net", &["io/", "runner"])];

/// What a pure line does not say.
const IMPURE: &[(&str, &str)] = &[
    ("SystemTime::now", "take the time as an argument"),
    ("Instant::now", "take the time as an argument (a runner's timers use tokio's clock)"),
    ("std::fs", "do the I/O in the crate's io/ or in sampan"),
    ("std::net::Tcp", "do the I/O in the crate's io/ or in sampan"),
    ("std::net::Udp", "do the I/O in the crate's io/ or in sampan"),
    ("thread::spawn", "return a value; a runner does the work"),
    ("static mut", "pass it as an argument"),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["crates/runtime/", "crates/keeper/", "crates/net/src/io/"];

const MAX_FILE_LINES: usize = 800;
const MAX_PRODUCT_LINES: usize = 60_000;
/// The product is over its budget: docs/decisions/size.md. Raised only together with what clients see.
const CEILING_LINES: usize = 102_660;

/// Words of the workshop that have no place in the product.
const FOREIGN: &[&str] = &["/work/", "shared/tools", "farm-"];

pub fn run() -> Result<(), String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut problems = Vec::new();
    let mut lines = 0;
    for path in files(&root.join("crates")).into_iter().chain(files(&root.join("xtask"))) {
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if name.ends_with("Cargo.toml") {
            directions(&name, &text, &mut problems);
        } else if name.ends_with(".rs") {
            let test = ["/tests/", "/examples/"].iter().any(|part| name.contains(part)) || name.ends_with("tests.rs");
            if !test && name.starts_with("crates/") {
                lines += lines_of_code(&text);
            }
            source(&name, &text, test, &mut problems);
        }
    }
    for path in files(&root.join("schema-data/overlay")) {
        lines += fs::read_to_string(&path).map_or(0, |text| lines_of_code(&text));
    }
    if lines > CEILING_LINES {
        problems.push(format!("the product has {lines} lines of code; the ceiling is {CEILING_LINES}, the budget {MAX_PRODUCT_LINES}: delete, or make twins one"));
    }
    let over = lines.saturating_sub(MAX_PRODUCT_LINES);
    println!("tidy: {lines} lines of product code, {over} over the budget of {MAX_PRODUCT_LINES}");
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Lines that are neither empty nor only a comment.
fn lines_of_code(text: &str) -> usize {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("# "))
        .count()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                found.extend(files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn directions(name: &str, text: &str, problems: &mut Vec<String>) {
    let allowed: BTreeMap<_, _> = DIRECTIONS.iter().copied().collect();
    let Some(own) = name.strip_prefix("crates/").and_then(|name| name.split('/').next()) else { return };
    let Some(allowed) = allowed.get(own) else { return };
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let ours = DIRECTIONS.iter().any(|(known, _)| *known == dependency);
        if section == "dependencies" && ours && dependency != own && !allowed.contains(&dependency) {
            problems.push(format!(
                "{name}: {own} may not depend on {dependency}; the rooms meet in crates/sampan/src/wiring/"
            ));
        }
    }
}

fn source(name: &str, text: &str, test: bool, problems: &mut Vec<String>) {
    let count = text.lines().count();
    if count > MAX_FILE_LINES && !test {
        problems.push(format!("{name}: {count} lines; past {MAX_FILE_LINES} something in it wants its own file"));
    }
    if !test && !text.starts_with("//!") && !text.starts_with("#!") {
        problems.push(format!("{name}: begins without `//!`: say what the file is for"));
    }
    let exempt = |folders: &[&str]| {
        folders.iter().any(|folder| name.split_once("/src/").is_some_and(|(_, rest)| rest.starts_with(folder)))
    };
    let room = name.strip_prefix("crates/").and_then(|name| name.split('/').next()).unwrap_or_default();
    let pure =
        !test && name.contains("/src/") && PURE.iter().any(|(pure, exceptions)| *pure == room && !exempt(exceptions));
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut problem = |what: String| problems.push(format!("{name}:{}: {what}", number + 1));
        if pure {
            // tokio's clock is the runner's: it stands still in tests.
            for (word, instead) in IMPURE.iter().filter(|(word, _)| code.contains(word) && room != "reconcile") {
                problem(format!("`{word}` in a pure room: {instead}"));
            }
        }
        // Tests set up namespaces and the like; this file names what it looks for.
        let checked = !test && !name.ends_with("xtask/src/tidy.rs");
        let says_unsafe =
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| code.contains(form));
        if checked && says_unsafe && !UNSAFE.iter().any(|place| name.starts_with(place)) {
            problem("`unsafe` belongs in runtime, keeper or net's door".into());
        }
        if let Some(word) = FOREIGN.iter().find(|word| line.contains(**word) && !name.ends_with("tidy.rs")) {
            problem(format!("`{word}`: the project speaks of itself alone"));
        }
    }
}
