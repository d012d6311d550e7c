use pki::{Certificate, KeyPair, Names, Subject};

use super::*;

const NOW: i64 = 1_767_225_600;

#[track_caller]
fn check(demand: Demand, subject: (&str, &str), names: &[&str], usages: &[&str], seconds: Option<i32>) -> String {
    let random = SystemRandom::new();
    let authority = Authority::create("ca", NOW, &random).unwrap();
    let key = KeyPair::generate(&random).unwrap();
    let subject = Subject { common_name: subject.0.into(), organizations: vec![subject.1.into()] };
    let mut asked = CertificateSigningRequest::default();
    let request = CertificateRequest::create(&key, &subject, &Names::of(names), &random).unwrap();
    asked.spec.request = request.into_bytes();
    asked.spec.usages = usages.iter().map(|usage| (*usage).to_owned()).collect();
    asked.spec.expiration_seconds = seconds;
    match sign(&authority, demand, &asked, NOW) {
        Ok(pem) => {
            let made = Certificate::from_pem(&pem).unwrap();
            assert_eq!(made.subject, subject);
            assert_eq!(made.names, Names::of(names));
            assert_eq!(made.public_key().unwrap(), *key.public());
            format!("{} to {}", made.not_before - NOW, made.not_after - NOW)
        }
        Err(why) => why,
    }
}

#[test]
fn signers_give_what_was_asked_or_say_why_not() {
    let node = ("system:node:a", "system:nodes");
    let (client, server) = (["digital signature", "client auth"], ["server auth", "digital signature"]);
    let cases: &[(Demand, (&str, &str), &[&str], &[&str], Option<i32>, &str)] = &[
        (client_usages, ("jane", "dev"), &[], &client, None, "-300 to 31535700"),
        (client_usages, ("jane", "dev"), &["x"], &client, Some(3600), "-300 to 3600"),
        (client_usages, ("jane", "dev"), &[], &client, Some(1), "-300 to 600"),
        (client_usages, ("jane", "dev"), &[], &client, Some(i32::MAX), "-300 to 31535700"),
        (client_usages, ("jane", "dev"), &[], &server, None, "invalid usage for client certificate: server auth"),
        (
            client_usages,
            ("jane", "dev"),
            &[],
            &["digital signature"],
            None,
            "missing required usage for client certificate: client auth",
        ),
        (kubelet_client, node, &[], &client, None, "-300 to 31535700"),
        (kubelet_client, node, &["a"], &client, None, "DNS subjectAltNames are not allowed"),
        (kubelet_client, ("system:node:a", "dev"), &[], &client, None, "subject organization is not system:nodes"),
        (
            kubelet_client,
            ("jane", "system:nodes"),
            &[],
            &client,
            None,
            "subject common name does not begin with system:node:",
        ),
        (
            kubelet_client,
            node,
            &[],
            &server,
            None,
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (kubelet_serving, node, &["a", "10.0.0.1"], &server, None, "-300 to 31535700"),
        (kubelet_serving, node, &[], &server, None, "DNS or IP subjectAltName is required"),
    ];
    for (demand, subject, names, usages, seconds, expected) in cases {
        assert_eq!(check(*demand, *subject, names, usages, *seconds), *expected, "{subject:?} {names:?} {usages:?}");
    }
}
