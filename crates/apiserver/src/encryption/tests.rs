//! Values that kube-apiserver v1.37.2 has stored, and what is wrong with configurations.

use std::sync::atomic::{AtomicU8, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{Configuration, Provider};
use crate::seams::Random;

/// Key, the object's name, and what stood there.
const STORED: [(&str, &str, &str); 3] = [
    (
        "/registry/secrets/default/s1",
        "s1",
        "\
     azhzOmVuYzphZXNjYmM6djE6b25lOvSaEXfi2riBovH4CTc+iwOEAPWE7zSgeB0uXv47OeTjJygPCHIJL1SepqIagZm8pfp2fduF\
     4d+8HgMA8B1L0TfuFdKGHnuw/x+K8xyrwFaSwx6uQ7+oR4me0hxAwY/C1W0FFjEjt+1T5MjK/MAk+2JWJNHyyw0Zm89+2MlN4953\
     mnImjqTNEw89k4ZXWyECGqYCeA0aN7EtUdAwY61m/71XpwwVVKtvxf01m5dlRRSXvjDNc6rw1r9csT7yp7NrgfDrISJY7hZ3w7pO\
     av2ZoZ82CTZWl3LxQIReV5hoXVCgEVcaJdWOlVdm1BWaaKHY3w==",
    ),
    (
        "/registry/configmaps/default/c1",
        "c1",
        "\
     azhzOmVuYzphZXNnY206djE6b25lOmF1t8ZVUneU142xzDIAp878r+qMnTuMA8kx3rNed9TWeTGkH3nZvoYk46wcrH09r15KHvjw\
     QV2eHbYANYp9odsg4HVRN5mqUcp/sa/NMN0nghfjHm35Keb/uBVYW3j54Z13tuvgtV94cnKWNbuzKUEVWrpoJCVcwSMiKoFuor7b\
     t3JNJ4zo2g0BLwcboT/gW38mnqPZAApx8Oh4xjoTHRv/PritCkvCiZMPYApm/gAm7zCALOClM4mRX9wtWN2/f0oyf0XVcMYKnkbR\
     ooXvh91kEKzvSIUrmd7XwJzqKSpyvUWZxKCWxwtufDNqTn1yKjeztJEsITXVnRl7G5/ispTSkmUuKgXs6cm/eVVZAyGeAYYTmx9v\
     mPJ2nIOBw+fOGGq4/PxsOPD+4dX4F+PlvHVFcQ==",
    ),
    (
        "/registry/limitranges/default/l1",
        "l1",
        "\
     azhzOmVuYzpzZWNyZXRib3g6djE6b25lOhP/C1OAmqr7R8czZZkkDzQMgsg01iIOIeg2aDVWKhDk+G9QtysRB+9SALgqsxSW41ZP\
     GlSCkpDxwQi92zkQBm3Tcz8u1QSpIMstJaObnhlRz41r0iG8S5v45toka/ntnCHhn9sGO1Qqs3q7o9ZtrcIgKRjcnXKViWG1vfvx\
     xVZHW5XGx85bw7h8ftM9THJ0OYpoCBkL3/IP8eIk4uhF9A8XrjtsHZCsqsOrzYOTqGOL4iwo5M9AB932KmI7V8miz5RguHLwEuBI\
     yM4Lu1d4fL1M8zvB/eQzYY1maljvaXx0RYDXFCWzBmdNffMjZEif4caljM+Vh2ULmDKGfWIAlYRj2zc/m4uZn2ts/0jshaLPQk+R\
     UGSH6T2KJZnblYgJotKf+/RZdwmrvbkUJ2gLYmw3CAk2yAHewP/suO4xAhjjzjkakFLqiHhk+itBxXWPmowXHLB1ZxUPjldZTrHk\
     z1sNZs5AZfZZJzW6QNKCIKGW13fyEKay4+fKVWeI4Kocba1qM7Upa0uzzrGTXf6vrgtpt8A5mLS+ptwxPcxV3Qo6RQ5wLnz5ws7p\
     XH4Bzb8SMFeM18NiIQVBWo4VSTfVclWarK1IduJIQypjRygO4FUUXhE0H8D7b8kYPPP3NXIl40map9Gp97vvhCEBko5aOWzSqrqM\
     G8IWoPxpDMvC/aKcjztHBkklnJy1Eh9Vf6NR7Wo/MrnaOOq1/jB8nk9QYUo58W/4pEHHLzRibnvejJ2Tgu6xUzkceBDCK4XS/uAP\
     CEeUCmlSCBIegJdCJEDV8y6WwlsRsOsLZho0",
    ),
];

const CONFIGURATION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers: [{aescbc: {keys: [{name: one, secret: YWVzY2JjLWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHM=}]}}]
- resources: [configmaps]
  providers: [{aesgcm: {keys: [{name: one, secret: YWVzZ2NtLWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHM=}]}}]
- resources: [limitranges]
  providers: [{secretbox: {keys: [{name: one, secret: c2VjcmV0Ym94LTMyLWJ5dGUta2V5LWZvci10ZXN0aW4=}]}}]
- resources: [deployments.apps, '*.batch', things.example.com]
  providers: [{identity: {}}, {aescbc: {keys: [{name: two, secret: YWVzY2JjLWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHM=}]}}]
";

#[derive(Default)]
struct Counter(AtomicU8);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.0.fetch_add(1, Ordering::Relaxed));
    }
}

fn provider<'c>(configuration: &'c Configuration, key: &str) -> &'c Provider {
    let resource = key.split('/').nth(2).expect("a resource");
    configuration.providers(resource, "").first().expect("a provider")
}

#[test]
fn what_upstream_stored_is_read_and_written_alike() {
    let configuration = Configuration::parse(CONFIGURATION.as_bytes()).expect("a configuration");
    for (key, name, stored) in STORED {
        let provider = provider(&configuration, key);
        let stored = STANDARD.decode(stored).expect("base64");
        let (plain, is_first) = provider.open(key, &stored).expect("its prefix").expect("its key");
        assert!(is_first);
        assert_eq!(schema::stored::meta(&plain).expect("an object").name, name);
        let sealed = provider.seal(key, &plain.clone().into(), &Counter::default()).expect("sealed");
        assert_eq!((sealed.len(), &sealed[..22]), (stored.len(), &stored[..22]));
        assert_eq!(provider.open(key, &sealed), Some(Ok((plain, true))));
        // What was tampered with, moved (where that is noticed) or cut is no object.
        let mut spoiled = stored.clone();
        *spoiled.last_mut().expect("a byte") ^= 1;
        assert!(key.contains("secrets") || provider.open(key, &spoiled).expect("its prefix").is_err());
        assert_eq!(provider.open("/elsewhere", &stored).expect("its prefix").is_err(), key.contains("configmaps"));
        assert!(provider.open(key, &stored[..30]).expect("its prefix").is_err());
        assert_eq!(provider.open(key, b"k8s:enc:kms:v2:x"), None);
    }
}

#[test]
fn resources_find_their_providers() {
    let configuration = Configuration::parse(CONFIGURATION.as_bytes()).expect("a configuration");
    let count = |resource, group| configuration.providers(resource, group).len();
    let counts = [("secrets", ""), ("deployments", "apps"), ("jobs", "batch"), ("things", "example.com")];
    assert_eq!(counts.map(|(resource, group)| count(resource, group)), [1, 2, 2, 2]);
    for (resource, group) in [("pods", ""), ("secrets", "apps"), ("cronjobs", "batc")] {
        let plain = configuration.providers(resource, group);
        assert!(matches!(plain.first().map(|provider| &**provider), Some(Provider::Identity)), "{resource}.{group}");
        assert_eq!(plain[0].seal("/a", &Bytes::from("b"), &Counter::default()), Ok(Bytes::from("b")));
    }
}

#[test]
fn everything_wrong_is_told_but_no_secret() {
    let check = |resources: &str, why: &str| {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}");
        let found = Configuration::parse(text.as_bytes()).err();
        assert_eq!(found.as_deref(), Some(why), "{resources}");
    };
    let plain = "providers: [{identity: {}}]";
    check("[]", "resources: Required value: at least one resources is required");
    check(
        "[{}]",
        "[resources[0].resources: Required value: at least one resources[0].resources is required, resources[0].providers: Required value: at least one resources[0].providers is required]",
    );
    check(
        "[{resources: [a], providers: [{aescbc: {keys: [{name: x, secret: c2hvcnQ=}, {secret: '???'}]}}, {}, {secretbox: {}}]}]",
        "[resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32], resources[0].providers[0].aescbc.keys[1].name: Required value: name is a mandatory field for a key, resources[0].providers[0].aescbc.keys[1].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded, resources[0].providers[1]: Invalid value: []: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity, resources[0].providers[2].secretbox.keys: Required value: at least one keys is required]",
    );
    check(
        "[{resources: [secrets], providers: [{kms: {apiVersion: v2, name: vault}}]}]",
        "resources[0].providers[0].kms: Invalid value: \"vault\": KMS providers are not supported; use aesgcm, aescbc, secretbox or identity",
    );
    for (resources, why) in [
        ("[Secrets]", "[0]: Invalid value: \"Secrets\": resource name should not contain capital letters"),
        (
            "['*']",
            "[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        ),
        ("[a, a]", ": Invalid value: [\"a\",\"a\"]: the same resource cannot be specified multiple times"),
        (
            "[secrets, '*.']",
            ": Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
        ),
        ("['pods.*']", "[0]: Invalid value: \"pods.*\": encrypting the same resource across groups is not supported"),
    ] {
        check(&format!("[{{resources: {resources}, {plain}}}]"), &format!("resources[0].resources{why}"));
    }
    check(
        &format!("[{{resources: ['*.*'], {plain}}}, {{resources: [secrets], {plain}}}]"),
        "resource \"secrets\" is masked by earlier rule \"*.*\"",
    );
    let old = Configuration::parse(b"apiVersion: v1\nkind: EncryptionConfig").err();
    assert_eq!(old.as_deref(), Some("got unexpected config type: v1, Kind=EncryptionConfig"));
}
