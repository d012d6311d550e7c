//! Debian's docker-registry, filled by skopeo, over HTTP and over HTTPS with a CA of our own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runtime::images::credentials::{Credentials, Login};
use runtime::images::registries::Registries;
use runtime::images::tar::Writer;
use runtime::images::{Images, Kind, Options, PullOptions};
use serde_json::{Value, json};

use crate::support::*;

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(dir: &Path, http: Value, auth: Value) -> Server {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut config = json!({"version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": dir.join("registry")}}, "http": http});
        config["http"]["addr"] = json!(address);
        if !auth.is_null() {
            config["auth"] = auth;
        }
        let path = dir.join("registry.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry is needed");
        let server = Server { child, address };
        for _ in 0..500 {
            if std::net::TcpStream::connect(&server.address).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("docker-registry does not listen on {}", server.address);
    }

    fn push(&self, archive: &Path, name: &str, args: &[&str]) {
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .args(args)
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("Debian's skopeo is needed");
        assert!(
            output.status.success(),
            "{}",
            BufReader::new(output.stderr.as_slice()).lines().map_while(Result::ok).collect::<String>()
        );
    }
}

fn archive(dir: &Path, image: &TestImage) -> std::path::PathBuf {
    let mut writer = Writer::new(Vec::new());
    writer.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let entry = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
    writer.file("index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string().as_bytes()).unwrap();
    let blobs = [&image.manifest, &image.config].into_iter().chain(image.layers.iter().map(|(bytes, _)| bytes));
    for bytes in blobs {
        let hex = runtime::images::digest::Digest::of(bytes).hex().to_owned();
        writer.file(&format!("blobs/sha256/{hex}"), bytes).unwrap();
    }
    let path = dir.join("image.tar");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    path
}

fn image() -> TestImage {
    TestImage::new("linux/amd64", Pack::Gzip, &[&[("a", b"1"), ("big", &noise(3 << 20, 7))], &[("b", b"2")]])
}

async fn check(images: &Images, name: &str, logins: Vec<Login>) {
    let options = PullOptions { logins, ..Default::default() };
    images.pull(name, options).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let rootfs = images.resolve(name).await.unwrap();
    assert_eq!((read(&rootfs, "b").unwrap(), read(&rootfs, "big").unwrap().len()), (b"2".to_vec(), 3 << 20));
}

#[tokio::test]
async fn over_http_in_both_formats() {
    let dir = Dir::new();
    let server = Server::start(&dir.0, json!({}), Value::Null);
    let archive = archive(&dir.0, &image());
    server.push(&archive, "team/app:oci", &[]);
    server.push(&archive, "team/app:docker", &["--format", "v2s2"]);
    server.push(&archive, "team/app:zstd", &["--dest-compress-format", "zstd", "--dest-compress"]);
    for tag in ["oci", "docker", "zstd"] {
        let own = Dir::new();
        check(&open(&own), &format!("{}/team/app:{tag}", server.address), vec![]).await;
    }
    let error =
        open(&Dir::new()).pull(&format!("{}/team/none:1", server.address), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn over_https_with_an_own_ca_and_passwords() {
    let dir = Dir::new();
    let path = |name: &str| dir.0.join(name).display().to_string();
    let openssl = |args: &str| {
        let output =
            Command::new("openssl").args(args.split(' ')).current_dir(&dir.0).output().expect("openssl is needed");
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca",
    );
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=registry");
    std::fs::write(path("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl("x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 2 -extfile ext");
    // Password "pass" of user "user".
    std::fs::write(path("htpasswd"), "user:$2y$05$4vN5.3Yg3Uzt0Ubg2YbQDuvJHNOnq1tuTUeNG2SmFu2x9bMJL0Bmy\n").unwrap();
    let htpasswd = Command::new("htpasswd").args(["-nbB", "-C", "4", "user", "pass"]).output();
    let auth = match htpasswd {
        Ok(output) if output.status.success() => {
            std::fs::write(path("htpasswd"), output.stdout).unwrap();
            true
        }
        _ => false,
    };
    let tls = json!({"tls": {"certificate": path("tls.crt"), "key": path("tls.key")}});
    let server = Server::start(
        &dir.0,
        tls,
        if auth { json!({"htpasswd": {"realm": "test", "path": path("htpasswd")}}) } else { Value::Null },
    );
    let archive = archive(&dir.0, &image());
    server.push(&archive, "team/app:1", if auth { &["--dest-creds", "user:pass"] } else { &[] });
    let name = format!("{}/team/app:1", server.address);
    let login = Credentials::Basic { username: "user".into(), password: "pass".into() };
    let logins = vec![(server.address.clone(), login)];
    let with = |config: Value| {
        let registries = Registries::from_value(json!({"configs": {server.address.clone(): config}})).unwrap();
        Options { registries, ..options() }
    };
    let own = Dir::new();
    check(
        &open_with(
            &own,
            with(json!({"tls": {"ca_file": path("ca.crt")}, "auth": {"username": "user", "password": "pass"}})),
        ),
        &name,
        vec![],
    )
    .await;
    let own = Dir::new();
    check(&open_with(&own, with(json!({"tls": {"insecure_skip_verify": true}}))), &name, logins.clone()).await;
    // A mirror with TLS of its own.
    let registries = Registries::from_value(json!({
        "mirrors": {"docker.io": {"endpoint": [format!("https://{}", server.address)], "rewrite": {"^library/(.*)$": "team/$1"}}},
        "configs": {server.address.clone(): {"tls": {"ca_file": path("ca.crt")}, "auth": {"username": "user", "password": "pass"}}},
    }))
    .unwrap();
    let own = Dir::new();
    check(&open_with(&own, Options { registries, disable_default_endpoint: true, ..options() }), "app:1", vec![]).await;
    // Without the CA nobody believes it.
    let error = open_with(&Dir::new(), with(json!({"tls": {}})))
        .pull(&name, PullOptions { logins, ..Default::default() })
        .await
        .unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.chain().contains("UnknownIssuer"), "{}", error.chain());
    let error = open_with(&Dir::new(), with(json!({"tls": {"ca_file": path("none.crt")}})))
        .pull(&name, PullOptions::default())
        .await
        .unwrap_err();
    assert!(error.chain().contains("none.crt"), "{}", error.chain());
}
