//! The pure parts: names, platforms, registries.yaml, credentials, documents, records.

use serde_json::json;

use super::credentials::{Credentials, fitting};
use super::digest::Digest;
use super::error::Kind;
use super::manifest::{Config, Document, choose};
use super::platform::Platform;
use super::records::{Record, Records};
use super::reference::Reference;
use super::registries::Registries;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn references_are_normalised_as_docker_does() {
    let digest = format!("sha256:{HEX}");
    let cases = [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("rancher/k3s", "docker.io/rancher/k3s:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("Host/a", "Host/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("a__b/c-_d", ""),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
        (&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox@{digest}")),
        (&format!("r.io/x@{digest}"), &format!("r.io/x@{digest}")),
        (HEX, ""),
        ("", ""),
        ("Busybox", ""),
        ("a//b", ""),
        ("/a", ""),
        ("a/", ""),
        ("a:", ""),
        ("a:-x", ""),
        ("a@sha256:12", ""),
        ("a.b:port/x", ""),
        ("-a", ""),
        ("a b", ""),
        ("a.io/../b", ""),
        (&"a".repeat(256), ""),
    ];
    for (given, want) in cases {
        match Reference::parse(given) {
            Ok(reference) => assert_eq!(reference.to_string(), want, "{given}"),
            Err(error) => {
                assert_eq!(want, "", "{given}: {error}");
                assert_eq!(error.kind(), Kind::InvalidName);
            }
        }
    }
}

#[test]
fn the_best_platform_is_chosen() {
    let offer = |platforms: &[&str]| {
        let entries: Vec<_> = platforms
            .iter()
            .map(|text| {
                let mut parts = text.split('/');
                let mut part = || parts.next().unwrap_or("");
                json!({"digest": Digest::of(text.as_bytes()), "size": 1,
                    "platform": {"os": part(), "architecture": part(), "variant": part()}})
            })
            .collect();
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    };
    let cases: &[(&str, &[&str], Result<usize, &str>)] = &[
        ("linux/amd64", &["linux/arm64/v8", "linux/amd64"], Ok(1)),
        ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v1"], Ok(1)),
        ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Ok(1)),
        ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm64"], Ok(1)),
        ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], Ok(1)),
        ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], Ok(1)),
        ("linux/arm/v7", &["linux/arm"], Ok(0)),
        (
            "linux/amd64",
            &["linux/arm64/v8", "linux/arm/v7", "unknown/unknown"],
            Err("no image for linux/amd64: x offers linux/arm64, linux/arm/v7"),
        ),
        ("linux/arm/v6", &["linux/arm/v7"], Err("no image for linux/arm/v6: x offers linux/arm/v7")),
        ("linux/amd64", &["windows/amd64"], Err("no image for linux/amd64: x offers windows/amd64")),
        ("linux/amd64", &["unknown/unknown"], Err("no image for linux/amd64: x offers nothing that runs")),
    ];
    for (ours, offered, want) in cases {
        let Document::Index(entries) = Document::parse("x", "", &offer(offered)).unwrap() else { panic!() };
        let chosen = choose("x", &Platform::parse(ours).unwrap(), &entries);
        match (chosen, want) {
            (Ok(entry), Ok(i)) => assert_eq!(entry.digest, Digest::of(offered[*i].as_bytes()), "{ours} of {offered:?}"),
            (Err(error), Err(text)) => assert_eq!(error.to_string(), *text),
            (got, _) => panic!("{ours} of {offered:?}: {got:?}"),
        }
    }
    assert_eq!(Platform::new("Linux", "aarch64", "").to_string(), "linux/arm64");
    assert_eq!(Platform::new("linux", "armhf", "").to_string(), "linux/arm/v7");
}

#[test]
fn documents_are_refused_for_what_they_are() {
    let config =
        json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{HEX}"), "size": 2});
    let layer = |kind: &str, size: u64| json!({"mediaType": kind, "digest": format!("sha256:{HEX}"), "size": size});
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let cases = [
        (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
        (json!({"schemaVersion": 2}), "neither an index nor a manifest"),
        (json!({"schemaVersion": 2, "config": config, "manifests": []}), "at once"),
        (
            json!({"schemaVersion": 2, "config": config, "layers": [layer("application/x", 1)]}),
            "unsupported media type",
        ),
        (
            json!({"schemaVersion": 2, "config": config, "layers": [layer(&format!("{gzip}+encrypted"), 1)]}),
            "unsupported media type",
        ),
        (json!({"schemaVersion": 2, "config": config, "layers": [layer(gzip, u64::MAX), layer(gzip, 9)]}), "absurd"),
        (json!({"schemaVersion": 2, "config": config, "layers": vec![layer(gzip, 1); 300]}), "256 layers"),
        (
            json!({"schemaVersion": 2, "config": layer("application/vnd.cncf.helm.config.v1+json", 1)}),
            "unsupported media type",
        ),
        (json!({"schemaVersion": 2, "config": {"digest": "sha256:../../etc", "size": 1}}), "invalid digest"),
        (json!("<html>"), "invalid type"),
        (json!({"schemaVersion": 2, "config": config, "layers": null}), ""),
        (json!({"schemaVersion": 2, "config": config, "layers": [layer(gzip, 1)]}), ""),
    ];
    for (document, want) in cases {
        match Document::parse("x", "", document.to_string().as_bytes()) {
            Ok(_) => assert_eq!(want, "", "{document}"),
            Err(error) => {
                assert!(!want.is_empty() && error.to_string().contains(want), "{document}: {error}");
                assert_eq!(error.kind(), Kind::BadImage);
            }
        }
    }
}

#[test]
fn configs_of_nonsense_are_refused() {
    let config = |config: serde_json::Value, diffs: serde_json::Value| json!({"os": "linux", "architecture": "amd64", "config": config, "rootfs": {"diff_ids": diffs}});
    let manifest = json!({"schemaVersion": 2, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{HEX}"), "size": 2}});
    let Document::Manifest(manifest) = Document::parse("x", "", manifest.to_string().as_bytes()).unwrap() else {
        panic!()
    };
    let ours = Platform::parse("linux/amd64").unwrap();
    let cases = [
        (config(json!({"Env": "A=b"}), json!([])), "invalid type"),
        (config(json!({"Env": [1]}), json!([])), "invalid type"),
        (config(json!({"User": -1}), json!([])), "invalid type"),
        (config(json!([]), json!([])), ""),
        (config(json!({"Entrypoint": {"a": 1}}), json!([])), "invalid type"),
        (config(json!({"Volumes": ["/a"]}), json!([])), "invalid type"),
        (config(json!({}), json!(["sha256:short"])), "invalid digest"),
        (config(json!({}), json!([format!("sha256:{HEX}")])), "config names 1 layers, manifest 0"),
        (json!({"os": "windows", "architecture": "amd64"}), "no image for linux/amd64"),
        (json!({"os": "linux", "architecture": "amd64", "rootfs": 7}), "invalid type"),
        (json!(null), "invalid type"),
        (
            config(
                json!({"User": "-1", "WorkingDir": "relative", "Entrypoint": null, "StopSignal": "SIGNONE"}),
                json!(null),
            ),
            "",
        ),
        (config(json!({"Env": vec!["A=b"; 100_000]}), json!([])), ""),
    ];
    for (document, want) in cases {
        let text = document.to_string();
        match Config::parse("x", text.as_bytes()).and_then(|config| config.check("x", &ours, &manifest)) {
            Ok(()) => assert_eq!(want, "", "{text:.200}"),
            Err(error) => assert!(!want.is_empty() && error.to_string().contains(want), "{text:.200}: {error}"),
        }
    }
    // Nested deeper than any reader's stack, and longer than is read.
    let deep = format!("{{\"os\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(Config::parse("x", deep.as_bytes()).unwrap_err().kind(), Kind::BadImage);
    let layers = json!({"schemaVersion": 2, "config": {"digest": format!("sha256:{HEX}"), "size": 1},
        "layers": vec![json!({"digest": format!("sha256:{HEX}"), "size": 1}); 100_000]});
    assert!(Document::parse("x", "", layers.to_string().as_bytes()).unwrap_err().to_string().contains("256 layers"));
    let negative = json!({"schemaVersion": 2, "config": {"digest": format!("sha256:{HEX}"), "size": -1}});
    assert!(
        Document::parse("x", "", negative.to_string().as_bytes()).unwrap_err().to_string().contains("invalid value")
    );
}

#[test]
fn configs_may_have_nulls() {
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Env": null, "Cmd": ["sh"], "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}}, "Labels": null, "StopSignal": null, "User": "65535:65535"}, "rootfs": {"diff_ids": null}});
    let run = Config::parse("x", config.to_string().as_bytes()).unwrap().run;
    assert_eq!(
        (run.cmd, run.user, run.volumes, run.exposed_ports),
        (vec!["sh".into()], "65535:65535".into(), vec!["/data".into()], vec!["80/tcp".into()])
    );
    assert!(Config::parse("x", br#"{"os":"linux","architecture":"amd64"}"#).is_ok());
}

#[test]
fn endpoints_come_from_registries_yaml() {
    let registries = Registries::from_value(json!({
        "mirrors": {
            "docker.io": {"endpoint": ["https://mirror.example:5000", "http://10.0.0.1/v2/hub/"], "rewrite": {"^library/(.*)": "mirrored/$1"}},
            "own.example": {"endpoint": ["http://own.example:5000"]},
            "quiet.example": null,
            "*": {"endpoint": ["https://all.example"]},
        },
        "configs": {"*": {"tls": {"insecure_skip_verify": true}, "auth": {"username": "all", "password": "p"}}, "secure.local:5001": {"tls": {"insecure_skip_verify": true}}, "127.0.0.1:6000": {"tls": {"ca_file": "/ca"}}},
    }))
    .unwrap();
    let show = |name: &str, disable: bool| {
        let reference = Reference::parse(name).unwrap();
        let endpoints = registries.endpoints(&reference, disable);
        let text = |e: &super::registries::Endpoint| {
            let ns = e.namespace.as_ref().map_or(String::new(), |ns| format!("?ns={ns}"));
            format!("{}{}/{}{ns}{}", e.url(), e.prefix, e.repository, if e.trusted { "" } else { " untrusted" })
        };
        endpoints.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    let cases = [
        (
            "busybox",
            false,
            "https://mirror.example:5000/v2/mirrored/busybox?ns=docker.io, \
            http://10.0.0.1/v2/hub/mirrored/busybox?ns=docker.io, https://registry-1.docker.io/v2/library/busybox",
        ),
        ("own.example/a", false, "http://own.example:5000/v2/a?ns=own.example, https://own.example/v2/a"),
        ("own.example/a", true, "http://own.example:5000/v2/a?ns=own.example"),
        ("quiet.example/a", true, "https://quiet.example/v2/a"),
        ("ghcr.io/a/b", false, "https://all.example/v2/a/b?ns=ghcr.io untrusted, https://ghcr.io/v2/a/b"),
        ("localhost:5000/a", true, "https://all.example/v2/a?ns=localhost:5000 untrusted"),
        ("localhost:5000/a", false, "https://all.example/v2/a?ns=localhost:5000 untrusted, http://localhost:5000/v2/a"),
        (
            "127.0.0.1:6000/a",
            false,
            "https://all.example/v2/a?ns=127.0.0.1:6000 untrusted, https://127.0.0.1:6000/v2/a",
        ),
    ];
    for (name, disable, want) in cases {
        assert_eq!(show(name, disable), want, "{name}");
    }
    assert!(
        registries.tls("any.example").unwrap().insecure_skip_verify
            && !registries.tls("127.0.0.1:6000").unwrap().insecure_skip_verify
    );
    assert!(registries.credentials("any.example").is_some() && registries.credentials("127.0.0.1:6000").is_none());
}

#[test]
fn all_mistakes_of_registries_yaml_are_told_at_once() {
    let error = Registries::from_value(json!({
        "mirrors": {"a": {"endpoint": ["ftp://x", "http://a b"], "rewrite": {"(": "x"}}},
        "configs": {"b": {"auth": {"auth": "%"}, "tls": {"cert_file": "x"}}},
    }))
    .unwrap_err()
    .to_string();
    for part in ["ftp://x", "http://a b", "mirrors.a.rewrite", "configs.b.auth", "configs.b.tls"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(Registries::from_value(serde_json::Value::Null).is_ok());
}

#[test]
fn pull_secrets_fit_as_upstreams_keyring_says() {
    let login = |registry: &str, user: &str| {
        (registry.to_owned(), Credentials::Basic { username: user.into(), password: "p".into() })
    };
    let mut logins = vec![
        login("https://index.docker.io/v1/", "hub"),
        login("r.example", "host"),
        login("r.example/team", "team"),
        login("r.example/team/app", "app"),
        login("*.wild.example:5000", "wild"),
    ];
    logins.push(("token.example".into(), Credentials::IdentityToken("t".into())));
    let users = |repository: &str| -> Vec<String> {
        let name = |credentials: &Credentials| match credentials {
            Credentials::Basic { username, .. } => username.clone(),
            other => format!("{other:?}"),
        };
        fitting(&logins, repository).iter().map(name).collect()
    };
    assert_eq!(users("docker.io/library/busybox"), ["hub"]);
    assert_eq!(users("r.example/team/app"), ["app", "team", "host"]);
    assert_eq!(users("r.example/other"), ["host"]);
    assert_eq!(users("r.example:5000/other"), [""; 0]);
    assert_eq!(users("a.wild.example:5000/x"), ["wild"]);
    assert_eq!(users("a.b.wild.example:5000/x"), [""; 0]);
    assert_eq!(users("token.example/x"), ["IdentityToken(…)"]);
    assert_eq!(users("other.example/x"), [""; 0]);
    logins.push(login("", "any"));
    let any = fitting(&logins, "other.example/x");
    assert!(matches!(&any[..], [Credentials::Basic { username, .. }] if username == "any"));
    assert!(!format!("{logins:?}").contains("\"p\""));
}

#[test]
fn records_move_tags_and_survive_damage() {
    let dir = std::env::temp_dir().join(format!("sampan-records-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("images.json");
    let record = |id: &str, tag: &str| Record {
        id: Digest::of(id.as_bytes()),
        manifest: Digest::of(b"m"),
        manifest_type: String::new(),
        index: None,
        tags: [tag.to_owned()].into(),
        digests: Default::default(),
        layers: Vec::new(),
        size: 1,
        user: String::new(),
        platform: String::new(),
        pinned: false,
        pulled_at_ms: 0,
    };
    let mut records = Records::load(&path).unwrap();
    records.put(record("a", "docker.io/library/x:1")).unwrap();
    records.put(record("b", "docker.io/library/x:1")).unwrap();
    records.put(record("b", "docker.io/library/y:1")).unwrap();
    let records = Records::load(&path).unwrap();
    assert_eq!(records.find("x:1").unwrap().unwrap().id, Digest::of(b"b"));
    assert_eq!(records.find("y:1").unwrap().unwrap().id, Digest::of(b"b"));
    let a = Digest::of(b"a");
    for name in [a.as_str(), a.hex(), &a.hex()[..12]] {
        assert_eq!(records.find(name).unwrap().unwrap().tags.len(), 0);
    }
    assert!(records.find("z").unwrap().is_none());
    std::fs::write(&path, b"{\"version\":1,\"im").unwrap();
    assert!(Records::load(&path).unwrap().all().is_empty());
    assert!(path.with_extension("damaged").exists());
    std::fs::write(&path, b"{\"version\":2,\"images\":[]}").unwrap();
    assert!(Records::load(&path).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}
