//! Flags good and bad, with their files in a directory of their own.

use pki::{Names, SystemRandom};

use super::*;
use crate::identity::{Identity, Wanted};

const NOW: i64 = 1_800_000_000;

fn identity(dir: &Path) -> Identity {
    let wanted = Wanted { names: Names::of(["localhost"]), token: None, agent_token: None, now: NOW };
    Identity::load(dir, &wanted).unwrap()
}

/// The flags with `DIR` replaced.
fn check(dir: &Path, identity: &Identity, flags: &[&str]) -> Result<Who, String> {
    let given: Vec<(String, String)> = flags
        .iter()
        .map(|flag| crate::flags::api_server_arg(&flag.replace("DIR", &dir.display().to_string())).unwrap())
        .collect();
    resolve(&given, identity, "https://kubernetes.default.svc", &["https://kubernetes.default.svc".into()])
        .map_err(|error| error.to_string())
}

#[test]
fn flags_and_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let identity = identity(&dir.join("server"));
    let other = KeyPair::generate(&SystemRandom::new()).unwrap();
    let hook = "{current-context: c, contexts: [{name: c, context: {cluster: k}}], clusters: [{name: k, cluster: {server: \"https://127.0.0.1:1/\"}}]}";
    let head = "apiVersion: apiserver.config.k8s.io/v1\n";
    for (name, text) in [
        ("key", other.to_pem()),
        ("public", other.public().to_pem()),
        ("hook", hook.to_owned()),
        ("tokens", "secret,jane,1,\"dev,ops\"\nother,\"a \"\"b\"\"\",2\n".to_owned()),
        ("few", "secret,jane\n".to_owned()),
        (
            "authn",
            format!(
                "{head}kind: AuthenticationConfiguration\njwt: []\nanonymous: {{enabled: true, conditions: [{{path: /healthz}}]}}\n"
            ),
        ),
        ("authz", format!("{head}kind: AuthorizationConfiguration\nauthorizers: [{{type: RBAC, name: rbac}}]\n")),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let none = check(dir, &identity, &[]).unwrap();
    assert_eq!((none.anonymous, none.authorizer.chain().len(), none.followed.len()), (Anonymous::Everywhere, 2, 0));
    let tokens = check(
        dir,
        &identity,
        &[
            "service-account-issuer=https://a",
            "service-account-issuer=https://b",
            "service-account-signing-key-file=DIR/key",
            "service-account-key-file=DIR/public",
            "service-account-max-token-expiration=2h",
            "service-account-extend-token-expiration=false",
            "service-account-jwks-uri=https://c/keys",
            "anonymous-auth=false",
            "token-auth-file=DIR/tokens",
        ],
    )
    .unwrap()
    .tokens;
    assert_eq!((tokens.issuer.as_str(), tokens.max_seconds, tokens.extend), ("https://a", 7200, false));
    assert_eq!(
        (tokens.audiences, tokens.jwks_uri.as_str()),
        (vec!["https://a".to_owned(), "https://b".into()], "https://c/keys")
    );
    assert_eq!(tokens.published.jwks()["keys"].as_array().map(Vec::len), Some(1));
    let files = ["authentication-config=DIR/authn", "authorization-config=DIR/authz"];
    let who = check(dir, &identity, &files).unwrap();
    assert_eq!(
        (who.anonymous, who.authorizer.chain().len(), who.followed.len()),
        (Anonymous::At(vec!["/healthz".into()]), 1, 2)
    );
    let hooks = [
        "authorization-mode=Node,Webhook,RBAC",
        "authorization-webhook-config-file=DIR/hook",
        "authentication-token-webhook-config-file=DIR/hook",
    ];
    assert_eq!(check(dir, &identity, &hooks).unwrap().authorizer.chain().len(), 3);
    let oidc = [
        "oidc-issuer-url=https://issuer", "oidc-client-id=me", "oidc-groups-claim=groups", "oidc-required-claim=a=b",
        "oidc-signing-algs=ES256,RS256",
    ];
    assert!(check(dir, &identity, &oidc).is_ok());
    assert_eq!(check(dir, &identity, &["authorization-mode=AlwaysAllow"]).unwrap().anonymous, Anonymous::Nobody);
    for (flags, wanted) in [
        (
            &["anonymous-auth=maybe", "token-auth-file=DIR/few", "client-ca-file=DIR/none"][..],
            &[
                "anonymous-auth: expected true or false",
                "must have at least 3 columns (token, user name, user uid), found 2",
                "none: No such file",
            ][..],
        ),
        (
            &["authentication-config=DIR/authz", "authorization-config=DIR/authn"],
            &["expected kind \"AuthenticationConfiguration\"", "expected kind \"AuthorizationConfiguration\""],
        ),
        (
            &["authentication-config=DIR/authn", "oidc-client-id=me", "anonymous-auth=true"],
            &[
                "authentication-config file and oidc-* flags are mutually exclusive",
                "--anonymous-auth flag cannot be set",
            ],
        ),
        (
            &["oidc-issuer-url=http://x", "oidc-client-id=me", "oidc-signing-algs=HS256", "oidc-required-claim=a"],
            &["URL scheme must be https", "unsupported signing alg: \"HS256\"", "malformed pair"],
        ),
        (&["oidc-issuer-url=https://x"], &["must be specified together"]),
        (
            &["authorization-mode=Node,Node,ABAC,Webhook", "authorization-webhook-version=v2"],
            &["specified more than once", "\"ABAC\" is not a valid mode", "config file not passed", "\"v2\""],
        ),
        (
            &["authorization-config=DIR/authz", "authorization-mode=RBAC"],
            &["--authorization-config can not be specified when"],
        ),
        (&["authorization-webhook-config-file=DIR/hook"], &["without mode Webhook"]),
        (
            &[
                "service-account-max-token-expiration=10m",
                "service-account-signing-key-file=DIR/hook",
                "service-account-jwks-uri=http://x",
            ],
            &["between 1 hour", "no PRIVATE KEY", "requires https"],
        ),
    ] {
        let told = check(dir, &identity, flags).err().unwrap_or_default();
        for wanted in wanted {
            assert!(told.contains(wanted), "{told}\nlacks {wanted}");
        }
    }
}
