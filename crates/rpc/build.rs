//! Messages, clients and servers from `schema-data/proto/`, without protoc.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build that cannot go on ends

const FILES: &[&str] = &["cri", "csi", "deviceplugin", "dra", "pluginregistration", "podresources"];

fn main() {
    let directory = "../../schema-data/proto";
    println!("cargo::rerun-if-changed={directory}");
    for file in FILES {
        // One at a time: their packages are called `v1` more than once.
        let facts = protox::compile([format!("{file}.proto")], [directory]).expect("the facts are well-formed");
        let out = std::path::Path::new(&std::env::var("OUT_DIR").unwrap()).join(file);
        std::fs::create_dir_all(&out).unwrap();
        tonic_prost_build::configure()
            .build_transport(false)
            .skip_debug(["."])
            .out_dir(out)
            .compile_fds(facts)
            .expect("code for the facts");
    }
}
