//! Pulls from the registry that misbehaves.

use std::sync::{Arc, Mutex};

use runtime::images::credentials::{Credentials, Login};
use runtime::images::registries::Registries;
use runtime::images::{Event, Images, Kind, LayerState, PullOptions};
use serde_json::json;

use crate::registry::{Act, Registry};
use crate::support::*;

fn image() -> TestImage {
    TestImage::new(
        "linux/amd64",
        Pack::Gzip,
        &[&[("bin/sh", b"#!"), ("etc/a", b"lower")], &[("etc/a", b"upper"), ("big", &noise(300_000, 1))]],
    )
}

async fn setup() -> (Dir, Images, Registry, TestImage) {
    let (dir, registry, image) = (Dir::new(), Registry::start().await, image());
    registry.put_image("team/app", "1", &image);
    let images = open(&dir);
    (dir, images, registry, image)
}

/// For whatever registry.
fn basic(username: &str, password: &str) -> Login {
    (String::new(), Credentials::Basic { username: username.into(), password: password.into() })
}

#[tokio::test]
async fn an_image_arrives_whole() {
    let (_dir, images, registry, image) = setup().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let options =
        PullOptions { events: Some(Arc::new(move |event| seen.lock().unwrap().push(event))), ..Default::default() };
    let pulled = images.pull(&registry.name("team/app:1"), options).await.unwrap();
    assert_eq!((&pulled.id, pulled.user.as_str(), pulled.platform.as_str()), (&image.id(), "65535", "linux/amd64"));
    assert_eq!(pulled.repo_tags, [registry.name("team/app:1")]);
    assert_eq!(pulled.repo_digests, [registry.name(&format!("team/app@{}", image.digest()))]);
    let rootfs = images.resolve(&registry.name("team/app:1")).await.unwrap();
    assert_eq!(rootfs.lower.len(), 2);
    assert_eq!(
        (read(&rootfs, "etc/a").unwrap(), read(&rootfs, "bin/sh").unwrap()),
        (b"upper".to_vec(), b"#!".to_vec())
    );
    assert_eq!((rootfs.config.cmd, rootfs.config.env), (vec!["/bin/sh".to_owned()], vec!["PATH=/bin".to_owned()]));
    let events = events.lock().unwrap();
    assert!(
        matches!(events.first(), Some(Event::Resolving { .. })) && matches!(events.last(), Some(Event::Done { .. }))
    );
    let done = |e: &&Event| matches!(e, Event::Layer { state: LayerState::Done, .. });
    assert_eq!(events.iter().filter(done).count(), 2);
}

#[tokio::test]
async fn the_second_pull_costs_one_head() {
    let (_dir, images, registry, image) = setup().await;
    let name = registry.name("team/app:1");
    images.pull(&name, PullOptions::default()).await.unwrap();
    let before = registry.log().len();
    images.pull(&name, PullOptions::default()).await.unwrap();
    assert_eq!(registry.log()[before..], ["HEAD /v2/team/app/manifests/1"]);
    // By digest as well: the registry says who may have it.
    let by_digest = registry.name(&format!("team/app@{}", image.digest()));
    images.pull(&by_digest, PullOptions::default()).await.unwrap();
    assert_eq!(registry.log()[before + 1..], [format!("HEAD /v2/team/app/manifests/{}", image.digest())]);
    // A new image under the old name moves the name.
    let newer = TestImage::new("linux/amd64", Pack::Zstd, &[&[("new", b"1")]]);
    registry.put_image("team/app", "1", &newer);
    assert_eq!(images.pull(&name, PullOptions::default()).await.unwrap().id, newer.id());
    assert!(images.get(image.id().as_str()).await.unwrap().unwrap().repo_tags.is_empty());
}

#[tokio::test]
async fn what_is_here_is_for_whom_the_registry_gives_it() {
    let (_dir, images, registry, image) = setup().await;
    let names = [registry.name("team/app:1"), registry.name(&format!("team/app@{}", image.digest()))];
    let pull = async |name: &str, logins: Vec<Login>| {
        images.pull_by(name, PullOptions { logins, ..Default::default() }).await.map(|(_, login)| login)
    };
    assert_eq!(pull(&names[0], vec![basic("ada", "smash")]).await.unwrap(), None, "nobody was asked who he is");
    registry.want_basic("Basic YWRhOnNtYXNo");
    let before = registry.log().len();
    for name in &names {
        for logins in [vec![], vec![basic("eve", "smash")]] {
            assert_eq!(pull(name, logins).await.unwrap_err().kind(), Kind::Unauthorized, "{name}");
        }
        let ada = basic("ada", "smash");
        let used = pull(name, vec![basic("eve", "smash"), ada.clone()]).await.unwrap();
        assert_eq!(used, Some(ada.1), "{name}");
    }
    assert!(registry.log()[before..].iter().all(|line| !line.contains("/blobs/")), "{:?}", registry.log());
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_begins() {
    let (dir, registry, image) = (Dir::new(), Registry::start().await, image());
    registry.put_image("team/app", "1", &image);
    let mut options = options();
    options.limits.reserve = u64::MAX / 2;
    let images = open_with(&dir, options);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let make_room: runtime::images::MakeRoom = Arc::new(move |need| {
        seen.lock().unwrap().push((need.least, need.likely));
        Box::pin(async {})
    });
    let options = || PullOptions { make_room: Some(make_room.clone()), ..Default::default() };
    let error = images.pull(&registry.name("team/app:1"), options()).await.unwrap_err().chain();
    let packed: u64 = image.layers.iter().map(|(bytes, _)| bytes.len() as u64).sum();
    assert!(error.starts_with(&registry.name("team/app:1: not enough space on ")), "{error}");
    assert!(error.contains(&format!("{} bytes wanted at least", 2 * packed)), "{error}");
    assert_eq!(*asked.lock().unwrap(), [(2 * packed, 4 * packed)], "three times as large unpacked, mostly");
    assert_eq!(registry.asked(&image.blob(1).to_string()), 0);
    drop(images);
    // With room it comes; what is here needs none.
    let images = open(&dir);
    for _ in 0..2 {
        images.pull(&registry.name("team/app:1"), options()).await.unwrap();
    }
    registry.put_image("team/other", "1", &image);
    images.pull(&registry.name("team/other:1"), options()).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2);
    // What is here of an image is not what room is made of.
    let more =
        TestImage::new("linux/amd64", Pack::Gzip, &[&[("bin/sh", b"#!"), ("etc/a", b"lower")], &[("more", b"1")]]);
    registry.put_image("team/more", "1", &more);
    let (store, id) = (images.clone(), image.id());
    let make_room: runtime::images::MakeRoom = Arc::new(move |_| {
        let (store, id) = (store.clone(), id.clone());
        Box::pin(async move { drop(store.remove(id.as_str(), &[]).await) })
    });
    let options = PullOptions { make_room: Some(make_room), ..Default::default() };
    images.pull(&registry.name("team/more:1"), options).await.unwrap();
    assert!(images.get(image.id().as_str()).await.unwrap().is_none());
    assert_eq!(registry.asked(&format!("GET /v2/team/more/blobs/{}", more.blob(0))), 0, "{:?}", registry.log());
}

#[tokio::test]
async fn pulls_at_once_fetch_each_layer_once() {
    let (_dir, images, registry, image) = setup().await;
    registry.put_image("team/other", "1", &image);
    let names = [
        registry.name("team/app:1"),
        registry.name("team/other:1"),
        registry.name(&format!("team/app@{}", image.digest())),
    ];
    let pulls = (0..9).map(|i| images.pull(&names[i % 3], PullOptions::default()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().id, image.id());
    }
    for i in 0..2 {
        assert_eq!(
            registry.asked(&format!("GET /v2/team/app/blobs/{}", image.blob(i)))
                + registry.asked(&format!("GET /v2/team/other/blobs/{}", image.blob(i))),
            1
        );
    }
    assert_eq!(images.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_breaks_is_taken_up_again() {
    let cases: &[(&str, Act, u32, Option<&str>)] = &[
        ("cut", Act::Cut(100_000), 2, Some("bytes=100000-")),
        ("short", Act::Short(100_000), 1, Some("bytes=100000-")),
        ("stall", Act::Stall(50_000), 1, Some("bytes=50000-")),
        ("500", Act::Answer(500, vec![], String::new()), 3, None),
        ("503", Act::Answer(503, vec![("retry-after", "0".into())], String::new()), 2, None),
        ("429", Act::Answer(429, vec![("retry-after", "1".into())], String::new()), 1, None),
    ];
    for (what, act, times, range) in cases {
        let (_dir, images, registry, image) = setup().await;
        let blob = image.blob(1).to_string();
        registry.rule(&blob, *times, act.clone());
        let pulled = images.pull(&registry.name("team/app:1"), PullOptions::default()).await;
        assert_eq!(pulled.unwrap_or_else(|e| panic!("{what}: {}", e.chain())).id, image.id());
        if let Some(range) = range {
            assert_eq!(registry.asked(&format!("{blob} {range}")), 1, "{what}: {:?}", registry.log());
        }
        let rootfs = images.resolve(image.id().as_str()).await.unwrap();
        assert_eq!(read(&rootfs, "big").unwrap(), noise(300_000, 1), "{what}");
    }
}

#[tokio::test]
async fn a_partial_blob_outlives_the_process() {
    let (dir, images, registry, image) = setup().await;
    let blob = image.blob(1).to_string();
    registry.rule(&blob, 4, Act::Cut(60_000));
    let error = images.pull(&registry.name("team/app:1"), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
    drop(images);
    let images = open(&dir);
    // The server forgets what a range is: then from the beginning.
    registry.rule(&blob, 1, Act::IgnoreRange);
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let events: runtime::images::EventSink = Arc::new(move |event| {
        if let Event::Resuming { blob, from, .. } = event {
            seen.lock().unwrap().push((blob, from));
        }
    });
    let options = PullOptions { events: Some(events), ..Default::default() };
    images.pull(&registry.name("team/app:1"), options).await.unwrap();
    assert_eq!(registry.asked(&format!("{blob} bytes=240000-")), 1, "{:?}", registry.log());
    assert_eq!(*told.lock().unwrap(), [(image.blob(1), 240_000)]);
}

#[tokio::test]
async fn a_rotten_partial_blob_is_fetched_anew() {
    let (dir, images, registry, image) = setup().await;
    let blob = image.blob(1);
    let ingest = dir.0.join(format!("store/ingest/sha256-{}", blob.hex()));
    std::fs::write(ingest, noise(1000, 99)).unwrap();
    images.pull(&registry.name("team/app:1"), PullOptions::default()).await.unwrap();
    assert_eq!(registry.asked(&format!("{blob} bytes=1000-")), 1);
    assert_eq!(registry.asked(blob.as_str()), 2);
}

#[tokio::test]
async fn lies_are_caught() {
    type Setup = fn(&Registry, &TestImage);
    let cases: &[(&str, Setup, Kind, &str)] =
        &[
            ("blob", |r, i| r.rule(i.blob(0).as_str(), 9, Act::Lie), Kind::BadImage, "expected sha256:"),
            ("blob too long", |r, i| r.rule(i.blob(0).as_str(), 9, Act::Excess), Kind::BadImage, "size is"),
            ("config", |r, i| r.rule(i.id().as_str(), 9, Act::Lie), Kind::BadImage, "expected sha256:"),
            ("manifest", |r, _| r.rule("/manifests/1", 9, Act::Lie), Kind::BadImage, "expected sha256:"),
            (
                "manifest of another",
                |r, i| {
                    let other = TestImage::new("linux/amd64", Pack::Plain, &[&[("x", b"y")]]);
                    r.put(&format!("/v2/team/app/manifests/{}", i.digest()), "application/json", other.manifest);
                    let index = index(&[("linux/amd64", i)]);
                    r.put("/v2/team/app/manifests/1", "application/json", index);
                },
                Kind::BadImage,
                "digest is",
            ),
            (
                "layer size",
                |r, i| {
                    let text = String::from_utf8(i.manifest.clone())
                        .unwrap()
                        .replace(&format!("\"size\":{}", i.layers[1].0.len()), "\"size\":299000");
                    r.put("/v2/team/app/manifests/1", "application/json", text);
                },
                Kind::BadImage,
                "size is",
            ),
            (
                "config size",
                |r, i| {
                    let text = String::from_utf8(i.manifest.clone())
                        .unwrap()
                        .replace(&format!("\"size\":{}", i.config.len()), "\"size\":7");
                    r.put("/v2/team/app/manifests/1", "application/json", text);
                },
                Kind::BadImage,
                "expected 7",
            ),
            (
                "diff ids",
                |r, i| {
                    // The layers are right, but not those that the config names.
                    let mut swapped = i.clone();
                    let mut manifest: serde_json::Value = serde_json::from_slice(&i.manifest).unwrap();
                    manifest["layers"].as_array_mut().unwrap().swap(0, 1);
                    swapped.manifest = serde_json::to_vec(&manifest).unwrap();
                    r.put_image("team/app", "1", &swapped);
                },
                Kind::BadImage,
                "expected sha256:",
            ),
            (
                "fewer layers",
                |r, i| {
                    let mut manifest: serde_json::Value = serde_json::from_slice(&i.manifest).unwrap();
                    manifest["layers"].as_array_mut().unwrap().pop();
                    r.put("/v2/team/app/manifests/1", "application/json", serde_json::to_vec(&manifest).unwrap());
                },
                Kind::BadImage,
                "config names 2 layers, manifest 1",
            ),
            (
                "html",
                |r, _| r.put("/v2/team/app/manifests/1", "text/html", "<html>log in</html>"),
                Kind::BadImage,
                "manifest",
            ),
            (
                "huge manifest",
                |r, _| r.put("/v2/team/app/manifests/1", "application/json", vec![b' '; 5 << 20]),
                Kind::BadImage,
                "limit",
            ),
            (
                "schema 1",
                |r, _| {
                    r.put(
                        "/v2/team/app/manifests/1",
                        "application/json",
                        r#"{"schemaVersion":1,"fsLayers":[],"name":"x"}"#,
                    )
                },
                Kind::BadImage,
                "schema 1 is not supported",
            ),
            (
                "endless redirects",
                |r, _| r.rule("/manifests/", 99, Act::Redirect("/v2/team/app/manifests/1".into())),
                Kind::Unavailable,
                "redirects too often",
            ),
            (
                "mad redirect",
                |r, _| r.rule("/manifests/", 99, Act::Redirect("ftp://x/y".into())),
                Kind::Unavailable,
                "malformed",
            ),
            (
                "stalls for ever",
                |r, i| r.rule(i.blob(1).as_str(), 99, Act::Stall(10)),
                Kind::Unavailable,
                "nothing came from",
            ),
            (
                "fails for ever",
                |r, _| r.rule("/manifests/", 99, Act::Answer(502, vec![], String::new())),
                Kind::Unavailable,
                "answers 502",
            ),
            (
                "wants too much patience",
                |r, _| {
                    r.rule("/manifests/", 9, Act::Answer(429, vec![("retry-after", "3600".into())],
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#.into()))
                },
                Kind::Unavailable,
                "answers 429: TOOMANYREQUESTS You have reached your pull rate limit.",
            ),
            (
                "not there",
                |r, _| r.rule("/manifests/", 9, Act::Answer(404, vec![], String::new())),
                Kind::NotFound,
                "team/app:1: not found at http://127.0.0.1",
            ),
        ];
    for (what, prepare, kind, text) in cases {
        let (dir, images, registry, image) = setup().await;
        prepare(&registry, &image);
        let error = images.pull(&registry.name("team/app:1"), PullOptions::default()).await.expect_err(what);
        assert!(error.kind() == *kind && error.chain().contains(text), "{what}: {:?} {}", error.kind(), error.chain());
        assert!(images.list().await.unwrap().is_empty());
        settle(&images, &dir).await;
        assert_eq!(count(&dir.0.join("store/layers")), 1, "{what}");
    }
}

#[tokio::test]
async fn hostile_layers_are_refused_and_leave_nothing() {
    use runtime::images::tar::{Entry, Kind as Entries, Writer};
    let dir = Dir::new();
    let victim = dir.0.join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let tar = |entries: &[(&str, Entries, &str)]| {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, link) in entries {
            let data: &[u8] = if *kind == Entries::File { b"evil" } else { b"" };
            let entry = Entry { kind: *kind, link: (*link).into(), ..file(path, data.len() as u64) };
            writer.append(&entry, data).unwrap();
        }
        writer.finish().unwrap()
    };
    let up = "../".repeat(12) + victim.display().to_string().trim_start_matches('/');
    let zeros = layer_tar(&[("zeros", &vec![0; 40 << 20])]);
    let cases = [
        (tar(&[(&up, Entries::File, "")]), "climbs out"),
        (tar(&[("a", Entries::HardLink, &up)]), "climbs out"),
        (tar(&[("a", Entries::HardLink, "/etc/shadow")]), "does not exist"),
        (tar(&[("a", Entries::File, ""), ("a/b", Entries::File, "")]), "not a directory"),
        (zeros, "for its compressed size"),
        (layer_tar(&[("a", b"b")])[..600].to_vec(), "bad tar archive"),
    ];
    let registry = Registry::start().await;
    let mut options = options();
    (options.limits.free_ratio_bytes, options.limits.ratio) = (8 << 20, 50);
    let images = open_with(&dir, options);
    for (i, (bytes, text)) in cases.into_iter().enumerate() {
        let image = TestImage::of_tars("linux/amd64", Pack::Gzip, vec![layer_tar(&[("ok", b"")]), bytes]);
        registry.put_image("evil", &i.to_string(), &image);
        let error = images.pull(&registry.name(&format!("evil:{i}")), PullOptions::default()).await.unwrap_err();
        assert!(error.kind() == Kind::BadImage && error.chain().contains(text), "{text}: {}", error.chain());
    }
    // Inside of its own root it may do what it wants.
    let inside = tar(&[("door", Entries::Symlink, "/"), (&format!("door{}", victim.display()), Entries::File, "")]);
    let image = TestImage::of_tars("linux/amd64", Pack::Zstd, vec![inside]);
    registry.put_image("evil", "in", &image);
    images.pull(&registry.name("evil:in"), PullOptions::default()).await.unwrap();
    let rootfs = images.resolve(&registry.name("evil:in")).await.unwrap();
    assert_eq!(read(&rootfs, victim.display().to_string().trim_start_matches('/')).unwrap(), b"evil");
    assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
    settle(&images, &dir).await;
    assert_eq!(count(&dir.0.join("store/layers")), 2);
}

#[tokio::test]
async fn the_platform_decides() {
    let registry = Registry::start().await;
    let of = |platform: &str| TestImage::new(platform, Pack::Gzip, &[&[("platform", platform.as_bytes())]]);
    let (amd64, arm64, v6, v7) = (of("linux/amd64"), of("linux/arm64"), of("linux/arm/v6"), of("linux/arm/v7"));
    for image in [&amd64, &arm64, &v6, &v7] {
        registry.put_image("multi", "x", image);
    }
    let all =
        index(&[("linux/arm64/v8", &arm64), ("linux/amd64", &amd64), ("linux/arm/v6", &v6), ("linux/arm/v7", &v7)]);
    let arms = index(&[("linux/arm64/v8", &arm64), ("linux/arm/v7", &v7), ("unknown/unknown", &amd64)]);
    let index_type = "application/vnd.oci.image.index.v1+json";
    registry.put("/v2/multi/manifests/all", index_type, all.clone());
    registry.put("/v2/multi/manifests/arms", index_type, arms);
    // An index that lies about what is in it, and an image without one.
    registry.put("/v2/multi/manifests/mislabelled", index_type, index(&[("linux/amd64", &v7)]));
    registry.put_image("multi", "single", &arm64);
    // An index in an index.
    let mut entry = descriptor(index_type, &all);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    registry.put(&format!("/v2/multi/manifests/{}", runtime::images::digest::Digest::of(&all)), index_type, all);
    let nested = json!({"schemaVersion": 2, "manifests": [entry]});
    registry.put("/v2/multi/manifests/nested", index_type, serde_json::to_vec(&nested).unwrap());
    let cases = [
        ("linux/amd64", "all", Ok("linux/amd64")),
        ("linux/arm64", "all", Ok("linux/arm64")),
        ("linux/arm/v7", "all", Ok("linux/arm/v7")),
        ("linux/arm/v6", "all", Ok("linux/arm/v6")),
        ("linux/amd64", "nested", Ok("linux/amd64")),
        ("linux/amd64", "arms", Err("no image for linux/amd64: NAME offers linux/arm64, linux/arm/v7")),
        ("linux/amd64", "mislabelled", Err("no image for linux/amd64: NAME offers linux/arm/v7")),
        ("linux/amd64", "single", Err("no image for linux/amd64: NAME offers linux/arm64")),
    ];
    for (ours, tag, want) in cases {
        let dir = Dir::new();
        let mut options = options();
        options.platform = runtime::images::platform::Platform::parse(ours).unwrap();
        let images = open_with(&dir, options);
        let name = registry.name(&format!("multi:{tag}"));
        match (images.pull(&name, PullOptions::default()).await, want) {
            (Ok(_), Ok(platform)) => {
                assert_eq!(read(&images.resolve(&name).await.unwrap(), "platform").unwrap(), platform.as_bytes())
            }
            (Err(error), Err(text)) => {
                assert_eq!((error.to_string(), error.kind()), (text.replace("NAME", &name), Kind::NoPlatform));
            }
            (got, want) => panic!("{ours} {tag}: {got:?}, {want:?}"),
        }
    }
}

#[tokio::test]
async fn tokens_and_passwords_are_presented() {
    let good = "Basic dXNlcjpwYXNz";
    // Tokens: with the right password among wrong ones, without any, with wrong ones only.
    let cases: &[(&str, &[Login], bool)] = &[
        (good, &[basic("user", "wrong"), basic("user", "pass")], true),
        ("", &[], true),
        (good, &[basic("user", "wrong")], false),
        (good, &[], false),
    ];
    for (token_auth, logins, works) in cases {
        let (_dir, images, registry, image) = setup().await;
        registry.want_bearer("t0ken", token_auth);
        let options = PullOptions { logins: logins.to_vec(), ..Default::default() };
        match images.pull(&registry.name("team/app:1"), options).await {
            Ok(pulled) => assert_eq!((*works, pulled.id), (true, image.id())),
            Err(error) => {
                assert_eq!((*works, error.kind()), (false, Kind::Unauthorized), "{}", error.chain());
                assert!(error.chain().contains("incorrect username or password"), "{}", error.chain());
            }
        }
        // One token serves the whole pull.
        assert!(registry.asked("/token") <= logins.len().max(1), "{:?}", registry.log());
    }
    let elsewhere = ("other.example".to_owned(), basic("user", "pass").1);
    for (logins, works) in [
        (vec![basic("a", "b"), basic("user", "pass")], true),
        (vec![basic("a", "b")], false),
        (vec![elsewhere], false),
        (vec![], false),
    ] {
        let (_dir, images, registry, _) = setup().await;
        registry.want_basic(good);
        let options = PullOptions { logins, ..Default::default() };
        let pulled = images.pull(&registry.name("team/app:1"), options).await;
        assert_eq!(pulled.is_ok(), works, "{pulled:?}");
        assert!(
            works || pulled.unwrap_err().chain().contains("denies access (401): UNAUTHORIZED authentication required")
        );
    }
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_to_others() {
    let (_dir, images, registry, image) = setup().await;
    let store = Registry::start().await;
    registry.want_basic("Basic dXNlcjpwYXNz");
    for i in 0..2 {
        let blob = image.blob(i);
        registry.rule(
            blob.as_str(),
            9,
            Act::Redirect(format!("http://{}/bucket/{}?signature=x%2Fy", store.address, blob.hex())),
        );
        store.put(&format!("/bucket/{}", blob.hex()), "application/octet-stream", image.layers[i].0.clone());
    }
    let options = PullOptions { logins: vec![basic("user", "pass")], ..Default::default() };
    images.pull(&registry.name("team/app:1"), options).await.unwrap();
    assert_eq!((store.log().len(), store.authorizations().len()), (2, 0), "{:?}", store.log());
    assert!(store.log()[0].contains("signature=x%2Fy"));
}

#[tokio::test]
async fn mirrors_are_asked_first() {
    let image = image();
    let (mirror, broken, origin) = (Registry::start().await, Registry::start().await, Registry::start().await);
    mirror.put_image("cache/team/app", "1", &image);
    broken.rule("", 999, Act::Answer(500, vec![], String::new()));
    origin.put_image("team/app", "1", &image);
    origin.put_image("team/other", "1", &TestImage::new("linux/amd64", Pack::Plain, &[&[("other", b"1")]]));
    let registries = |password: &str| {
        Registries::from_value(json!({
            "mirrors": {origin.address.to_string(): {
                "endpoint": [format!("http://{}", broken.address), format!("http://{}", mirror.address)],
                "rewrite": {"^team/app$": "cache/team/app"},
            }},
            "configs": {mirror.address.to_string(): {"auth": {"username": "user", "password": password}}},
        }))
        .unwrap()
    };
    mirror.want_basic("Basic dXNlcjpwYXNz");
    let dir = Dir::new();
    let images = open_with(&dir, runtime::images::Options { registries: registries("pass"), ..options() });
    let pulled = images.pull(&origin.name("team/app:1"), PullOptions::default()).await.unwrap();
    assert_eq!((pulled.repo_tags, origin.log().len()), (vec![origin.name("team/app:1")], 0));
    assert!(mirror.log()[0].ends_with(&format!("?ns={}", origin.address)), "{:?}", mirror.log());
    // What mirrors lack comes from the registry itself.
    images.pull(&origin.name("team/other:1"), PullOptions::default()).await.unwrap();
    // Blobs that the mirror lies about, too.
    let dir = Dir::new();
    let images = open_with(&dir, runtime::images::Options { registries: registries("pass"), ..options() });
    mirror.rule(image.blob(0).as_str(), 99, Act::Lie);
    images.pull(&origin.name("team/app:1"), PullOptions::default()).await.unwrap();
    assert_eq!(origin.asked(image.blob(0).as_str()), 1);
    // Nobody has it: every endpoint's answer is told.
    let error = images.pull(&origin.name("team/none:1"), PullOptions::default()).await.unwrap_err();
    let text = error.chain();
    assert!(text.contains("answers 500") && text.matches("not found at").count() == 2, "{text}");
    // Without the default endpoint.
    let dir = Dir::new();
    let options =
        runtime::images::Options { registries: registries("wrong"), disable_default_endpoint: true, ..options() };
    let before = origin.log().len();
    let error = open_with(&dir, options).pull(&origin.name("team/app:1"), PullOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), origin.log().len()), (Kind::Unauthorized, before), "{}", error.chain());
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let dir = Dir::new();
    let images = open(&dir);
    let address = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let error = images.pull(&format!("{address}/x:1"), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.chain().contains(&format!("{address}/x:1: cannot reach http://{address}: cannot connect to")),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_stops() {
    let (dir, images, registry, image) = setup().await;
    registry.rule(image.blob(1).as_str(), 1, Act::Stall(1000));
    let name = registry.name("team/app:1");
    let first =
        tokio::time::timeout(std::time::Duration::from_millis(100), images.pull(&name, PullOptions::default())).await;
    assert!(first.is_err());
    assert_eq!(images.pull(&name, PullOptions::default()).await.unwrap().id, image.id());
    drop(images);
    drop(dir);
}
