//! Builds the keeper for embedding: statically linked, small, with the workspace's own versions and compiler.
//!
//! It is a package of its own in OUT_DIR (a copy of its manifest's facts, its sources by path, the workspace's lock), so
//! that a build in a build neither waits for the outer one's lock nor resolves the workspace again; it works offline.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build that cannot go on ends

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let keeper = here.join("../keeper");
    let workspace = here.join("../..");
    for input in [keeper.join("src"), here.join("build.rs")] {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    for name in ["SAMPAN_KEEPER", "SAMPAN_KEEPER_CARGO_ARGS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let embedded = out.join("keeper");
    // A keeper built elsewhere, for builds that cannot nest.
    if let Some(ready) = env::var_os("SAMPAN_KEEPER") {
        fs::copy(&ready, &embedded).expect("copy the keeper that SAMPAN_KEEPER names");
        return;
    }
    let package = out.join("package");
    fs::create_dir_all(&package).unwrap();
    let lock = fs::read_to_string(workspace.join("Cargo.lock")).unwrap_or_default();
    fs::write(package.join("Cargo.toml"), manifest(&keeper, &lock)).unwrap();
    if !lock.is_empty() {
        // Cargo drops from the copy what this package does not use.
        fs::write(package.join("Cargo.lock"), lock).unwrap();
    }
    let target = env::var("TARGET").unwrap();
    let mut flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    for flag in ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"] {
        if !flags.is_empty() {
            flags.push('\x1f');
        }
        flags.push_str(flag);
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap());
    cargo
        .current_dir(&workspace) // for .cargo/config.toml: vendored sources, linkers
        .args(["build", "--quiet", "--release", "--offline", "--target", &target])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(out.join("target"))
        .args(env::var("SAMPAN_KEEPER_CARGO_ARGS").unwrap_or_default().split_whitespace())
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTC_WORKSPACE_WRAPPER") // clippy's
        .env_remove("CARGO_TARGET_DIR");
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_FEATURE_") || text.starts_with("CARGO_CFG_") || text.starts_with("CARGO_PROFILE_") {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().expect("run cargo for the keeper");
    assert!(status.success(), "building the keeper failed");
    fs::copy(out.join("target").join(&target).join("release/keeper"), &embedded).unwrap();
}

fn manifest(keeper: &Path, lock: &str) -> String {
    let main = keeper.join("src/main.rs").canonicalize().unwrap();
    let libc =
        lock.split("name = \"libc\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("0.2");
    format!(
        r#"[package]
name = "keeper"
version = "{}"
edition = "2024"
[workspace]
[[bin]]
name = "keeper"
path = {:?}
[dependencies]
libc = {:?}
[profile.release]
opt-level = "s"
lto = "fat"
codegen-units = 1
panic = "abort"
strip = true
"#,
        env::var("CARGO_PKG_VERSION").unwrap(),
        main,
        libc
    )
}
