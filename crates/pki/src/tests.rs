//! Certificates against webpki and openssl, tokens and keys against rows.

use std::{process::Command, time::Duration};

use ring::rand::SystemRandom;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;

const NOW: i64 = 1_800_000_000;

fn random() -> SystemRandom {
    SystemRandom::new()
}

fn authority() -> Authority {
    Authority::create("sampan-server-ca", NOW, &random()).unwrap()
}

#[test]
fn what_is_issued_reads_back() {
    let ca = authority();
    let names = Names::of(["localhost", "kubernetes.default", "127.0.0.1", "fd00::1"]);
    let leaf = Leaf::server("kube-apiserver", names.clone(), NOW, 365 * DAY);
    let (pem, key) = ca.issue_pair(&leaf, &random()).unwrap();
    let read = Certificate::from_pem(&pem).unwrap();
    assert_eq!(read.subject.common_name, "kube-apiserver");
    assert_eq!(read.names, names);
    assert_eq!((read.not_before, read.not_after), (NOW - 300, NOW + 365 * DAY));
    assert_eq!(read.extended_usages, [ExtendedUsage::ServerAuth]);
    assert!(!read.is_ca && ca.certificate().is_ca);
    assert!(read.is_signed_by(ca.certificate()) && !read.is_signed_by(authority().certificate()));
    assert_eq!(*KeyPair::from_pem(&key).unwrap().public(), read.public_key().unwrap());
    let loaded = Authority::from_pem(&ca.bundle_pem(), &ca.key_pem()).unwrap();
    assert_eq!(loaded.certificate().der, ca.certificate().der);
    assert_eq!(Authority::from_pem(&ca.bundle_pem(), &key).unwrap_err(), Error::Mismatch("sampan-server-ca".into()));
    // A leaf ends with its authority at the latest.
    let long = ca.issue(
        &Leaf::client("x", &[], NOW, 9_999 * DAY),
        loaded.certificate().public_key().as_ref().unwrap(),
        &random(),
    );
    assert_eq!(long.unwrap().not_after, NOW + 3650 * DAY);
}

#[test]
fn webpki_accepts_clients_and_servers_in_their_time() {
    let (ca, other) = (authority(), authority());
    let key = KeyPair::generate(&random()).unwrap();
    let client = ca.issue(&Leaf::client("u", &["g"], NOW, DAY), key.public(), &random()).unwrap();
    let server = ca.issue(&Leaf::server("s", Names::of(["a.b"]), NOW, DAY), key.public(), &random()).unwrap();
    let verify = |ca: &Authority, leaf: &Certificate, usage: KeyUsage, at: i64| {
        let anchor = CertificateDer::from(ca.certificate().der.clone());
        let anchors = [anchor_from_trusted_cert(&anchor).unwrap()];
        let der = CertificateDer::from(leaf.der.clone());
        let leaf = EndEntityCert::try_from(&der).unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at as u64));
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None).is_ok()
    };
    assert!(verify(&ca, &client, KeyUsage::client_auth(), NOW));
    assert!(verify(&ca, &server, KeyUsage::server_auth(), NOW));
    assert!(!verify(&ca, &client, KeyUsage::server_auth(), NOW));
    assert!(!verify(&ca, &client, KeyUsage::client_auth(), NOW + 2 * DAY));
    assert!(!verify(&other, &client, KeyUsage::client_auth(), NOW));
}

#[test]
fn renewal_names_its_reason() {
    let (ca, other) = (authority(), authority());
    let public = KeyPair::generate(&random()).unwrap();
    let wanted = |names: &[&str]| Leaf::server("s", Names::of(names), NOW, 365 * DAY);
    let held = ca.issue(&wanted(&["a", "1.2.3.4"]), public.public(), &random()).unwrap();
    let day = 90 * DAY;
    let check = |leaf: &Leaf, ca: &Authority, now, expected| {
        assert_eq!(renewal(&held, leaf, ca.certificate(), now, day), expected);
    };
    check(&wanted(&["a"]), &ca, NOW, None);
    check(&wanted(&["a", "b"]), &ca, NOW, Some(Renewal::Names { missing: vec!["b".into()] }));
    check(&wanted(&["1.2.3.5"]), &ca, NOW, Some(Renewal::Names { missing: vec!["1.2.3.5".into()] }));
    check(&wanted(&["a"]), &ca, NOW + 274 * DAY, None);
    check(&wanted(&["a"]), &ca, NOW + 276 * DAY, Some(Renewal::Expires { not_after: NOW + 365 * DAY }));
    check(&wanted(&["a"]), &ca, NOW - DAY, Some(Renewal::NotYetValid { not_before: NOW - 300 }));
    check(&wanted(&["a"]), &other, NOW, Some(Renewal::Authority));
    check(&Leaf::server("t", Names::default(), NOW, DAY), &ca, NOW, Some(Renewal::Subject));
}

#[test]
fn requests_carry_names_and_prove_the_key() {
    let key = KeyPair::generate(&random()).unwrap();
    let subject = Subject { common_name: "system:node:n".into(), organizations: vec!["system:nodes".into()] };
    for names in [Names::default(), Names::of(["n", "10.0.0.1"])] {
        let pem = CertificateRequest::create(&key, &subject, &names, &random()).unwrap();
        let request = CertificateRequest::from_pem(&pem).unwrap();
        assert_eq!((&request.subject, &request.names, &request.public_key), (&subject, &names, key.public()));
        let mut der = Pem::parse_all(&pem).unwrap().swap_remove(0).contents;
        let at = der.windows(6).position(|w| w == b"node:n").unwrap() + 5;
        der[at] = b'm';
        assert_eq!(CertificateRequest::from_der(&der).unwrap_err(), Error::Signature("the certificate request"));
    }
}

#[test]
fn damaged_der_is_an_error_and_never_a_panic() {
    let ca = authority();
    let key = KeyPair::generate(&random()).unwrap();
    let request = CertificateRequest::create(&key, &Subject::default(), &Names::of(["a"]), &random()).unwrap();
    let request = Pem::parse_all(&request).unwrap().swap_remove(0).contents;
    for whole in [&ca.certificate().der, &request] {
        for cut in 0..whole.len() {
            assert!(Certificate::from_der(&whole[..cut]).is_err());
            assert!(CertificateRequest::from_der(&whole[..cut]).is_err());
        }
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                let _ = Certificate::from_der(&damaged);
                let _ = CertificateRequest::from_der(&damaged);
            }
        }
    }
}

#[test]
fn openssl_agrees() {
    let dir = std::env::temp_dir().join(format!("pki-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(&dir).output();
        output.ok().map(|o| (o.status.success(), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned()))
    };
    if openssl(&["version"]).is_none() {
        return;
    }
    let ca = authority();
    let leaf = Leaf::server("s", Names::of(["a.b", "1.2.3.4"]), NOW, DAY);
    let (pem, key) = ca.issue_pair(&leaf, &random()).unwrap();
    for (file, text) in [("ca.pem", ca.bundle_pem()), ("leaf.pem", pem), ("leaf.key", key)] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let at = NOW.to_string();
    let verify =
        openssl(&["verify", "-x509_strict", "-attime", &at, "-purpose", "sslserver", "-CAfile", "ca.pem", "leaf.pem"])
            .unwrap();
    assert!(verify.0, "{}", verify.1);
    let text = openssl(&["x509", "-noout", "-text", "-in", "leaf.pem"]).unwrap().1;
    for part in [
        "Digital Signature, Key Encipherment", "TLS Web Server Authentication", "DNS:a.b, IP Address:1.2.3.4",
        "Not After : Jan 16 08:00:00 2027",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // Keys and requests that openssl makes.
    for args in [
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "k"][..],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", "k"],
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "k"],
        &["genrsa", "-traditional", "-out", "k", "2048"],
        &["genrsa", "-out", "k", "2048"],
        &["genpkey", "-algorithm", "ED25519", "-out", "k"],
    ] {
        openssl(args).unwrap();
        let key = KeyPair::from_pem(&std::fs::read_to_string(dir.join("k")).unwrap())
            .unwrap_or_else(|e| panic!("{args:?}: {e}"));
        openssl(&[
            "req", "-new", "-key", "k", "-subj", "/O=g1/O=g2/CN=u", "-addext", "subjectAltName=DNS:d,IP:::1", "-out",
            "r",
        ])
        .unwrap();
        let request = CertificateRequest::from_pem(&std::fs::read_to_string(dir.join("r")).unwrap()).unwrap();
        assert_eq!(request.public_key, *key.public());
        assert_eq!(request.subject, Subject { common_name: "u".into(), organizations: vec!["g1".into(), "g2".into()] });
        assert_eq!(request.names, Names::of(["d", "::1"]));
        // Such a key as an authority's.
        openssl(&["req", "-x509", "-new", "-key", "k", "-subj", "/CN=own", "-days", "9999", "-out", "own.pem"])
            .unwrap();
        let own = Authority::from_pem(&std::fs::read_to_string(dir.join("own.pem")).unwrap(), &key.to_pem()).unwrap();
        let (pem, _) = own.issue_pair(&leaf, &random()).unwrap();
        assert!(Certificate::from_pem(&pem).unwrap().is_signed_by(own.certificate()));
        std::fs::write(dir.join("leaf.pem"), pem).unwrap();
        let verify = openssl(&["verify", "-attime", &at, "-CAfile", "own.pem", "leaf.pem"]).unwrap();
        assert!(verify.0, "{args:?} {}", verify.1);
        if key.public().algorithm == Algorithm::Ed25519 {
            continue;
        }
        // And as a token's.
        let signer = jwt::Signer::new(key);
        let claims = jwt::Claims { iss: "i".into(), sub: "s".into(), ..Default::default() };
        let token = signer.sign(&claims, &random()).unwrap();
        let verifier = jwt::Verifier::new([signer.public().clone()], vec!["i".into()]);
        assert_eq!(verifier.verify(&token, NOW).unwrap(), claims);
        assert!(verifier.jwks()["keys"][0]["kid"].is_string());
    }
    // Keys and requests that are made here, with nothing in them.
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519] {
        let key = KeyPair::generate_as(algorithm, &random()).unwrap();
        assert_eq!(*KeyPair::from_pem(&key.to_pem()).unwrap().public(), *key.public());
        let request = CertificateRequest::create_der(&key, &Subject::default(), &Names::default(), &random()).unwrap();
        std::fs::write(dir.join("k"), key.to_pem()).unwrap();
        std::fs::write(dir.join("r"), request).unwrap();
        let public = openssl(&["pkey", "-in", "k", "-pubout"]).unwrap();
        assert!(public.0 && public.1 == key.public().to_pem(), "{algorithm:?}: {}", public.1);
        let verify = openssl(&["req", "-inform", "DER", "-in", "r", "-verify", "-noout"]).unwrap();
        assert!(verify.0 && verify.1.contains("OK"), "{algorithm:?}: {}", verify.1);
    }
    assert_eq!(KeyPair::generate_as(Algorithm::Rsa, &random()).unwrap_err(), Error::Key("RSA keys are not made here"));
    openssl(&["genrsa", "-out", "k", "3072"]).unwrap();
    let rsa = KeyPair::from_pem(&std::fs::read_to_string(dir.join("k")).unwrap()).unwrap();
    assert_eq!(rsa.public().modulus_bits(), Some(3072));
    assert_eq!(KeyPair::generate(&random()).unwrap().public().modulus_bits(), None);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn tokens_are_checked_in_every_part() {
    use jwt::*;
    let key = KeyPair::generate(&random()).unwrap();
    let old = Signer::new(KeyPair::generate(&random()).unwrap());
    let foreign = Signer::new(KeyPair::generate(&random()).unwrap());
    let signer = Signer::new(KeyPair::from_pem(&key.to_pem()).unwrap());
    let verifier = Verifier::new([key.public().clone(), old.public().clone()], vec!["https://issuer".into()]);
    let claims = Claims {
        aud: vec!["api".into()],
        exp: Some(NOW + 3607),
        iat: Some(NOW),
        nbf: Some(NOW),
        iss: "https://issuer".into(),
        jti: Some("4d7c".into()),
        sub: "system:serviceaccount:ns:sa".into(),
        kubernetes: Some(Kubernetes {
            namespace: "ns".into(),
            pod: Some(Reference { name: "p".into(), uid: "u1".into() }),
            serviceaccount: Reference { name: "sa".into(), uid: "u2".into() },
            warnafter: Some(NOW + 3607),
            ..Default::default()
        }),
        ..Default::default()
    };
    let token = signer.sign(&claims, &random()).unwrap();
    assert_eq!(verifier.verify(&token, NOW).unwrap(), claims);
    assert_eq!(verifier.verify(&old.sign(&claims, &random()).unwrap(), NOW).unwrap(), claims);
    let rejected = |token: &str, now, why| assert_eq!(verifier.verify(token, now).unwrap_err(), why, "{token}");
    rejected(&token, NOW - 61, Rejection::NotYetValid);
    rejected(&token, NOW + 3668, Rejection::Expired);
    rejected(&foreign.sign(&claims, &random()).unwrap(), NOW, Rejection::Signature);
    rejected(
        &signer.sign(&Claims { iss: "https://other".into(), ..claims.clone() }, &random()).unwrap(),
        NOW,
        Rejection::Foreign,
    );
    let parts: Vec<&str> = token.split('.').collect();
    let body = |claims: &Claims| {
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, serde_json::to_vec(claims).unwrap())
    };
    let forged = body(&Claims { sub: "system:serviceaccount:kube-system:root".into(), ..claims.clone() });
    rejected(&format!("{}.{forged}.{}", parts[0], parts[2]), NOW, Rejection::Signature);
    let none = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, br#"{"alg":"none"}"#);
    rejected(&format!("{none}.{}.", parts[1]), NOW, Rejection::Signature);
    for text in ["", "abc", "a.b", "a.b.c", "..", "abcdef.0123456789abcdef"] {
        rejected(text, NOW, Rejection::Foreign);
    }
    let jwks = verifier.jwks();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    assert_eq!((&jwks["keys"][0]["alg"], &jwks["keys"][0]["crv"]), (&"ES256".into(), &"P-256".into()));
    assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
    assert_eq!(jwks["keys"][0]["y"].as_str().unwrap().len(), 43);
}

#[test]
fn join_tokens() {
    let pem = authority().bundle_pem();
    let hash = ca_hash(&pem).unwrap();
    let password =
        |user: Option<&str>, secret: &str| Credential::Password { user: user.map(Into::into), secret: secret.into() };
    let bootstrap = Credential::Bootstrap { id: "abcdef".into(), secret: "0123456789abcdef".into() };
    let full = JoinToken::full(&pem, "server", "s3:cret").unwrap();
    let rows = [
        (full.clone(), Some(&hash), password(Some("server"), "s3:cret")),
        (format!("K10{hash}::node:x"), Some(&hash), password(Some("node"), "x")),
        (format!("K10{hash}::abcdef.0123456789abcdef\n"), Some(&hash), bootstrap.clone()),
        ("K10:::x".into(), None, password(None, "x")),
        ("abcdef.0123456789abcdef".into(), None, bootstrap),
        ("simple".into(), None, password(None, "simple")),
        ("with:colon".into(), None, password(None, "with:colon")),
    ];
    for (text, hash, credential) in rows {
        assert_eq!(JoinToken::parse(&text).unwrap(), JoinToken { ca_hash: hash.cloned(), credential }, "{text}");
    }
    for bad in [
        "",
        "  ",
        "K10",
        "K10abc::server:x",
        &format!("K10{hash}::"),
        &format!("K10{hash}::x"),
        &format!("K10{hash}::x:"),
    ] {
        assert!(JoinToken::parse(bad).is_err(), "{bad}");
    }
    let token = JoinToken::parse(&full).unwrap();
    assert!(token.pin(&pem).is_ok());
    assert!(matches!(token.pin(&authority().bundle_pem()), Err(Error::CaHash { .. })));
    assert!(JoinToken::parse("x").unwrap().pin(&pem).is_ok());
    assert!(same_secret("a", "a") && !same_secret("a", "b") && !same_secret("a", "aa"));
}

#[test]
fn times_around_2050_and_leap_days() {
    for (seconds, text) in [
        (0, "700101000000Z"),
        (951_782_400, "000229000000Z"),
        (1_800_000_000, "270115080000Z"),
        (2_524_607_999, "491231235959Z"),
        (2_524_608_000, "20500101000000Z"),
        (4_107_542_400, "21000301000000Z"),
    ] {
        let der = der::time(seconds);
        assert_eq!(std::str::from_utf8(&der[2..]).unwrap(), text);
        assert_eq!(der::Reader(&der).time(), Some(seconds));
    }
}

#[test]
fn kubeconfig_is_what_kubectl_reads() {
    let user = kubeconfig::User::Token("tok");
    let text = kubeconfig::render("default", "https://127.0.0.1:6443", "CA", &user);
    assert_eq!(
        text,
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    certificate-authority-data: Q0E=\n    \
         server: https://127.0.0.1:6443\nusers:\n- name: default\n  user:\n    token: tok\ncontexts:\n- name: default\n  \
         context:\n    cluster: default\n    user: default\ncurrent-context: default\npreferences: {}\n"
    );
    assert!(kubeconfig::render("y: 1", "x", "", &user).contains("name: \"y: 1\"\n"));
}
