use std::io::Read;

use super::*;

/// The objects that upstream's own code encoded: see `xtask/schema-gen/golden.go`.
fn golden() -> Vec<(String, String, Vec<u8>)> {
    use base64::Engine;
    let zip = include_bytes!("../../tests/golden/objects.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zip[..]).read_to_string(&mut text).unwrap();
    let row = |line: &str| {
        let columns: Vec<_> = line.split('\t').collect();
        let wire = base64::engine::general_purpose::STANDARD.decode(columns[4]).unwrap();
        (columns[2].to_owned(), columns[3].to_owned(), wire)
    };
    text.lines().map(row).collect()
}

#[test]
fn upstreams_bytes_come_back_as_they_were() {
    let mut typed = 0;
    for (name, variant, wire) in golden() {
        if let Some(back) = generated::recode(&name, &wire) {
            typed += 1;
            assert_eq!(back.unwrap(), wire, "{name}, {variant}");
        }
    }
    assert!(typed > 150, "only {typed} golden objects have a typed struct");
}

#[test]
fn names_are_rusts() {
    let mut pod = core::v1::Pod::default();
    pod.metadata_mut().name = "web".into();
    pod.metadata_mut().namespace = "default".into();
    pod.spec.host_pid = true;
    pod.spec.set_hostname_as_fqdn = Some(false);
    pod.status.pod_ips.push(core::v1::PodIP { ip: "10.42.0.7".into(), ..Default::default() });
    let node = core::v1::NodeSpec { pod_cidrs: vec!["10.42.0.0/24".into()], ..Default::default() };
    assert_eq!(pod.key(), "default/web");
    assert_eq!(node.pod_cidrs.len(), 1);
    assert_eq!((core::v1::Pod::api_version(), apps::v1::Deployment::api_version()), ("v1".into(), "apps/v1".into()));
    assert_eq!((core::v1::Pod::PLURAL, core::v1::Node::NAMESPACED), ("pods", false));
    let back = core::v1::Pod::decode(&pod.to_vec()).unwrap();
    assert_eq!(back, pod);
}

#[test]
fn a_newer_field_survives() {
    let mut bytes = meta::v1::ObjectMeta { name: "a".into(), ..Default::default() }.to_vec();
    let newer = [0xc2, 0x3e, 3, b'n', b'e', b'w'];
    bytes.extend_from_slice(&newer);
    let meta = meta::v1::ObjectMeta::decode(&bytes).unwrap();
    assert_eq!(meta.unknown.bytes(), newer);
    assert_eq!(meta.to_vec(), bytes);
}

#[test]
fn broken_bytes_are_an_error() {
    let nested = |depth: usize| {
        // JSONSchemaProps.not, tag 28, within itself.
        let mut bytes = Vec::new();
        for _ in 0..depth {
            let mut outer = vec![0xe2, 0x01];
            let mut len = bytes.len();
            while len >= 0x80 {
                outer.push(len as u8 | 0x80);
                len >>= 7;
            }
            outer.push(len as u8);
            outer.extend_from_slice(&bytes);
            bytes = outer;
        }
        bytes
    };
    type Schema = apiextensions::v1::JSONSchemaProps;
    assert!(Schema::decode(&nested(90)).is_ok());
    assert!(matches!(Schema::decode(&nested(200)), Err(DecodeError::TooDeep(_))));
    assert!(matches!(core::v1::Pod::decode(&[0x0a, 0x05, 0x00]), Err(DecodeError::Truncated { .. })));
    assert!(matches!(core::v1::Pod::decode(&[0x08, 0x05]), Err(DecodeError::WireType { field: 1, wire: 0, .. })));
    assert!(core::v1::Pod::decode(&[0xff; 40]).is_err());
}

#[test]
fn zero_times_are_empty_messages() {
    let mut out = Vec::new();
    meta::v1::ObjectMeta::default().encode(&mut out);
    assert_eq!(meta::v1::ObjectMeta::decode(&out).unwrap().creation_timestamp, Time::default());
    assert!(Time::default().is_zero() && !Time { seconds: 0 }.is_zero());
}
