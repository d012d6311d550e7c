//! URLs, proxies and challenges; what goes over sockets is tested in `tests/images`.

use http::Uri;

use super::*;
use crate::images::registry::auth::{Challenge, parse};

#[test]
fn locations_are_joined() {
    let base: Uri = "https://r.example:5000/v2/a/blobs/x?y=1".parse().unwrap();
    let cases = [
        ("https://cdn.example/z?sig=a%2Fb", "https://cdn.example/z?sig=a%2Fb"),
        ("/other", "https://r.example:5000/other"),
        ("//cdn.example/z", "https://cdn.example/z"),
        ("next", "https://r.example:5000/v2/a/blobs/next"),
    ];
    for (location, want) in cases {
        assert_eq!(join(&base, location).unwrap().to_string(), want);
    }
}

#[test]
fn no_proxy_has_hosts_domains_and_networks() {
    let origin = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
    let rules: Vec<String> =
        ["internal", ".corp.example", "10.0.0.0/8", "192.168.1.1", "port.example:5000", "fd00::/8"]
            .map(String::from)
            .into();
    let cases = [
        ("http://internal/", true),
        ("http://a.internal/", true),
        ("http://x.corp.example:5000/", true),
        ("http://corp.example/", true),
        ("http://notcorp.example/", false),
        ("http://10.1.2.3:5000/", true),
        ("http://11.1.2.3/", false),
        ("http://192.168.1.1/", true),
        ("http://192.168.1.10/", false),
        ("http://port.example:5000/", true),
        ("http://port.example/", false),
        ("http://[fd00::1]/", true),
        ("http://[fe00::1]/", false),
        ("http://127.0.0.1:5000/", true),
        ("http://localhost/", true),
    ];
    for (url, want) in cases {
        assert_eq!(bypassed(&rules, &origin(url)), want, "{url}");
    }
    let proxy = Proxy::parse("http://us%40er:pa%3Ass@proxy.example:3128").unwrap();
    assert_eq!(proxy.origin.authority(), "proxy.example:3128");
    assert_eq!(proxy.authorization.as_deref(), Some("Basic dXNAZXI6cGE6c3M="));
}

#[test]
fn challenges_are_parsed() {
    let bearer = |realm: &str, service: &str, scope: Option<&str>| {
        Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.map(str::to_owned) })
    };
    let cases = [
        (
            r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
            bearer("https://a/t", "s", Some("repository:x:pull,push")),
        ),
        (r#"bearer realm=https://a/t, service=s"#, bearer("https://a/t", "s", None)),
        (r#"Bearer realm="https://a/t", error="invalid_token""#, bearer("https://a/t", "", None)),
        (r#"Basic realm="x""#, Some(Challenge::Basic)),
        ("Basic", Some(Challenge::Basic)),
        (r#"Bearer service="s""#, None),
        (r#"Bearer realm="unclosed"#, None),
        ("Negotiate", None),
        ("", None),
    ];
    for (header, want) in cases {
        assert_eq!(parse(header), want, "{header}");
    }
}
