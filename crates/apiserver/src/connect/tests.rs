use super::*;

#[test]
fn names_with_ports() {
    for (text, want) in [
        ("a", Some(("http", "a", ""))),
        ("a:80", Some(("http", "a", "80"))),
        ("https:a:443", Some(("https", "a", "443"))),
        (":a:web", Some(("http", "a", "web"))),
        ("ftp:a:1", None),
    ] {
        assert_eq!(split(text, "service").ok(), want, "{text}");
    }
}
