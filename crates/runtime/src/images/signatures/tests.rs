use super::*;

#[test]
fn scopes_from_the_narrowest() {
    let policy =
        br#"{"default":[{"type":"reject"}],"transports":{"docker":{"r.example":[{"type":"insecureAcceptAnything"}],
        "r.example/team/app":[{"type":"reject"}],"r.example/team/app:good":[{"type":"insecureAcceptAnything"}],
        "*.wild.example":[{"type":"insecureAcceptAnything"}]},"atomic":{"":[{"type":"insecureAcceptAnything"}]}}}"#;
    let policy = Policy::parse(policy).unwrap();
    for (name, accepted) in [
        ("r.example/a", true),
        ("r.example/team/other:1", true),
        ("r.example/team/app", false),
        ("r.example/team/app/deep", false),
        ("r.example/team/app:good", true),
        ("a.b.wild.example/x", true),
        ("wild.example/x", false),
        ("busybox", false),
    ] {
        assert_eq!(policy.accepts(&Reference::parse(name).unwrap()), accepted, "{name}");
    }
    assert!(Policy::default().accepts(&Reference::parse("busybox").unwrap()));
    for bad in [
        "{}",
        r#"{"default":[]}"#,
        r#"{"default":[{"type":"signedBy","keyType":"GPGKeys"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/nowhere"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyData":"AAAA"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","fulcio":{}}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyData":"AAAA","signedIdentity":{"type":"remapIdentity"}}]}"#,
    ] {
        assert!(Policy::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}
