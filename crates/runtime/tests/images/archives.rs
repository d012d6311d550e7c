//! Tars in and out: every layout that tools write, and what must be refused.

use std::io::Cursor;

use runtime::images::digest::Digest;
use runtime::images::tar::{Entry, Kind as Entries, Writer};
use runtime::images::{Images, ImportReport, Kind, Result};
use serde_json::{Value, json};

use crate::support::*;

fn image(text: &str) -> TestImage {
    TestImage::new("linux/amd64", Pack::Gzip, &[&[("base", b"shared")], &[("text", text.as_bytes())]])
}

async fn import(images: &Images, bytes: Vec<u8>) -> Result<ImportReport> {
    images.import(Cursor::new(bytes), "test.tar", None).await
}

/// An OCI layout of images, each descriptor with those annotations.
fn layout(writer: &mut Writer<Vec<u8>>, images: &[(&TestImage, Value)]) {
    writer.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut manifests = Vec::new();
    for (image, annotations) in images {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
        entry["annotations"] = annotations.clone();
        manifests.push(entry);
        blobs(writer, image);
    }
    writer.file("index.json", json!({"schemaVersion": 2, "manifests": manifests}).to_string().as_bytes()).unwrap();
}

fn blobs(writer: &mut Writer<Vec<u8>>, image: &TestImage) {
    let all = [&image.manifest, &image.config].into_iter().chain(image.layers.iter().map(|(bytes, _)| bytes));
    for bytes in all {
        writer.file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes).unwrap();
    }
}

#[tokio::test]
async fn every_kind_of_archive_is_taken() {
    let (a, b) = (image("a"), image("b"));
    let full = |name: &str| json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"});
    let oci = {
        let mut writer = Writer::new(Vec::new());
        // Two names for one image, a short one, and a mere tag of which no name can be made.
        layout(
            &mut writer,
            &[
                (&a, full("registry.k8s.io/a:1")),
                (&a, full("a2")),
                (&b, json!({"org.opencontainers.image.ref.name": "r.example/b:2"})),
                (&b, json!({"org.opencontainers.image.ref.name": "latest"})),
            ],
        );
        writer.finish().unwrap()
    };
    let docker = |layers: Vec<Value>, write: &dyn Fn(&mut Writer<Vec<u8>>)| {
        let mut writer = Writer::new(Vec::new());
        write(&mut writer);
        writer.file("config.json", &a.config).unwrap();
        writer.file("repositories", b"{\"legacy\": 1}").unwrap();
        let manifest = json!([{"Config": "config.json", "RepoTags": ["registry.k8s.io/a:1", "a2"], "Layers": layers}]);
        writer.file("manifest.json", manifest.to_string().as_bytes()).unwrap();
        writer.finish().unwrap()
    };
    let plain: Vec<Vec<u8>> = vec![layer_tar(&[("base", b"shared")]), layer_tar(&[("text", b"a")])];
    // As docker before 25: folders per layer, a repeated layer as a link.
    let old_docker = docker(vec![json!("one/layer.tar"), json!("two/layer.tar")], &|writer| {
        writer.dir("one").unwrap();
        writer.file("one/VERSION", b"1.0").unwrap();
        writer.file("one/json", b"{}").unwrap();
        writer.file("one/layer.tar", &plain[0]).unwrap();
        writer.file("three/layer.tar", &plain[1]).unwrap();
        let link = Entry { kind: Entries::Symlink, link: b"../three/layer.tar".to_vec(), ..file("two/layer.tar", 0) };
        writer.append(&link, std::io::empty()).unwrap();
    });
    let skopeo = docker(vec![json!("x.tar"), json!("./y.tar.gz")], &|writer| {
        writer.file("./x.tar", &plain[0]).unwrap();
        writer.file("y.tar.gz", &compress(&plain[1], Pack::Gzip)).unwrap();
    });
    let both = {
        let mut writer = Writer::new(Vec::new());
        layout(&mut writer, &[(&a, full("registry.k8s.io/a:1"))]);
        let path = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
        let manifest =
            json!([{"Config": path(a.id()), "RepoTags": ["a2:latest"], "Layers": [path(a.blob(0)), path(a.blob(1))]}]);
        writer.file("manifest.json", manifest.to_string().as_bytes()).unwrap();
        writer.finish().unwrap()
    };
    let archives = [("oci", oci), ("old docker", old_docker), ("skopeo", skopeo), ("both", both)];
    for (what, bytes) in archives {
        for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
            let dir = Dir::new();
            let images = open(&dir);
            let report =
                import(&images, compress(&bytes, pack)).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            assert!(report.failures.is_empty(), "{what}: {:?}", report.failures);
            let mut names: Vec<String> = report.images.iter().flat_map(|image| image.names.clone()).collect();
            names.sort();
            let mut want = vec!["docker.io/library/a2:latest", "registry.k8s.io/a:1"];
            if what == "oci" {
                want.insert(1, "r.example/b:2");
            }
            want.sort();
            assert_eq!(names, want, "{what} {pack:?}");
            for name in ["registry.k8s.io/a:1", "a2"] {
                let rootfs = images.resolve(name).await.unwrap();
                assert_eq!(
                    (&rootfs.id, read(&rootfs, "text").unwrap(), read(&rootfs, "base").unwrap()),
                    (&a.id(), b"a".to_vec(), b"shared".to_vec())
                );
            }
            if what == "oci" {
                // The base layer is there once.
                assert_eq!(count(&images.layers_dir()), 3 + 1);
                assert!(images.get(&format!("registry.k8s.io/a@{}", a.digest())).await.unwrap().is_some());
            }
        }
    }
}

#[tokio::test]
async fn what_goes_out_comes_back() {
    let (a, b) = (image("a"), TestImage::new("linux/amd64", Pack::Zstd, &[&[("text", b"b")]]));
    let mut writer = Writer::new(Vec::new());
    layout(
        &mut writer,
        &[
            (&a, json!({"io.containerd.image.name": "r.example/a:1"})),
            (&a, json!({"io.containerd.image.name": "r.example/a:2"})),
            (&b, json!({"io.containerd.image.name": "r.example/b:1"})),
        ],
    );
    let dir = Dir::new();
    let images = open(&dir);
    import(&images, writer.finish().unwrap()).await.unwrap();
    let names = ["r.example/a:1".to_owned(), "r.example/b:1".to_owned()];
    let exported = images.export(&names, Vec::new()).await.unwrap();
    assert_eq!(exported, images.export(&names, Vec::new()).await.unwrap(), "the same bytes each time");
    let other = Dir::new();
    let there = open(&other);
    let report = import(&there, exported.clone()).await.unwrap();
    assert_eq!((report.images.len(), report.failures.len()), (2, 0));
    for (name, image) in [("r.example/a:1", &a), ("r.example/b:1", &b)] {
        assert_eq!(there.get(name).await.unwrap().unwrap().id, image.id());
    }
    assert!(there.get("r.example/a:2").await.unwrap().is_none(), "only the name that was asked for");
    assert_eq!(there.get(a.digest().as_str()).await.unwrap().map(|_| ()), None);
    // Skopeo is another reader of the same file, of both its natures.
    let path = dir.0.join("out.tar");
    std::fs::write(&path, &exported).unwrap();
    for source in ["oci-archive", "docker-archive"] {
        let output = std::process::Command::new("skopeo")
            .args(["inspect", "--raw", &format!("{source}:{}:r.example/a:1", path.display())])
            .output()
            .expect("Debian's skopeo is needed");
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(matches!(images.export(&["nothing".into()], Vec::new()).await.unwrap_err().kind(), Kind::NotPresent));
}

#[tokio::test]
async fn bad_archives_are_refused() {
    let a = image("a");
    let name = json!({"io.containerd.image.name": "r.example/a:1"});
    let archive = |write: &dyn Fn(&mut Writer<Vec<u8>>)| {
        let mut writer = Writer::new(Vec::new());
        write(&mut writer);
        writer.finish().unwrap()
    };
    let whole = archive(&|w| layout(w, &[(&a, name.clone())]));
    let wrong_digest = archive(&|w| {
        layout(w, &[(&a, name.clone())]);
        w.file(&format!("blobs/sha256/{}", "a".repeat(64)), b"not that").unwrap();
    });
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "holds no image"),
        ("no tar", vec![b'x'; 4096], "checksum is wrong"),
        ("cut", whole[..whole.len() / 2].to_vec(), "middle of an entry"),
        (
            "cut gzip",
            {
                let z = compress(&whole, Pack::Gzip);
                z[..z.len() / 2].to_vec()
            },
            "test.tar",
        ),
        ("other files", archive(&|w| w.file("README", b"hello").unwrap()), "holds no image"),
        ("wrong digest", wrong_digest, "expected sha256:aaaa"),
        ("index.json", archive(&|w| w.file("index.json", b"[1").unwrap()), "index.json"),
        ("huge index.json", archive(&|w| w.file("index.json", &vec![b' '; 5 << 20]).unwrap()), "too large"),
    ];
    for (what, bytes, want) in cases {
        let dir = Dir::new();
        let images = open(&dir);
        let error = import(&images, bytes).await.expect_err(what);
        assert!(error.chain().contains(want), "{what}: {}", error.chain());
        settle(&images, &dir).await;
        let store = dir.0.join("store");
        assert_eq!(
            [count(&store.join("blobs/sha256")), count(&store.join("ingest")), count(&store.join("tmp"))],
            [0, 0, 0],
            "{what}"
        );
    }
}

#[tokio::test]
async fn one_bad_image_does_not_spoil_the_archive() {
    let (good, foreign) = (image("good"), TestImage::new("linux/s390x", Pack::Gzip, &[&[("x", b"y")]]));
    let mut lacking = image("lacking");
    lacking.layers.pop();
    let mut writer = Writer::new(Vec::new());
    let name = |name: &str| json!({"io.containerd.image.name": name});
    layout(
        &mut writer,
        &[
            (&good, name("good:1")),
            (&foreign, name("foreign:1")),
            (&foreign, name("good:1")),
            (&lacking, name("lacking:1")),
        ],
    );
    let dir = Dir::new();
    let images = open(&dir);
    let report = import(&images, writer.finish().unwrap()).await.unwrap();
    assert_eq!(report.images.len(), 1);
    assert_eq!(images.get("good:1").await.unwrap().unwrap().id, good.id());
    let mut failures: Vec<String> =
        report.failures.iter().map(|(name, error)| format!("{name}: {}", error.chain())).collect();
    failures.sort();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures[0].contains("no image for linux/amd64") && failures[0].contains("offers linux/s390x"),
        "{failures:?}"
    );
    assert!(failures[1].contains("lacking") && failures[1].contains("lacks blob"), "{failures:?}");
}

#[tokio::test]
async fn ownership_links_and_modes_survive_the_import() {
    use std::os::unix::fs::MetadataExt;
    let mut writer = Writer::new(Vec::new());
    let sh = Entry { mode: 0o4755, uid: 1000, gid: 50_000, ..file("bin/busybox", 2) };
    writer.append(&sh, &b"#!"[..]).unwrap();
    for applet in ["bin/sh", "bin/ls"] {
        let link = Entry { kind: Entries::HardLink, link: b"bin/busybox".to_vec(), ..file(applet, 0) };
        writer.append(&link, std::io::empty()).unwrap();
    }
    let tar = writer.finish().unwrap();
    let image = TestImage::of_tars("linux/amd64", Pack::Gzip, vec![tar]);
    let mut archive = Writer::new(Vec::new());
    layout(&mut archive, &[(&image, json!({"io.containerd.image.name": "busybox:1"}))]);
    let dir = Dir::new();
    let images = open(&dir);
    import(&images, archive.finish().unwrap()).await.unwrap();
    let rootfs = images.resolve("busybox:1").await.unwrap();
    let meta = std::fs::metadata(rootfs.lower[0].join("bin/ls")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.nlink()), (0o4755, 1000, 50_000, 3));
}
