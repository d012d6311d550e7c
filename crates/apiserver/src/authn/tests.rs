//! Credentials good and bad, against a small cluster.

use std::sync::Arc;

use http::HeaderValue;
use pki::jwt::{Claims, Kubernetes, Reference, Signer, Verifier};
use pki::{Authority, KeyPair, Leaf, SystemRandom};
use serde_json::json;

use super::*;
use crate::view::fake::{Fake, value};
use crate::view::{NODES, PODS, SERVICE_ACCOUNTS};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc";

struct Rig {
    view: Fake,
    authenticator: Authenticator,
    clients: Authority,
    proxies: Authority,
    signer: Signer,
}

fn rig() -> Rig {
    let random = SystemRandom::new();
    let clients = Authority::create("client-ca", NOW, &random).unwrap();
    let proxies = Authority::create("request-header-ca", NOW, &random).unwrap();
    let signer = Signer::new(KeyPair::generate(&random).unwrap());
    let authenticator = Authenticator::new(Setup {
        client_ca_pem: clients.bundle_pem(),
        request_header_ca_pem: proxies.bundle_pem(),
        request_header_names: vec!["system:auth-proxy".into()],
        request_headers: RequestHeaders::default(),
        verifier: Verifier::new([signer.public().clone()], vec![ISSUER.into()]),
        audiences: vec![ISSUER.into(), "k3s".into()],
        static_tokens: HashMap::from([("static-token".into(), User::new("static", &["g"]))]),
        bootstrap_tokens: true,
        issuers: Vec::new(),
        webhook: None,
    })
    .unwrap();
    let view = Fake::default();
    let named = |namespace: &str, name: &str, uid: &str| {
        value(json!({"metadata": {"namespace": namespace, "name": name, "uid": uid}}))
    };
    view.put(SERVICE_ACCOUNTS, named("ns", "sa", "sa-uid"));
    view.put(PODS, named("ns", "p", "pod-uid"));
    view.put(NODES, value(json!({"metadata": {"name": "n", "uid": "node-uid"}})));
    Rig { view, authenticator, clients, proxies, signer }
}

impl Rig {
    fn try_headers(&self, headers: &[(&'static str, &str)], peer: &Peer, now: i64) -> Result<Option<User>, Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        self.authenticator.decide(&self.view, &map, peer, now)
    }

    fn bearer(&self, token: &str) -> Result<Option<User>, Refused> {
        self.try_headers(&[("authorization", &format!("Bearer {token}"))], &Peer::default(), NOW)
    }

    fn token(&self, change: impl FnOnce(&mut Claims)) -> String {
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        let mut claims = Claims {
            aud: vec![ISSUER.into()],
            iss: ISSUER.into(),
            sub: "system:serviceaccount:ns:sa".into(),
            jti: Some("id".into()),
            exp: Some(NOW + 3600),
            iat: Some(NOW),
            nbf: Some(NOW),
            kubernetes: Some(Kubernetes {
                namespace: "ns".into(),
                serviceaccount: reference("sa", "sa-uid"),
                pod: Some(reference("p", "pod-uid")),
                node: Some(reference("n", "node-uid")),
                ..Kubernetes::default()
            }),
            ..Claims::default()
        };
        change(&mut claims);
        self.signer.sign(&claims, &SystemRandom::new()).unwrap()
    }
}

fn peer(authority: &Authority, leaf: &Leaf) -> Peer {
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let certificate = authority.issue(leaf, key.public(), &SystemRandom::new()).unwrap();
    Peer { address: None, certificates: Arc::new(vec![certificate.der]) }
}

#[test]
fn certificates() {
    let rig = rig();
    let leaf = Leaf::client("anna", &["dev", "ops"], NOW, 3600);
    let good = peer(&rig.clients, &leaf);
    for _ in 0..2 {
        let user = rig.try_headers(&[], &good, NOW).unwrap().unwrap();
        assert_eq!((user.name.as_str(), &user.groups[..]), ("anna", &["dev".into(), "ops".to_owned()][..]));
        assert!(user.extra[service_accounts::CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }
    let strangers = Authority::create("client-ca", NOW, &SystemRandom::new()).unwrap();
    let foreign = peer(&strangers, &leaf);
    let server = peer(&rig.clients, &Leaf::server("anna", pki::Names::default(), NOW, 3600));
    let later = peer(&rig.clients, &Leaf { not_before: NOW + 1, ..leaf });
    for (what, peer, now) in
        [("foreign", &foreign, NOW), ("expired", &good, NOW + 3601), ("early", &later, NOW), ("serving", &server, NOW)]
    {
        assert!(rig.try_headers(&[], peer, now).is_err(), "{what}");
    }
    // A token beside a certificate that is not ours.
    let token = format!("Bearer {}", rig.token(|_| {}));
    let user = rig.try_headers(&[("authorization", &token)], &foreign, NOW).unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:ns:sa");
    assert_eq!(rig.try_headers(&[], &Peer::default(), NOW).unwrap(), None);
}

#[test]
fn front_proxies() {
    let rig = rig();
    let proxy = peer(&rig.proxies, &Leaf::client("system:auth-proxy", &[], NOW, 3600));
    let headers = [
        ("x-remote-user", "anna"),
        ("x-remote-group", "a"),
        ("x-remote-group", "b"),
        ("x-remote-extra-example.com%2fscope", "s"),
    ];
    let user = rig.try_headers(&headers, &proxy, NOW).unwrap().unwrap();
    assert_eq!(
        (user.name.as_str(), user.groups.join(","), &user.extra["example.com/scope"][0]),
        ("anna", "a,b".into(), &"s".to_owned())
    );
    // A client may not say who it is, nor may another certificate of the proxies' authority.
    let client = peer(&rig.clients, &Leaf::client("bert", &[], NOW, 3600));
    assert_eq!(rig.try_headers(&headers, &client, NOW).unwrap().unwrap().name, "bert");
    let other = peer(&rig.proxies, &Leaf::client("other", &[], NOW, 3600));
    assert!(rig.try_headers(&headers, &other, NOW).is_err());
    assert_eq!(rig.try_headers(&headers, &Peer::default(), NOW).unwrap(), None);
}

#[test]
fn service_account_tokens() {
    let rig = rig();
    let user = rig.bearer(&rig.token(|_| {})).unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:ns:sa", "sa-uid"));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
    let extra: Vec<String> = user.extra.iter().map(|(k, v)| format!("{}={}", &k[29..], v[0])).collect();
    assert_eq!(extra, ["credential-id=JTI=id", "node-name=n", "node-uid=node-uid", "pod-name=p", "pod-uid=pod-uid"]);
    let bound = |change: fn(&mut Kubernetes)| rig.token(|c| change(c.kubernetes.as_mut().unwrap()));
    let stranger = Signer::new(KeyPair::generate(&SystemRandom::new()).unwrap());
    let forged = stranger.sign(&Claims { iss: ISSUER.into(), ..Claims::default() }, &SystemRandom::new()).unwrap();
    for (what, token) in [
        ("expired", rig.token(|c| c.exp = Some(NOW - 61))),
        ("not yet valid", rig.token(|c| c.nbf = Some(NOW + 61))),
        ("for others", rig.token(|c| c.aud = vec!["vault".into()])),
        ("another issuer", rig.token(|c| c.iss = "https://other".into())),
        ("another pod", bound(|k| k.pod.as_mut().unwrap().uid = "old".into())),
        ("no such pod", bound(|k| k.pod.as_mut().unwrap().name = "gone".into())),
        ("another account", bound(|k| k.serviceaccount.uid = "old".into())),
        ("no such secret", bound(|k| k.secret = Some(Reference::default()))),
        (
            "no such node",
            bound(|k| {
                k.pod = None;
                k.node.as_mut().unwrap().uid = "old".into();
            }),
        ),
        ("no claim", rig.token(|c| c.kubernetes = None)),
        ("forged", forged),
        ("nonsense", "nonsense".into()),
    ] {
        assert!(rig.bearer(&token).is_err(), "{what}");
    }
    // A remembered signature does not keep a token alive.
    let token = rig.token(|_| {});
    assert!(rig.bearer(&token).is_ok());
    rig.view.delete(PODS, "ns", "p");
    assert!(rig.bearer(&token).is_err());
    // Audiences of a review.
    let token = bound(|k| k.pod = None);
    let audiences = |wanted: &[&str]| {
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        rig.authenticator
            .token(
                &rig.view,
                &token,
                if wanted.is_empty() { rig.authenticator.accounts.audiences() } else { &wanted },
                NOW,
            )
            .ok()
            .flatten()
            .map(|(_, good)| good)
    };
    assert_eq!(audiences(&["x", ISSUER]), Some(vec![ISSUER.to_owned()]));
    assert_eq!(audiences(&["x"]), None);
    assert_eq!(audiences(&[]), Some(vec![ISSUER.to_owned()]));
}

#[test]
fn static_tokens() {
    let rig = rig();
    assert_eq!(rig.bearer("static-token").unwrap().unwrap().name, "static");
    let protocol = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c3RhdGljLXRva2Vu";
    let user = |protocol, upgrade| {
        rig.try_headers(&[("sec-websocket-protocol", protocol), ("upgrade", upgrade)], &Peer::default(), NOW)
    };
    assert_eq!(user(protocol, "websocket").unwrap().unwrap().name, "static");
    let (_, alone) = protocol.split_once(' ').unwrap();
    for (protocol, upgrade) in [(alone, "websocket"), (protocol, "SPDY/3.1")] {
        assert!(user(protocol, upgrade).unwrap().is_none(), "{protocol} {upgrade}");
    }
    for (given, left) in [(protocol, Some("v4.channel.k8s.io")), (alone, None), ("a, b", Some("a, b"))] {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer x".parse().unwrap());
        headers.insert("sec-websocket-protocol", given.parse().unwrap());
        remove_credentials(&mut headers);
        assert_eq!(headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap()), left);
        assert!(!headers.contains_key("authorization"));
    }
}

#[test]
fn bootstrap_tokens() {
    let rig = rig();
    let put = |change: fn(&mut serde_json::Value)| {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": "2027-01-15T09:00:00Z", "auth-extra-groups": "system:bootstrappers:worker",
        });
        change(&mut data);
        for field in data.as_object_mut().unwrap().values_mut() {
            *field = STANDARD.encode(field.as_str().unwrap()).into();
        }
        let metadata = json!({"namespace": "kube-system", "name": "bootstrap-token-abcdef"});
        rig.view
            .put(SECRETS, value(json!({"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data})));
    };
    let token = "abcdef.0123456789abcdef";
    assert!(rig.bearer(token).is_err());
    put(|_| {});
    let user = rig.bearer(token).unwrap().unwrap();
    assert_eq!(user, User::new("system:bootstrap:abcdef", &["system:bootstrappers", "system:bootstrappers:worker"]));
    assert!(rig.bearer("abcdef.0123456789abcdee").is_err());
    let changes: [fn(&mut serde_json::Value); 4] = [
        |d| d["expiration"] = "2027-01-15T07:00:00Z".into(),
        |d| d["usage-bootstrap-authentication"] = "false".into(),
        |d| d["auth-extra-groups"] = "system:masters".into(),
        |d| d["token-id"] = "other0".into(),
    ];
    for (row, change) in changes.into_iter().enumerate() {
        put(change);
        assert!(rig.bearer(token).is_err(), "{row}");
    }
}

#[test]
fn issued_tokens_carry_what_they_are_bound_to() {
    let rig = rig();
    let issuer = issue::TokenIssuer::new(
        Signer::new(KeyPair::generate(&SystemRandom::new()).unwrap()),
        ISSUER,
        vec![ISSUER.into()],
    );
    let account = value(json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "sa-uid"}}));
    let pod = value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "pod-uid"}, "spec": {"nodeName": "n"}}));
    let claims = |spec: serde_json::Value, bound: Option<&Value>| {
        let mut request = value(json!({"spec": spec}));
        serde_json::to_value(issuer.claims(&rig.view, &account, bound, &mut request, NOW)).unwrap()
    };
    let of_pod = claims(json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "name": "p"}}), Some(&pod));
    assert_eq!(
        of_pod,
        json!({
            "aud": [ISSUER], "exp": NOW + 31_536_000, "iat": NOW, "nbf": NOW, "iss": ISSUER, "sub": "system:serviceaccount:ns:sa",
            "kubernetes.io": {
                "namespace": "ns", "node": {"name": "n", "uid": "node-uid"}, "pod": {"name": "p", "uid": "pod-uid"},
                "serviceaccount": {"name": "sa", "uid": "sa-uid"}, "warnafter": NOW + 3607,
            },
        })
    );
    let plain = claims(json!({"expirationSeconds": 600, "audiences": ["vault"]}), None);
    assert_eq!((&plain["aud"], &plain["exp"]), (&json!(["vault"]), &json!(NOW + 600)));
    assert_eq!(plain["kubernetes.io"]["pod"], json!(null));
}
