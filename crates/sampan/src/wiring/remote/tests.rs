//! Whom a webhook's bundle lets through. The certificates are for `hook.default.svc`, self-signed and their own CA.

use std::time::Duration;

use pki::{Authority, Certificate, DAY, KeyPair, Leaf, Names, SystemRandom};
use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use super::*;

/// A day of 2027, within the validity of all of them.
const NOW: i64 = 1_800_000_000;

const OWN: &str = "\
-----BEGIN CERTIFICATE-----
MIIBkTCCATagAwIBAgIUDwoJPgdzE4QW1PnBvcGZjtr9HPUwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEaG9vazAeFw0yNjExMjYwOTE4MTBaFw0zNjExMjMwOTE4MTBa
MA8xDTALBgNVBAMMBGhvb2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASXXJc+
Gj4MTZ1VI2F2M1V1hmD9Hx/Yw3P1qt3gD8LOIXOXqF3N1QuBz6W8Vpr7Z1rxZoAS
MV5ccVlusyCVTJKwo3AwbjAdBgNVHQ4EFgQUiuNmdbbw/JTn04AxIz8eqGU6Kdgw
HwYDVR0jBBgwFoAUiuNmdbbw/JTn04AxIz8eqGU6KdgwGwYDVR0RBBQwEoIQaG9v
ay5kZWZhdWx0LnN2YzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYC
IQDMAN3el/1GaFMbO8/aMOGfGnyU6mVwzYQkA5rEV75G5AIhANRG5VyyDq1DNC/8
zNCvgbQ8O+EnFya3rHcMe2tqlyMm
-----END CERTIFICATE-----
";
/// Of the same name, with another key.
const OTHER: &str = "\
-----BEGIN CERTIFICATE-----
MIIBkDCCATagAwIBAgIUaIJy/KmCo9X/riw9hQBVteEpEyMwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEaG9vazAeFw0yNjExMjYwOTE4MTBaFw0zNjExMjMwOTE4MTBa
MA8xDTALBgNVBAMMBGhvb2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARbe9yb
XccUDDhdJenuPBogOnjjKFZ/BdIYvtqJmnJ7YySUweSLmDTFOKsQJk/2xvAPeed7
Lvs8GCOlFkLTtLdWo3AwbjAdBgNVHQ4EFgQUm90KSO4NKgdSAvh9f83YcIvOwKww
HwYDVR0jBBgwFoAUm90KSO4NKgdSAvh9f83YcIvOwKwwGwYDVR0RBBQwEoIQaG9v
ay5kZWZhdWx0LnN2YzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUC
IQCi2eGrcTvD3b6xiyB4fjH2UrDd7puNJAkKjxd0D9vDdwIgagRjuybu/3rCgCg4
e8o0ktk0FdS5lr1eQuNda51NL/E=
-----END CERTIFICATE-----
";
/// For clients only.
const CLIENT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBpzCCAU2gAwIBAgIUOoY5JxGeOSnVUgcF1XV9KgIQtowwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEaG9vazAeFw0yNjExMjYwOTE4MTBaFw0zNjExMjMwOTE4MTBa
MA8xDTALBgNVBAMMBGhvb2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQNCVgP
r77thBrl9aLlvy6YJdsbShPYdpVhekjGcXje/O/TjztioQcMzL4g5Icfl6Ow7ipM
Xc6M6ikrnOo3b8jco4GGMIGDMB0GA1UdDgQWBBQ6M4hG0msuQf1muqiEq9Vt9bsX
AzAfBgNVHSMEGDAWgBQ6M4hG0msuQf1muqiEq9Vt9bsXAzAbBgNVHREEFDASghBo
b29rLmRlZmF1bHQuc3ZjMA8GA1UdEwEB/wQFMAMBAf8wEwYDVR0lBAwwCgYIKwYB
BQUHAwIwCgYIKoZIzj0EAwIDSAAwRQIgO0GZUxdrUNUFRQ9WhLQTfTbH3V09YuxW
6lrQdIQ+tTwCIQCdEvXy1Kvl0EGdMXkhOGFEP0UdhZnyTXyJ7mN++A03+A==
-----END CERTIFICATE-----
";

fn verify(bundle: &str, leaf: &Certificate, name: &str, now: i64) -> Result<(), rustls::Error> {
    let verifier = Bundle::new(bundle, Arc::new(rustls::crypto::ring::default_provider())).unwrap();
    let (leaf, name) = (CertificateDer::from(leaf.der.clone()), ServerName::try_from(name).unwrap());
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
    verifier.verify_server_cert(&leaf, &[], &name, &[], now).map(|_| ())
}

#[test]
fn a_certificate_that_is_its_own_authority() {
    const NAME: &str = "hook.default.svc";
    let of = |pem: &str| Certificate::from_pem(pem).unwrap();
    let own = of(OWN);
    assert_eq!(verify(OWN, &own, NAME, NOW), Ok(()));
    assert_eq!(verify(&format!("{OTHER}{OWN}"), &own, NAME, NOW), Ok(()));
    assert!(verify(OTHER, &own, NAME, NOW).is_err(), "only the name of the issuer is the same");
    let refused = |leaf: &str, name: &str, now: i64| match verify(leaf, &of(leaf), name, now) {
        Err(rustls::Error::InvalidCertificate(why)) => why,
        other => panic!("{other:?}"),
    };
    let other_name = refused(OWN, "other.default.svc", NOW);
    assert!(matches!(other_name, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }));
    assert_eq!(refused(OWN, NAME, own.not_after + 1), CertificateError::Expired);
    assert_eq!(refused(OWN, NAME, own.not_before - 1), CertificateError::NotValidYet);
    assert_eq!(refused(CLIENT, NAME, NOW), CertificateError::InvalidPurpose);
}

#[test]
fn a_certificate_of_a_trusted_authority() {
    let random = SystemRandom::new();
    let ca = Authority::create("ca", NOW, &random).unwrap();
    let key = KeyPair::generate(&random).unwrap();
    let leaf = ca.issue(&Leaf::server("s", Names::of(["a.b"]), NOW, DAY), key.public(), &random).unwrap();
    assert_eq!(verify(&ca.bundle_pem(), &leaf, "a.b", NOW), Ok(()));
    for (bundle, name, now) in
        [(OWN, "a.b", NOW), (&ca.bundle_pem(), "c.d", NOW), (&ca.bundle_pem(), "a.b", NOW + 2 * DAY)]
    {
        assert!(verify(bundle, &leaf, name, now).is_err(), "{name} at {now}");
    }
}

#[test]
fn a_bundle_without_a_certificate_trusts_nobody() {
    assert!(tls(&Trust::System, None, &[]).is_ok());
    assert!(tls(&Trust::Bundle(""), None, &[]).is_err());
    assert!(matches!(tls(&Trust::Bundle("-----BEGIN CERTIFICATE-----\nAAAA"), None, &[]), Err(Error::Pem)));
}
