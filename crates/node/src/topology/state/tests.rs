#[test]
fn a_checksum_is_upstreams() {
    assert_eq!(super::checksum(r#"{"policyName":"none","defaultCPUSet":"4-6"}"#), 657_950_972);
}
