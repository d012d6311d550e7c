#[test]
fn a_login_hashes_as_upstreams() {
    for (user, password, email, hash) in [
        ("ada", "smash", "ada@example.com", "353258b53f5e9a57b059eab3f05312fc35bbeb874f08ce101e7bf0bf46977423"),
        ("grace", "squash", "grace@example.com", "f949b3837a1eb733a951b6aeda0b3327c09ec50c917de9ca35818e8fbf567e29"),
    ] {
        assert_eq!(super::hash(&[("username", user), ("password", password), ("email", email)]), hash);
    }
    // Go spares web pages these.
    assert_eq!(super::hash(&[("password", "<&>\n")]), super::hex(br#"{"password":"\u003c\u0026\u003e\n"}"#));
}
