//! The suite's images: one busybox layer with several configurations, as an archive and in a registry on loopback.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;

/// Name and configuration of each.
fn images() -> Vec<(&'static str, serde_json::Value)> {
    let command = json!(["/bin/sh", "-c", "echo by default; sleep 1000"]);
    vec![
        ("localhost/suite:1", json!({"Cmd": command, "Env": ["FROM=image", "PATH=/bin"], "WorkingDir": "/tmp"})),
        ("localhost/pause:1", json!({"Entrypoint": ["/bin/sleep"], "Cmd": ["1000000"]})),
        ("localhost/uid:1", json!({"Cmd": command, "User": "33:34", "Env": ["PATH=/bin"]})),
        ("localhost/named:1", json!({"Cmd": command, "User": "web", "Env": ["PATH=/bin"], "StopSignal": "SIGUSR1"})),
    ]
}

pub fn digest(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn layer(dir: &Path) -> Vec<u8> {
    let root = dir.join("root");
    for part in ["bin", "etc", "tmp", "home/web", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in "sh cat echo id ls sleep touch mkdir mount umount stat true false grep head tail dd env pwd kill hostname tr wc \
                   tty stty nc ip ps test printf yes seq find readlink ping"
        .split_whitespace()
    {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nssl:x:60:web\n").unwrap();
    let tar = dir.join("layer.tar");
    let done = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("--owner=0")
        .arg("--group=0")
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(done.unwrap().success());
    fs::read(tar).unwrap()
}

fn config(run: &serde_json::Value, layer: &[u8]) -> Vec<u8> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let rootfs = json!({"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]});
    json!({"architecture": arch, "os": "linux", "config": run, "rootfs": rootfs}).to_string().into_bytes()
}

/// A docker-archive with all of them.
pub fn archive(dir: &Path) -> PathBuf {
    let layer = layer(dir);
    let out = dir.join("archive");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("layer.tar"), &layer).unwrap();
    let mut manifest = Vec::new();
    for (name, run) in images() {
        let config = config(&run, &layer);
        let file = format!("{}.json", digest(&config));
        fs::write(out.join(&file), config).unwrap();
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    fs::write(out.join("manifest.json"), json!(manifest).to_string()).unwrap();
    let path = dir.join("images.tar");
    let done = Command::new("tar").arg("-C").arg(&out).arg("-cf").arg(&path).arg(".").status();
    assert!(done.unwrap().success());
    path
}

/// One repository with one image, `ADDRESS/pulled:1`, on loopback, where no runtime asks for TLS.
pub struct Registry {
    pub address: String,
}

impl Registry {
    pub async fn start(dir: &Path) -> Registry {
        let layer = layer(dir);
        let config = config(&json!({"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]}), &layer);
        let descriptor = |kind: &str, bytes: &[u8]| {
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", digest(bytes)),
                "size": bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": [descriptor("layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut files: HashMap<String, Vec<u8>> = HashMap::from([("/v2/".into(), b"{}".to_vec())]);
        for bytes in [&config, &layer] {
            files.insert(format!("/v2/pulled/blobs/sha256:{}", digest(bytes)), bytes.clone());
        }
        for reference in ["1".to_owned(), format!("sha256:{}", digest(&manifest))] {
            files.insert(format!("/v2/pulled/manifests/{reference}"), manifest.clone());
        }
        let files = Arc::new(files);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let files = files.clone();
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let found = files.get(request.uri().path()).cloned();
                    let mut answer = Response::builder();
                    if request.uri().path().contains("/manifests/") && found.is_some() {
                        let bytes = found.clone().unwrap();
                        answer = answer
                            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
                            .header("docker-content-digest", format!("sha256:{}", digest(&bytes)));
                    }
                    let answer = match found {
                        Some(bytes) => answer.body(Full::new(Bytes::from(bytes))),
                        None => answer.status(StatusCode::NOT_FOUND).body(Full::default()),
                    };
                    async move { answer }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Registry { address }
    }
}
