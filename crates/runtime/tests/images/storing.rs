//! The store over time: names, collection, crashes, damage.

use std::fs;
use std::path::PathBuf;

use runtime::images::{Error, Images, Kind, Options, PullOptions};
use serde_json::json;

use crate::registry::{Act, Registry};
use crate::support::*;

fn image(text: &str) -> TestImage {
    TestImage::new("linux/amd64", Pack::Gzip, &[&[("base", b"shared")], &[("text", text.as_bytes())]])
}

async fn pulled(dir: &Dir, options: Options, names: &[&str]) -> (Images, Registry) {
    let registry = Registry::start().await;
    let images = open_with(dir, options);
    for name in names {
        registry.put_image(name, "1", &image(name));
        images.pull(&registry.name(&format!("{name}:1")), PullOptions::default()).await.unwrap();
    }
    (images, registry)
}

/// As if the machine had gone down: the last boot is another one, and nothing was closed.
fn power_cut(dir: &Dir, images: Images) {
    drop(images);
    let path = dir.0.join("store/state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["boot"] = json!("another boot");
    fs::write(&path, state.to_string()).unwrap();
}

#[tokio::test]
async fn names_come_and_go() {
    let dir = Dir::new();
    let (images, registry) = pulled(&dir, options(), &["a", "b"]).await;
    let (a, b) = (image("a").id(), image("b").id());
    images.tag(&registry.name("a:1"), "new.example/x:2").await.unwrap();
    assert_eq!(images.get("new.example/x:2").await.unwrap().unwrap().id, a);
    images.tag(b.as_str(), "new.example/x:2").await.unwrap();
    assert_eq!(images.resolve("new.example/x:2").await.unwrap().id, b);
    images.pin(&registry.name("a:1"), true).await.unwrap();
    assert!(images.get(a.hex()).await.unwrap().unwrap().pinned);
    assert_eq!(images.tag("nothing", "x:1").await.unwrap_err().kind(), Kind::NotPresent);
    assert_eq!(images.tag(a.as_str(), "Bad Name").await.unwrap_err().kind(), Kind::InvalidName);
    images.untag("new.example/x:2", &[]).await.unwrap();
    assert!(images.get(b.as_str()).await.unwrap().is_some());
    images.untag(&registry.name("b:1"), &[]).await.unwrap();
    assert!(images.get(b.as_str()).await.unwrap().is_none());
    assert_eq!(images.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn garbage_goes_and_nothing_else() {
    let dir = Dir::new();
    let (images, registry) = pulled(&dir, options(), &["a", "b"]).await;
    assert_eq!(images.gc(&[]).await.unwrap().layers, 0);
    let before = images.usage().await.unwrap();
    let rootfs = images.resolve(&registry.name("a:1")).await.unwrap();
    // Held by the Rootfs; the base layer also by the other image.
    images.remove(&registry.name("a:1"), &[]).await.unwrap();
    assert_eq!(read(&rootfs, "text").unwrap(), b"a");
    let lower: Vec<PathBuf> = rootfs.lower.clone();
    drop(rootfs);
    // Named by a container that outlived a restart.
    images.gc(&lower).await.unwrap();
    assert!(lower.iter().all(|layer| layer.exists()));
    let freed = images.gc(&[]).await.unwrap();
    assert!(freed.layers == 1 && freed.bytes > 0, "{freed:?}");
    assert!(!lower[0].exists() && lower[1].exists());
    assert!(images.usage().await.unwrap().bytes < before.bytes);
    images.remove(&registry.name("b:1"), &[]).await.unwrap();
    assert_eq!(images.usage().await.unwrap().bytes, 0);
    assert_eq!(images.remove("b:1", &[]).await.unwrap_err().kind(), Kind::NotPresent);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = Dir::new();
    let images = open(&dir);
    assert!(matches!(Images::open(dir.0.join("store"), options()), Err(Error::Locked(_))));
    drop(images);
    open(&dir);
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_wrong() {
    let dir = Dir::new();
    let (images, registry) = pulled(&dir, options(), &["a"]).await;
    drop(images);
    let store = dir.0.join("store");
    fs::create_dir_all(store.join("tmp/99-1/fs/half")).unwrap();
    fs::write(store.join("images.new"), b"{").unwrap();
    let images = open(&dir);
    let before = registry.log().len();
    assert_eq!(read(&images.resolve(&registry.name("a:1")).await.unwrap(), "text").unwrap(), b"a");
    assert_eq!(registry.log().len(), before);
}

#[tokio::test]
async fn damage_of_a_power_cut_is_repaired() {
    for discard_blobs in [false, true] {
        let dir = Dir::new();
        let opts = Options { discard_blobs, ..options() };
        let (images, registry) = pulled(&dir, opts.clone(), &["a"]).await;
        let name = registry.name("a:1");
        let lower = images.resolve(&name).await.unwrap().lower;
        assert_eq!(count(&dir.0.join("store/blobs/sha256")), if discard_blobs { 2 } else { 4 });
        power_cut(&dir, images);
        // What file systems do to files that were not synced; and what nobody had finished.
        fs::File::create(lower[0].join("text")).unwrap();
        fs::create_dir_all(dir.0.join("store/layers/0123456789abcdef01234567/fs")).unwrap();
        fs::write(dir.0.join(format!("store/blobs/sha256/{}", "c".repeat(64))), b"torn").unwrap();
        let images = open_with(&dir, opts.clone());
        assert!(!dir.0.join("store/layers/0123456789abcdef01234567").exists());
        assert!(dir.0.join(format!("store/ingest/sha256-{}", "c".repeat(64))).exists());
        let before = registry.log().len();
        assert_eq!(read(&images.resolve(&name).await.unwrap(), "text").unwrap(), b"a");
        assert_eq!(registry.log().len() > before, discard_blobs, "from its blob if it is here, else from the registry");
        // The other layer was looked at and found good; all is trusted now.
        assert!(images.check().await.unwrap().is_empty());
        images.close().unwrap();
        drop(images);
        open_with(&dir, opts).resolve(&name).await.unwrap();
    }
}

#[tokio::test]
async fn damage_that_cannot_be_repaired_is_named() {
    let dir = Dir::new();
    let (images, registry) = pulled(&dir, options(), &["a"]).await;
    let name = registry.name("a:1");
    let lower = images.resolve(&name).await.unwrap().lower;
    power_cut(&dir, images);
    fs::remove_file(lower[0].join("text")).unwrap();
    let blob = image("a").blob(1);
    fs::write(dir.0.join("store/blobs/sha256").join(blob.hex()), noise(image("a").layers[1].0.len(), 3)).unwrap();
    registry.rule("", 1000, Act::Answer(404, vec![], String::new()));
    let images = open(&dir);
    let error = images.resolve(&name).await.unwrap_err();
    assert!(matches!(&error, Error::Damaged { image, .. } if *image == name), "{}", error.chain());
    assert!(error.chain().contains("not found"), "{}", error.chain());
    assert!(images.get(&name).await.unwrap().is_none() && images.list().await.unwrap().is_empty());
    // A pull is what the kubelet tries next, and it works when the registry does.
    let fresh = Registry::start().await;
    fresh.put_image("a", "1", &image("a"));
    images.pull(&fresh.name("a:1"), PullOptions::default()).await.unwrap();
    assert_eq!(read(&images.resolve(&name).await.unwrap(), "text").unwrap(), b"a");
    assert!(images.get(&name).await.unwrap().is_some());
}

#[tokio::test]
async fn a_rotten_blob_is_fetched_again() {
    let dir = Dir::new();
    let (images, registry) = pulled(&dir, options(), &["a"]).await;
    // Another image of the same upper layer on another base: unpacked anew, from a blob that has gone bad.
    let mut other = TestImage::new("linux/amd64", Pack::Gzip, &[&[("other", b"base")], &[("text", b"a")]]);
    assert_eq!(other.blob(1), image("a").blob(1));
    let path = dir.0.join("store/blobs/sha256").join(other.blob(1).hex());
    fs::write(&path, noise(other.layers[1].0.len(), 5)).unwrap();
    registry.put_image("other", "1", &other);
    images.pull(&registry.name("other:1"), PullOptions::default()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), other.layers.pop().unwrap().0);
}

#[tokio::test]
async fn discarded_blobs_come_back_for_an_export() {
    let dir = Dir::new();
    let opts = Options { discard_blobs: true, ..options() };
    let (images, registry) = pulled(&dir, opts, &["a"]).await;
    let blobs = dir.0.join("store/blobs/sha256");
    assert_eq!(count(&blobs), 2);
    let tar = images.export(&[registry.name("a:1")], Vec::new()).await.unwrap();
    assert_eq!(count(&blobs), 2);
    let other = Dir::new();
    let there = open(&other);
    there.import(std::io::Cursor::new(tar), "tar", None).await.unwrap();
    assert_eq!(there.resolve(&registry.name("a:1")).await.unwrap().id, image("a").id());
    registry.rule("", 1000, Act::Answer(404, vec![], String::new()));
    assert_eq!(images.export(&[registry.name("a:1")], Vec::new()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_root() {
    let dir = Dir::new();
    let registry = Registry::start().await;
    let image = TestImage::new("linux/amd64", Pack::Plain, &[]);
    registry.put_image("scratch", "1", &image);
    let images = open(&dir);
    images.pull(&registry.name("scratch:1"), PullOptions::default()).await.unwrap();
    let rootfs = images.resolve(&registry.name("scratch:1")).await.unwrap();
    assert_eq!((rootfs.lower.len(), count(&rootfs.lower[0])), (1, 0));
    images.gc(&[]).await.unwrap();
    assert!(rootfs.lower[0].exists());
}

/// The kernel's overlayfs agrees with what was put on the disk.
#[tokio::test]
async fn overlayfs_shows_what_the_image_means() {
    let dir = Dir::new();
    let registry = Registry::start().await;
    let layers: &[&[(&str, &[u8])]] = &[
        &[("keep", b"1"), ("gone", b"1"), ("dir/a", b"1"), ("dir/b", b"1"), ("over", b"1")],
        &[(".wh.gone", b""), ("dir/.wh..wh..opq", b""), ("dir/c", b"2"), ("over", b"2")],
    ];
    registry.put_image("x", "1", &TestImage::new("linux/amd64", Pack::Gzip, layers));
    let images = open(&dir);
    images.pull(&registry.name("x:1"), PullOptions::default()).await.unwrap();
    let rootfs = images.resolve(&registry.name("x:1")).await.unwrap();
    let at = dir.0.join("mnt");
    fs::create_dir(&at).unwrap();
    let lower: Vec<String> = rootfs.lower.iter().map(|l| l.display().to_string()).collect();
    let run = |program: &str, args: &[&str]| {
        let status = std::process::Command::new(program).args(args).status().unwrap();
        assert!(status.success(), "{program} {args:?}");
    };
    let target = at.display().to_string();
    run("mount", &["-t", "overlay", "overlay", "-o", &format!("ro,lowerdir={}", lower.join(":")), &target]);
    let mut seen: Vec<String> = Vec::new();
    for entry in fs::read_dir(&at).unwrap().chain(fs::read_dir(at.join("dir")).unwrap()).flatten() {
        seen.push(entry.file_name().to_string_lossy().into_owned());
    }
    let over = fs::read(at.join("over")).unwrap();
    run("umount", &[&target]);
    seen.sort();
    assert_eq!((seen, over), (["c", "dir", "keep", "over"].map(String::from).to_vec(), b"2".to_vec()));
}
