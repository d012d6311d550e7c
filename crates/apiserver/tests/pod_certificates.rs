//! PodCertificateRequests: what may be asked for, and what a signer may answer.

use apiserver::User;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use pki::{Algorithm, Authority, CertificateRequest, KeyPair, Leaf, Names, Subject, SystemRandom};
use schema::Value;
use serde_json::{Value as Json, json};

use crate::cluster::cluster;
use crate::harness::{Fixture, Reply};

const NOW: i64 = 1_800_000_000;
const PATH: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";

fn stub(key: &KeyPair) -> Vec<u8> {
    CertificateRequest::create_der(key, &Subject::default(), &Names::default(), &SystemRandom::new()).unwrap()
}

fn body(name: &str, changes: &[(&str, Json)]) -> String {
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let mut body = json!({"metadata": {"name": name}, "spec": {
        "signerName": "example.com/signer", "podName": "p", "podUID": "u1", "serviceAccountName": "sa",
        "serviceAccountUID": "u2", "nodeName": "n", "nodeUID": "u3", "stubPKCS10Request": STANDARD.encode(stub(&key)),
    }});
    for (field, value) in changes {
        body["spec"][*field] = value.clone();
    }
    body.to_string()
}

#[tokio::test]
async fn what_may_be_asked_for() {
    let f = cluster().await;
    let random = SystemRandom::new();
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519] {
        let key = KeyPair::generate_as(algorithm, &random).unwrap();
        let request = body(
            &format!("{algorithm:?}").to_lowercase(),
            &[("stubPKCS10Request", STANDARD.encode(stub(&key)).into())],
        );
        f.post(PATH, &request).await.is(201).has(&[("/spec/maxExpirationSeconds", "86400"), ("/status", "{}")]);
    }
    let damaged = {
        let mut request = stub(&KeyPair::generate(&random).unwrap());
        let last = request.len() - 1;
        request[last] ^= 1;
        STANDARD.encode(request)
    };
    let days = |days: i64| json!(days * 86_400);
    for (field, value, message) in [
        ("signerName", json!("signer"), "of the form 'example.com/signer-name'"),
        ("signerName", json!("com/signer"), "a domain with at least two segments"),
        ("signerName", json!("example.com/a..b"), "validating label \"\""),
        ("signerName", json!("a.kubernetes.io/x"), ""),
        ("podName", json!(""), "spec.podName: Invalid value"),
        ("podUID", json!(""), "spec.podUID: Invalid value: \"\": must not be empty"),
        ("nodeUID", json!("u".repeat(129)), "spec.nodeUID: Too long: may not be more than 128 bytes"),
        ("maxExpirationSeconds", json!(3599), "must be in the range [3600, 7862400]"),
        ("maxExpirationSeconds", days(91), ""),
        ("maxExpirationSeconds", days(92), "must be in the range [3600, 7862400]"),
        ("unverifiedUserAnnotations", json!({"a.b/c": "d"}), ""),
        ("unverifiedUserAnnotations", json!({"c": "d"}), "spec.unverifiedUserAnnotations: Invalid value"),
        ("stubPKCS10Request", json!(""), "spec: Invalid value: exactly one of (stubPKCS10Request) or"),
        ("stubPKCS10Request", json!("AAAA"), "must be a valid PKCS#10 CSR"),
        ("stubPKCS10Request", json!("A".repeat(20_000)), "Too long: may not be more than 10240 bytes"),
        ("stubPKCS10Request", json!(damaged), "invalid signature"),
    ] {
        let answer = f.post(PATH, &body("r", &[(field, value.clone())])).await;
        match message {
            "" => {
                answer.is(201);
                f.delete(&format!("{PATH}/r")).await.is(200);
            }
            message => {
                let answer = answer.is(422);
                assert!(
                    answer.text().contains(&message.replace('"', "\\\"")),
                    "{field} {value}: {}",
                    answer.at("/message")
                );
            }
        }
    }
    let seconds = [("signerName", json!("a.kubernetes.io/x")), ("maxExpirationSeconds", days(2))];
    let answer = f.post(PATH, &body("r", &seconds)).await.is(422);
    assert!(answer.text().contains("must be in the range [3600, 86400]"), "{}", answer.text());
    // Of a request nothing but metadata changes.
    let mut known = f.get(&format!("{PATH}/p256")).await.is(200).json();
    known.set(&["metadata", "labels", "a"], "b");
    f.put(&format!("{PATH}/p256"), &known.to_string()).await.is(200).has(&[("/metadata/labels/a", "b")]);
    let mut known = f.get(&format!("{PATH}/p256")).await.is(200).json();
    known.set(&["spec", "podName"], "q");
    let answer = f.put(&format!("{PATH}/p256"), &known.to_string()).await.is(422);
    assert!(answer.text().contains("spec: Invalid value"), "{}", answer.text());
}

#[tokio::test]
async fn what_a_pod_may_show() {
    let f = cluster().await;
    f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}").await.is(201);
    let pod = |source: Json, other: Json| {
        let volume = json!({"name": "v", "projected": {"sources": [{"podCertificate": source}, other]}});
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": [volume]});
        json!({"metadata": {"name": "p"}, "spec": spec}).to_string()
    };
    let token = json!({"serviceAccountToken": {"path": "token"}});
    let good =
        json!({"signerName": "example.com/s", "keyType": "ED25519", "keyPath": "key", "certificateChainPath": "chain"});
    for (field, value, message) in [
        ("signerName", json!("s"), "podCertificate.signerName: Invalid value: \"s\": must be a fully qualified"),
        ("keyType", json!("RSA2048"), "podCertificate.keyType: Unsupported value: \"RSA2048\""),
        ("maxExpirationSeconds", json!(3599), "if provided, maxExpirationSeconds must be >= 3600"),
        ("maxExpirationSeconds", json!(7_862_401), "if provided, maxExpirationSeconds must be <= 7862400"),
        ("credentialBundlePath", json!("/a"), "must be a relative path"),
        ("credentialBundlePath", json!("a/../b"), "must not contain '..'"),
        ("certificateChainPath", json!("key"), "Invalid value: \"key\": conflicting duplicate paths"),
        ("user", json!(-1), "must be between 0 and 2147483647, inclusive"),
    ] {
        let mut source = good.clone();
        source[field] = value;
        let answer = f.post("/api/v1/namespaces/default/pods", &pod(source, token.clone())).await.is(422);
        assert!(answer.at("/message").contains(message), "{message}: {}", answer.at("/message"));
    }
    let none = json!({"signerName": "example.com/s", "keyType": "ED25519"});
    let answer = f.post("/api/v1/namespaces/default/pods", &pod(none, token.clone())).await.is(422);
    assert!(
        answer.at("/message").contains("specify at least one of credentialBundlePath"),
        "{}",
        answer.at("/message")
    );
    let two = json!({"serviceAccountToken": {"path": "token"}, "configMap": {"name": "m"}});
    let answer = f.post("/api/v1/namespaces/default/pods", &pod(good.clone(), two)).await.is(422);
    assert!(
        answer.at("/message").contains("sources[1]: Forbidden: may not specify more than 1"),
        "{}",
        answer.at("/message")
    );
    f.post("/api/v1/namespaces/default/pods", &pod(good, token)).await.is(201);
}

struct Signer {
    f: Fixture,
    authority: Authority,
    key: KeyPair,
}

impl Signer {
    async fn new() -> Signer {
        let random = SystemRandom::new();
        let f = cluster().await;
        let role = "{metadata: {name: NAME}, rules: [{apiGroups: [\"certificates.k8s.io\"], resources: RESOURCES}]}";
        for (name, resources) in [
            ("answer", "[\"podcertificaterequests/status\"], verbs: [update]"),
            ("sign", "[signers], resourceNames: [\"example.com/*\"], verbs: [sign]"),
        ] {
            let role = role.replace("NAME", name).replace("RESOURCES", resources);
            f.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.is(201);
        }
        let signer = Signer {
            f,
            authority: Authority::create("signer", NOW, &random).unwrap(),
            key: KeyPair::generate_as(Algorithm::Ed25519, &random).unwrap(),
        };
        signer.bind("answer").await;
        signer
    }

    async fn bind(&self, role: &str) {
        let binding = format!(
            "{{metadata: {{name: {role}}}, roleRef: {{apiGroup: \"rbac.authorization.k8s.io\", kind: ClusterRole, name: {role}}}, \
             subjects: [{{apiGroup: \"rbac.authorization.k8s.io\", kind: User, name: signer}}]}}"
        );
        self.f.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.is(201);
    }

    async fn ask(&self, name: &str) {
        let request = STANDARD.encode(stub(&self.key));
        let fields = [("stubPKCS10Request", request.into()), ("maxExpirationSeconds", json!(7200))];
        self.f.post(PATH, &body(name, &fields)).await.is(201);
    }

    /// A chain for `seconds` from now on.
    fn chain(&self, key: &KeyPair, seconds: i64) -> String {
        // What is issued begins five minutes before it is made.
        let leaf = Leaf { not_before: NOW, ..Leaf::client("p", &[], NOW + 300, seconds) };
        let issued = self.authority.issue(&leaf, key.public(), &SystemRandom::new()).unwrap();
        self.authority.with_chain(&issued)
    }

    fn issued(&self, seconds: i64) -> Value {
        let time = schema::time::format;
        Value::object([
            ("certificateChain", self.chain(&self.key, seconds).into()),
            ("notBefore", time(NOW).into()),
            ("beginRefreshAt", time(NOW + 1800).into()),
            ("notAfter", time(NOW + 300 + seconds).into()),
            ("conditions", Value::List(vec![condition("Issued")])),
        ])
    }

    async fn answer(&self, name: &str, status: Value) -> Reply {
        let mut request = self.f.get(&format!("{PATH}/{name}")).await.is(200).json();
        request.set(&["status"], status);
        request.set(&["metadata", "labels", "not"], "mine");
        let user = User::new("signer", &[]);
        self.f.as_user(user, Method::PUT, &format!("{PATH}/{name}/status"), &request.to_string()).await
    }
}

fn condition(kind: &str) -> Value {
    Value::object([
        ("type", kind.into()),
        ("status", "True".into()),
        ("reason", "Because".into()),
        ("message", "why".into()),
        ("lastTransitionTime", schema::time::format(NOW).into()),
    ])
}

#[tokio::test]
async fn what_a_signer_may_answer() {
    let s = Signer::new().await;
    s.ask("r").await;
    let status = s.issued(3600);
    let answer = s.answer("r", status.clone()).await.is(422);
    let why = "spec.signerName: Forbidden: User \\\"signer\\\" is not permitted to \\\"sign\\\" for signer";
    assert!(answer.text().contains(why), "{}", answer.text());
    s.bind("sign").await;
    let other = KeyPair::generate(&SystemRandom::new()).unwrap();
    let time = |seconds: i64| schema::time::format(NOW + seconds);
    let changed = |field: &str, value: Value| {
        let mut status = status.clone();
        status.set(&[field], value);
        status
    };
    let with = |field: &str, value: Value| {
        let mut condition = condition("Issued");
        condition.set(&[field], value);
        changed("conditions", Value::List(vec![condition]))
    };
    let both = Value::List(vec![condition("Issued"), condition("Denied")]);
    for (status, message) in [
        (with("type", "Approved".into()), "status.conditions[0].type: Unsupported value"),
        (with("status", "False".into()), "status.conditions[0].status: Unsupported value"),
        (with("reason", "no words".into()), "status.conditions[0].reason: Invalid value"),
        (with("reason", "".into()), "status.conditions[0].reason: Required value"),
        (with("lastTransitionTime", Value::Null), "status.conditions[0].lastTransitionTime: Required value"),
        (changed("conditions", both), "There may be at most one condition"),
        (changed("conditions", Value::List(Vec::new())), "status is immutable unless transitioning"),
        (changed("conditions", Value::List(vec![condition("Denied")])), "non-condition status fields must be empty"),
        (changed("certificateChain", "".into()), "must contain at least one certificate"),
        (
            changed("certificateChain", s.key.public().to_pem().into()),
            "must consist entirely of CERTIFICATE PEM blocks",
        ),
        (changed("certificateChain", pki::Pem::encode("CERTIFICATE", b"x").into()), "does not parse as valid X.509"),
        (changed("certificateChain", s.chain(&other, 3600).into()), "not issued to the requested public key"),
        (changed("notBefore", Value::Null), "status.notBefore: Required value"),
        (changed("notBefore", time(1).into()), "must be set to the NotBefore time encoded"),
        (changed("notAfter", time(1).into()), "must be set to the NotAfter time encoded"),
        (changed("beginRefreshAt", time(599).into()), "at least 10 minutes after status.notBefore"),
        (changed("beginRefreshAt", time(3400).into()), "at least 10 minutes before status.notAfter"),
        (s.issued(3200), "leaf certificate lifetime must be >= 1 hour"),
        (s.issued(7200), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (7200)"),
    ] {
        let answer = s.answer("r", status).await.is(422);
        assert!(answer.at("/message").contains(message), "{message}: {}", answer.at("/message"));
    }
    let answer = s.answer("r", status.clone()).await.is(200);
    // A status says nothing of the rest.
    answer.has(&[("/status/conditions/0/type", "Issued"), ("/metadata/labels", "-")]);
    let answer = s.answer("r", Value::object([("conditions", Value::List(vec![condition("Denied")]))])).await.is(422);
    assert!(answer.text().contains("immutable after PodCertificateRequest is issued"), "{}", answer.text());
    s.answer("r", status).await.is(200);
    for kind in ["Denied", "Failed"] {
        s.ask(&kind.to_lowercase()).await;
        let status = Value::object([("conditions", Value::List(vec![condition(kind)]))]);
        s.answer(&kind.to_lowercase(), status).await.is(200);
    }
}
