//! Images that need signatures: openssl signs as cosign does, the registry serves what it made.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runtime::images::digest::Digest;
use runtime::images::signatures::Policy;
use runtime::images::{Kind, PullOptions};
use serde_json::json;

use crate::registry::Registry;
use crate::support::{Dir, Pack, TestImage, open_with, options};

/// What openssl prints for these words, with that input.
fn openssl(words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {words:?}");
    output.stdout
}

/// A key pair of that kind in the directory: `KIND.key` and `KIND.pub`.
fn keys(dir: &Path, kind: &str) {
    let (key, public) = (dir.join(format!("{kind}.key")), dir.join(format!("{kind}.pub")));
    let (key, public) = (key.to_str().unwrap(), public.to_str().unwrap());
    match kind {
        "rsa" => openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key], b""),
        "ed25519" => openssl(&["genpkey", "-algorithm", "ED25519", "-out", key], b""),
        _ => openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key], b""),
    };
    openssl(&["pkey", "-in", key, "-pubout", "-out", public], b"");
}

fn sign(dir: &Path, kind: &str, payload: &[u8]) -> Vec<u8> {
    let key = dir.join(format!("{kind}.key"));
    let file = dir.join("payload");
    std::fs::write(&file, payload).unwrap();
    let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
    match kind {
        "ed25519" => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", file], b""),
        _ => openssl(&["dgst", "-sha256", "-sign", key, file], b""),
    }
}

/// Puts a signature of `digest` for `name` beside the image.
fn attach(registry: &Registry, dir: &Path, kind: &str, name: &str, of: &Digest, digest: &Digest) {
    let payload = json!({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest.to_string()},
        "type": "cosign container image signature"}, "optional": null});
    let payload = payload.to_string().into_bytes();
    let signature = STANDARD.encode(sign(dir, kind, &payload));
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": Digest::of(&payload).to_string(),
            "size": payload.len(), "annotations": {"dev.cosignproject.cosign/signature": signature}}]});
    let tag = of.to_string().replace(':', "-");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    registry.put(&format!("/v2/team/app/manifests/{tag}.sig"), kind, manifest.to_string());
    registry.put(&format!("/v2/team/app/blobs/{}", Digest::of(&payload)), "application/octet-stream", payload);
}

#[tokio::test]
async fn only_what_is_signed_is_pulled() {
    let dir = Dir::new();
    for kind in ["rsa", "ed25519", "ec", "other"] {
        keys(&dir.0, kind);
    }
    let image = TestImage::new("linux/amd64", Pack::Gzip, &[&[("file", b"signed")]]);
    let elsewhere = Digest::of(b"elsewhere");
    // Key of the signature, its identity, its digest, and what is said.
    type Case<'a> = (&'a str, &'a str, Option<&'a Digest>, &'a str);
    let cases: [Case<'_>; 8] = [
        ("rsa", "NAME", None, ""),
        ("ed25519", "NAME", None, ""),
        ("ec", "NAME", None, ""),
        ("ec", "NAME:other", None, ""),
        ("other", "NAME", None, "cryptographic signature verification failed"),
        ("ec", "NAME-not", None, "the signature is for another identity"),
        ("ec", "NAME", Some(&elsewhere), "the signature is of another digest"),
        ("", "", None, "A signature was required, but no signature exists"),
    ];
    for (n, (kind, identity, digest, want)) in cases.into_iter().enumerate() {
        let registry = Registry::start().await;
        registry.put_image("team/app", "1", &image);
        let name = registry.name("team/app");
        if !kind.is_empty() {
            let identity = identity.replace("NAME", &name);
            attach(&registry, &dir.0, kind, &identity, &image.digest(), digest.unwrap_or(&image.digest()));
        }
        let path = |kind: &str| dir.0.join(format!("{kind}.pub"));
        let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {name.clone(): [
            {"type": "sigstoreSigned", "keyPaths": [path("rsa"), path("ed25519"), path("ec")], "signedIdentity": {"type": "matchRepository"}}]}}});
        let mut options = options();
        options.policy = Policy::parse(policy.to_string().as_bytes()).unwrap();
        let store = Dir::new();
        let images = open_with(&store, options);
        for time in ["first", "again"] {
            match images.pull(&format!("{name}:1"), PullOptions::default()).await {
                Ok(pulled) => assert_eq!((want, pulled.id), ("", image.id()), "{n} {time}"),
                Err(error) => {
                    assert!(!want.is_empty() && error.chain().contains(want), "{n} {time}: {}", error.chain());
                    assert_eq!(error.kind(), Kind::Signature);
                }
            }
        }
        assert_eq!(images.list().await.unwrap().len(), usize::from(want.is_empty()));
        let error = images.pull("other.example/x", PullOptions::default()).await.unwrap_err();
        assert!(
            error.kind() != Kind::Signature || error.chain().contains("is rejected by policy"),
            "{}",
            error.chain()
        );
    }
}
