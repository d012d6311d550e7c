//! Those outside who say who somebody is and what they may: issuers of tokens and webhooks. Their other end is here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::authn::config::{self, Anonymous};
use apiserver::authn::oidc::{ALGORITHMS, Issuer};
use apiserver::authn::webhook::TokenWebhook;
use apiserver::authn::{Authenticator, RequestHeaders, Setup};
use apiserver::authz::{self, Authorizer};
use apiserver::outside::Endpoint;
use apiserver::seams::{BoxFuture, NodeProxy, Target};
use apiserver::{Body, Server, Status, User, body};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use schema::{Value, json};

use crate::harness::{Fixture, Reply, config, relaxed};

const NOW: i64 = 1_800_000_000;
const OWN: &str = "https://kubernetes.default.svc";

/// What comes back for a URL and what was sent: JSON, an HTTP status, or nothing for ever.
enum Says {
    Json(String),
    Cached(String),
    Code(u16),
    Nothing,
}

type Answers = Box<dyn FnMut(&str, &Value) -> Says + Send>;

/// The world outside, and which URLs of it were asked for.
#[derive(Default)]
struct World {
    answers: Mutex<Option<Answers>>,
    asked: Mutex<Vec<String>>,
}

impl World {
    fn says(&self, answers: impl FnMut(&str, &Value) -> Says + Send + 'static) {
        *self.answers.lock().unwrap() = Some(Box::new(answers));
    }

    fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl NodeProxy for World {
    fn to_node<'a>(
        &'a self,
        _: &'a Server,
        _: &'a str,
        _: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        unreachable!()
    }

    fn to_address<'a>(
        &'a self,
        _: &'a Server,
        _: &'a str,
        _: std::net::SocketAddr,
        _: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        unreachable!()
    }

    fn to_url<'a>(
        &'a self,
        _: &'a Server,
        target: Target<'a>,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        Box::pin(async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let sent = if bytes.is_empty() { Value::Null } else { json::parse(&bytes).unwrap() };
            self.asked.lock().unwrap().push(target.url.to_owned());
            let says = match &mut *self.answers.lock().unwrap() {
                Some(answers) => answers(target.url, &sent),
                None => Says::Code(404),
            };
            let mut response = Response::new(body::full(""));
            match says {
                Says::Json(text) => *response.body_mut() = body::full(text),
                Says::Cached(text) => {
                    *response.body_mut() = body::full(text);
                    response.headers_mut().insert("cache-control", "public, max-age=600".parse().unwrap());
                }
                Says::Code(code) => *response.status_mut() = code.try_into().unwrap(),
                Says::Nothing => std::future::pending().await,
            }
            Ok(response)
        })
    }
}

/// A server that asks the world.
async fn server(
    world: &Arc<World>,
    issuers: Vec<Issuer>,
    webhook: Option<TokenWebhook>,
    authorizer: Option<Authorizer>,
) -> (Fixture, Arc<Authenticator>) {
    let key = pki::KeyPair::generate(&pki::SystemRandom::new()).unwrap();
    let authenticator = Arc::new(
        Authenticator::new(Setup {
            client_ca_pem: String::new(),
            request_header_ca_pem: String::new(),
            request_header_names: Vec::new(),
            request_headers: RequestHeaders::default(),
            verifier: pki::jwt::Verifier::new([key.public().clone()], vec![OWN.into()]),
            audiences: vec![OWN.into()],
            static_tokens: HashMap::new(),
            bootstrap_tokens: true,
            issuers,
            webhook,
        })
        .unwrap(),
    );
    let held = authenticator.clone();
    let f = Fixture::with(|store| {
        let mut config = config(store);
        config.authenticate = held;
        config.node_proxy = world.clone();
        if let Some(authorizer) = authorizer {
            config.authorize = Arc::new(authorizer);
        }
        config
    })
    .await;
    (f, authenticator)
}

async fn as_token(f: &Fixture, token: &str) -> Reply {
    let mut request =
        Fixture::request(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "application/json", "{}");
    request.extensions_mut().remove::<User>();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    f.raw(request).await
}

/// `NAME: GROUPS EXTRA`, or the code.
async fn who(f: &Fixture, token: &str) -> String {
    let reply = as_token(f, token).await;
    if reply.code != 201 {
        return reply.code.to_string();
    }
    let info = reply.json()["status"]["userInfo"].clone();
    let groups: Vec<_> = info.list_at(&["groups"]).iter().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    let extra = info.object_at(&["extra"]).map_or(String::new(), |e| format!(" {}", Value::Object(e.clone())));
    format!("{}#{}: {}{extra}", info.str_at(&["username"]), info.str_at(&["uid"]), groups.join(","))
}

/// Why a token is refused, as a TokenReview tells it.
async fn why(f: &Fixture, token: &str) -> String {
    let review = Value::object([("spec", Value::object([("token", token.into())]))]).to_string();
    f.raw(Fixture::request(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", "application/json", review))
        .await
        .is(201)
        .at("/status/error")
}

struct Keys {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Keys {
    fn new(id: &'static str) -> Keys {
        let random = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Keys { id, pair: EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap() }
    }

    fn set(&self) -> String {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[..32]), URL_SAFE_NO_PAD.encode(&point[32..]));
        let id = self.id;
        format!(
            r#"{{"keys":[{{"kty":"OKP"}},{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"{id}","x":"{x}","y":"{y}"}}]}}"#
        )
    }

    /// A token with these claims besides the usual ones.
    fn token(&self, claims: &str) -> String {
        let mut all = json::parse(
            relaxed(&format!("{{iss: \"https://issuer\", aud: me, exp: {}, sub: jane}}", NOW + 60)).as_bytes(),
        )
        .unwrap();
        for (name, value) in json::parse(relaxed(claims).as_bytes()).unwrap().as_object().unwrap() {
            all.set(&[name.as_str()], value.clone());
        }
        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.id);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(all.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

const ISSUER: &str = "issuer: {url: https://issuer, audiences: [me]}";

fn issuers(jwt: &str) -> Vec<Issuer> {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    let algorithms = ALGORITHMS.map(str::to_owned);
    match config::parse(&format!("{head}jwt: [{{{jwt}}}]"), &[OWN.to_owned()], &algorithms) {
        Ok(configuration) => configuration.issuers,
        Err(problems) => panic!("{problems:#?}"),
    }
}

/// Discovery and the keys, which may be others at any time.
fn discovery(world: &World, keys: &Arc<Mutex<String>>, cached: bool) {
    let keys = keys.clone();
    world.says(move |url, _| match url {
        "https://issuer/.well-known/openid-configuration" => {
            Says::Json(r#"{"issuer":"https://issuer","jwks_uri":"https://keys/set"}"#.into())
        }
        "https://keys/set" if cached => Says::Cached(keys.lock().unwrap().clone()),
        "https://keys/set" => Says::Json(keys.lock().unwrap().clone()),
        _ => Says::Code(404),
    });
}

#[tokio::test]
async fn claims_become_users() {
    let key = Keys::new("a");
    let expressions = format!(
        "{ISSUER}, claimMappings: {{username: {{expression: \"'jwt:' + claims.sub\"}}, groups: {{expression: \"claims.?roles.orValue([]).map(r, 'x:' + r)\"}}, uid: {{claim: sub}}, extra: [{{key: example.com/team, valueExpression: \"claims.team__dash__name\"}}]}}, claimValidationRules: [{{claim: hd, requiredValue: example.com}}, {{expression: \"claims.exp - claims.iat <= 600.0\", message: too long}}], userValidationRules: [{{expression: \"!user.username.startsWith('jwt:system:')\", message: reserved}}, {{expression: \"size(user.groups) < 3\"}}]"
    );
    let good = format!("hd: example.com, iat: {NOW}, \"team-name\": red");
    let by_claim = format!(
        "{ISSUER}, claimMappings: {{username: {{claim: email, prefix: \"o:\"}}, groups: {{claim: roles, prefix: \"g:\"}}}}"
    );
    let plain = format!("{ISSUER}, claimMappings: {{username: {{claim: sub, prefix: \"\"}}}}");
    for (mapping, claims, wanted) in [
        (
            &expressions,
            format!("{{{good}, roles: [dev, ops]}}"),
            "jwt:jane#jane: x:dev,x:ops,system:authenticated {\"example.com/team\":[\"red\"]}",
        ),
        (
            &expressions,
            format!("{{{good}, jti: t1}}"),
            "jwt:jane#jane: system:authenticated {\"authentication.kubernetes.io/credential-id\":[\"JTI=t1\"],\"example.com/team\":[\"red\"]}",
        ),
        (
            &expressions,
            format!("{{hd: other, iat: {NOW}, \"team-name\": red}}"),
            "!oidc: required claim hd value does not match. Got = other, want = example.com",
        ),
        (
            &expressions,
            format!("{{iat: {NOW}, \"team-name\": red}}"),
            "!oidc: required claim hd not present in ID token",
        ),
        (
            &expressions,
            "{hd: example.com, iat: 1, \"team-name\": red}".into(),
            "!oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.iat <= 600.0' failed: too long",
        ),
        (
            &expressions,
            format!("{{{good}, sub: \"system:x\"}}"),
            "!oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('jwt:system:')' failed: reserved",
        ),
        (
            &expressions,
            format!("{{{good}, roles: [1]}}"),
            "!oidc: error evaluating group claim expression: expression 'claims.?roles.orValue([]).map(r, 'x:' + r)' resulted in error: no such overload",
        ),
        (
            &by_claim,
            "{email: j@e.org, email_verified: true, roles: dev}".into(),
            "o:j@e.org#: g:dev,system:authenticated",
        ),
        (&by_claim, "{email: j@e.org}".into(), "o:j@e.org#: system:authenticated"),
        (&by_claim, "{email: j@e.org, email_verified: false}".into(), "!oidc: email not verified"),
        (
            &by_claim,
            "{email: j@e.org, roles: {a: b}}".into(),
            "!oidc: parse groups claim \"roles\": json: cannot unmarshal object into Go value of type string",
        ),
        (&by_claim, "{}".into(), "!oidc: parse username claims \"email\": claim not present"),
        (&plain, "{aud: [other, me]}".into(), "jane#: system:authenticated"),
        (&plain, "{aud: other}".into(), "!oidc: verify token: oidc: expected audience \"me\" got [\"other\"]"),
        (&plain, format!("{{exp: {}}}", NOW - 1), "!oidc: verify token: oidc: token is expired"),
        (&plain, format!("{{nbf: {}}}", NOW + 61), "!oidc: verify token: oidc: current time"),
        (&plain, format!("{{iss: \"{OWN}/other\"}}"), "!invalid bearer token"),
    ] {
        let world = Arc::new(World::default());
        discovery(&world, &Arc::new(Mutex::new(key.set())), true);
        let (f, _) = server(&world, issuers(mapping), None, None).await;
        let token = key.token(&claims);
        match wanted.strip_prefix('!') {
            None => assert_eq!(who(&f, &token).await, wanted, "{claims}"),
            Some(wanted) => {
                assert_eq!(who(&f, &token).await, "401", "{claims}");
                let why = why(&f, &token).await;
                assert!(why.contains(wanted), "{claims}: {why}");
            }
        }
    }
}

#[tokio::test]
async fn keys_are_found_kept_and_found_anew() {
    let (a, b) = (Keys::new("a"), Keys::new("b"));
    let plain = format!("{ISSUER}, claimMappings: {{username: {{claim: sub, prefix: \"\"}}}}");
    let world = Arc::new(World::default());
    let (f, authenticator) = server(&world, issuers(&plain), None, None).await;
    tokio::time::pause();
    // Not there yet: others are not asked in its place, and it is left alone for a while.
    assert_eq!(who(&f, &a.token("{}")).await, "401");
    assert!(why(&f, &a.token("{}")).await.contains("oidc: authenticator not initialized"));
    assert_eq!(world.times(), 1);
    let keys = Arc::new(Mutex::new(a.set()));
    discovery(&world, &keys, false);
    tokio::time::advance(Duration::from_secs(11)).await;
    let jane = "jane#: system:authenticated";
    assert_eq!(who(&f, &a.token("{}")).await, jane);
    assert_eq!(world.times(), 3);
    // What was found out is believed for ten seconds; another token needs no other keys.
    let token = a.token("{n: 1}");
    assert_eq!((who(&f, &token).await, who(&f, &token).await), (jane.to_owned(), jane.to_owned()));
    assert_eq!(world.times(), 3);
    // Keys without a time are read again for every one that is not known; the issuer changed its own.
    assert_eq!(who(&f, &b.token("{}")).await, "401");
    keys.lock().unwrap().clone_from(&b.set());
    assert_eq!(who(&f, &b.token("{n: 2}")).await, jane);
    assert_eq!(who(&f, &a.token("{n: 3}")).await, "401");
    // Those with a time are good until then.
    discovery(&world, &keys, true);
    assert_eq!(who(&f, &a.token("{n: 4}")).await, "401");
    let times = world.times();
    assert_eq!(who(&f, &a.token("{n: 5}")).await, "401");
    assert_eq!(world.times(), times);
    keys.lock().unwrap().clone_from(&a.set());
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(who(&f, &a.token("{n: 6}")).await, jane);
    // Others take the issuers' place once they can be reached, and not before.
    let other = plain.replace("https://issuer", "https://other");
    assert!(authenticator.replace_issuers(&f.server, issuers(&other)).await.is_err());
    assert_eq!(who(&f, &a.token("{n: 7}")).await, jane);
    authenticator.replace_issuers(&f.server, issuers(&plain.replace("prefix: \"\"", "prefix: \"o:\""))).await.unwrap();
    assert_eq!(who(&f, &a.token("{n: 8}")).await, format!("o:{jane}"));
    // An issuer that lies about who it is, or does not answer.
    world.says(|_, _| Says::Json(r#"{"issuer":"https://evil","jwks_uri":"https://keys/set"}"#.into()));
    let why = authenticator.replace_issuers(&f.server, issuers(&plain)).await.unwrap_err();
    assert!(why.contains("expected \"https://issuer\" got \"https://evil\""), "{why}");
    world.says(|_, _| Says::Nothing);
    let why = authenticator.replace_issuers(&f.server, issuers(&plain)).await.unwrap_err();
    assert!(why.contains("context deadline exceeded"), "{why}");
}

#[tokio::test]
async fn token_webhooks() {
    let world = Arc::new(World::default());
    let endpoint = Endpoint { url: "https://hook/authn".into(), ..Endpoint::default() };
    let webhook = TokenWebhook::new(endpoint, "v1beta1", Duration::from_secs(120));
    let (f, _) = server(&world, Vec::new(), Some(webhook), None).await;
    tokio::time::pause();
    let answer = |status: &'static str| {
        world.says(move |url, review| {
            assert_eq!((url, review["spec"]["audiences"][0].as_str()), ("https://hook/authn", Some(OWN)));
            Says::Json(relaxed(&format!(
                "{{kind: TokenReview, apiVersion: authentication.k8s.io/v1beta1, status: {status}}}"
            )))
        });
    };
    answer("{authenticated: true, user: {username: jane, uid: u, groups: [dev], extra: {a: [b]}}}");
    assert_eq!(who(&f, "t").await, "jane#u: dev,system:authenticated {\"a\":[\"b\"]}");
    // What it knows and what it does not is good for two minutes, but not that it failed.
    answer("{authenticated: false}");
    assert_eq!(
        (who(&f, "t").await.as_str(), who(&f, "u").await.as_str()),
        ("jane#u: dev,system:authenticated {\"a\":[\"b\"]}", "401")
    );
    answer("{authenticated: true, user: {username: bob}}");
    assert_eq!(who(&f, "u").await, "401");
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!(
        (who(&f, "t").await.as_str(), who(&f, "u").await.as_str()),
        ("bob#: system:authenticated", "bob#: system:authenticated")
    );
    for (status, token, wanted) in [
        ("{authenticated: false, error: \"it is stolen\"}", "e1", "it is stolen"),
        ("{authenticated: true, audiences: [other], user: {username: x}}", "e2", "invalid bearer token"),
        ("{authenticated: true, audiences: [other], user: {username: x}}, kind: Lie", "e3", "answered with \"Lie\""),
    ] {
        answer(status);
        assert_eq!(who(&f, token).await, "401");
        let why = why(&f, token).await;
        assert!(why.contains(wanted), "{why}");
    }
    // One that fails for a moment is asked five times, one that hangs once.
    let before = world.times();
    world.says(|_, _| Says::Code(500));
    assert_eq!(who(&f, "v").await, "401");
    assert_eq!(world.times() - before, 5);
    world.says(|_, _| Says::Nothing);
    assert!(why(&f, "v").await.contains("context deadline exceeded"));
    assert_eq!(world.times() - before, 6);
}

const KUBECONFIG: &str = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}], clusters: [{name: k, cluster: {server: \"https://hook/authz\", certificate-authority: ca.pem}}], users: [{name: u, user: {token: secret}}]}";

fn read(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("/etc/hook") => Ok(KUBECONFIG.into()),
        Some("/etc/ca.pem") => Ok("PEM".into()),
        other => Err(format!("open {}: no such file or directory", other.unwrap_or_default())),
    }
}

fn authorizers(list: &str) -> Result<Vec<authz::config::Link>, Vec<String>> {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
    authz::config::parse(&format!("{head}authorizers: {list}"), &authz::config::default(), &read)
}

const HOOK: &str = "timeout: 3s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc/hook}";
const OTHERS: &str = "{type: Node, name: node}, {type: RBAC, name: rbac}";

fn hook(policy: &str, conditions: &str) -> Authorizer {
    let list = format!(
        "[{{type: Webhook, name: hook, webhook: {{{HOOK}, failurePolicy: {policy}, matchConditions: [{conditions}]}}}}, {OTHERS}]"
    );
    Authorizer::new(authorizers(&list).unwrap_or_else(|problems| panic!("{problems:#?}")))
}

async fn get(f: &Fixture, user: &str, path: &str) -> (u16, String) {
    let reply = f.as_user(User::new(user, &["dev"]), Method::GET, path, "").await;
    (reply.code, if reply.code == 200 { String::new() } else { reply.at("/message") })
}

#[tokio::test(flavor = "multi_thread")]
async fn authorization_webhooks() {
    let world = Arc::new(World::default());
    let not_masters = "{expression: \"request.user != 'system:apiserver'\"}, {expression: \"has(request.resourceAttributes) && request.resourceAttributes.namespace == 'a'\"}";
    let (f, _) = server(&world, Vec::new(), None, Some(hook("Deny", not_masters))).await;
    let sent = Arc::new(Mutex::new(String::new()));
    let answer = |status: &'static str| {
        let sent = sent.clone();
        world.says(move |_, review| {
            *sent.lock().unwrap() = review["spec"].to_string();
            Says::Json(relaxed(&format!(
                "{{kind: SubjectAccessReview, apiVersion: authorization.k8s.io/v1, status: {status}}}"
            )))
        });
    };
    answer("{allowed: true}");
    assert_eq!(
        get(&f, "u1", "/api/v1/namespaces/a/pods?labelSelector=x%3Dy,z&fieldSelector=spec.nodeName%3Dn").await.0,
        200
    );
    assert_eq!(
        *sent.lock().unwrap(),
        r#"{"groups":["dev"],"resourceAttributes":{"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n"]}]},"labelSelector":{"requirements":[{"key":"x","operator":"In","values":["y"]},{"key":"z","operator":"Exists"}]},"namespace":"a","resource":"pods","verb":"list","version":"v1"},"user":"u1"}"#
    );
    answer("{allowed: false}");
    assert_eq!(
        get(&f, "u1", "/api/v1/namespaces/a/pods?labelSelector=x%3Dy,z&fieldSelector=spec.nodeName%3Dn").await.0,
        200,
        "remembered"
    );
    let forbidden = |user: &str, why: &str| {
        (
            403,
            format!(
                "pods is forbidden: User {user:?} cannot list resource \"pods\" in API group \"\" in the namespace \"a\"{why}"
            ),
        )
    };
    let pods = "/api/v1/namespaces/a/pods";
    assert_eq!(get(&f, "u2", pods).await, forbidden("u2", ""));
    answer("{allowed: false, denied: true, reason: never}");
    assert_eq!(get(&f, "u3", pods).await, forbidden("u3", ": never"));
    answer("{allowed: false, reason: perhaps}");
    assert_eq!(get(&f, "u4", pods).await, forbidden("u4", ": hook: perhaps"));
    // One that lies, or is no authorizer at all.
    answer("{allowed: true, denied: true}");
    let both = "Internal error occurred: Internal Server Error: \"/api/v1/namespaces/a/pods\": webhook subject access review returned both allow and deny response";
    assert_eq!(get(&f, "u5", pods).await, (500, both.into()));
    world.says(|_, _| Says::Json("{\"kind\":\"Status\"}".into()));
    assert_eq!(get(&f, "u6", pods).await.0, 500);
    // Those for whom a condition does not hold do not wait for it.
    world.says(|_, _| Says::Nothing);
    assert_eq!(get(&f, "u7", "/api/v1/namespaces/b/pods").await.0, 403);
    assert_eq!(get(&f, "u7", "/version").await.0, 403);
    f.get(pods).await.is(200);
    let (code, message) = get(&f, "u8", pods).await;
    assert!(code == 500 && message.ends_with("Post \"https://hook/authz\": context deadline exceeded"), "{message}");
    // A review tells of it; expressions and admission wait for it as well.
    world.says(|_, _| Says::Code(401));
    let review = "{spec: {user: u9, resourceAttributes: {verb: get, resource: pods, namespace: a}}}";
    f.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await.is(201).has(&[
        ("/status/allowed", "false"),
        ("/status/denied", "true"),
        ("/status/evaluationError", "the server has asked for the client to provide credentials"),
    ]);
    let review = "{spec: {namespace: a}}";
    f.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review).await.is(201).has(&[
        ("/status/incomplete", "true"),
        ("/status/evaluationError", "webhook authorizer does not support user rule resolution"),
    ]);
    // With the other policy those behind it decide.
    let (f, _) = server(&world, Vec::new(), None, Some(hook("NoOpinion", ""))).await;
    let (code, message) = get(&f, "u1", pods).await;
    assert!(code == 500 && message.contains("provide credentials"), "{code} {message}");
}

#[test]
fn mistakes_are_told_at_once() {
    let same = |found: Vec<String>, wanted: &[&str]| {
        let told: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.contains(wanted), "{told}\nis not\n{wanted}");
        }
    };
    let wrong = |text: &str| {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        config::parse(&format!("{head}{text}"), &[OWN.to_owned()], &[]).err().unwrap_or_default()
    };
    same(
        wrong("jwt: [{issuer: {url: 1, audience: []}, claimMappings: [], more: 1}]\nnonsense: true"),
        &[
            "jwt[0].claimMappings: expected an object, got array",
            "strict decoding error: unknown field \"jwt[0].issuer.audience\"",
            "jwt[0].issuer.url: expected a string, got number",
            "strict decoding error: unknown field \"jwt[0].more\"",
            "strict decoding error: unknown field \"nonsense\"",
        ],
    );
    same(
        wrong(
            "jwt:\n- issuer: {url: \"http://u:p@x/?q#f\", discoveryURL: \"http://u:p@x/?q#f\", certificateAuthority: nothing, audiences: [a, a]}\n  claimMappings: {username: {claim: sub, expression: claims.sub}, groups: {claim: g}, uid: {expression: \"claims.\"}, extra: [{key: UP, valueExpression: \"''\"}, {key: k8s.io/a}]}\n  claimValidationRules: [{}, {claim: a, message: m}, {expression: \"'x'\", requiredValue: v}]\n  userValidationRules: [{expression: \"user.nope == ''\"}, {expression: \"true\"}, {expression: \"true\"}]\n- issuer: {url: \"https://kubernetes.default.svc\"}\n  claimMappings: {username: {expression: claims.email}}\nanonymous: {enabled: false, conditions: [{path: /healthz}]}",
        ),
        &[
            "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?q#f\": URL scheme must be https",
            "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a username or password",
            "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a query",
            "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a fragment",
            "jwt[0].issuer.discoveryURL: Invalid value: \"http://u:p@x/?q#f\": discoveryURL must be different from URL",
            "jwt[0].issuer.discoveryURL: Invalid value: \"http://u:p@x/?q#f\": URL scheme must be https",
            "jwt[0].issuer.discoveryURL: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a username or password",
            "jwt[0].issuer.discoveryURL: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a query",
            "jwt[0].issuer.discoveryURL: Invalid value: \"http://u:p@x/?q#f\": URL must not contain a fragment",
            "jwt[0].issuer.audiences[1]: Duplicate value: \"a\"",
            "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\"",
            "jwt[0].claimValidationRules[0]: Required value: claim or expression is required",
            "jwt[0].claimValidationRules[1].message: Invalid value: \"m\": may not be specified when claim is set",
            "jwt[0].claimValidationRules[2].requiredValue: Invalid value: \"v\": may not be specified when expression is set",
            "jwt[0].claimValidationRules[2].expression: Invalid value: \"'x'\": must evaluate to bool",
            "jwt[0].claimMappings.username: Invalid value: \"\": claim and expression can't both be set",
            "jwt[0].claimMappings.groups.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            "jwt[0].claimMappings.uid.expression: Invalid value: \"claims.\": compilation failed: ERROR: <input>:1:8: Syntax error",
            "jwt[0].claimMappings.extra[0].key: Invalid value: \"UP\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            "jwt[0].claimMappings.extra[0].key: Invalid value: \"UP\": must be lowercase",
            "jwt[0].claimMappings.extra[1].key: Invalid value: \"k8s.io/a\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
            "jwt[0].claimMappings.extra[1].valueExpression: Required value",
            "jwt[0].userValidationRules[0].expression: Invalid value: \"user.nope == ''\": compilation failed: ERROR: <input>:1:5: undefined field 'nope'",
            "jwt[0].userValidationRules[2].expression: Duplicate value: \"true\"",
            "jwt[1].issuer.url: Invalid value: \"https://kubernetes.default.svc\": URL must not overlap with disallowed issuers: [https://kubernetes.default.svc]",
            "jwt[1].issuer.audiences: Required value: at least one jwt[1].issuer.audiences is required",
            "jwt[1].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in",
            "anonymous.conditions: Invalid value: [{\"path\":\"/healthz\"}]: enabled should be set to true when conditions are defined",
        ],
    );
    let wrong = |list: &str| authorizers(list).err().unwrap_or_default();
    same(
        wrong("[]"),
        &[
            "authorizers: Required value: at least one authorization mode must be defined",
            "missing required types: [Node RBAC]",
        ],
    );
    same(
        wrong(
            "[{name: x}, {type: ABAC}, {type: Node, name: nodes}, {type: Node, name: m}, {type: RBAC, name: rbac, webhook: {}}, {type: Webhook, name: \"A b\"}, {type: Webhook, name: w, webhook: {timeout: 31s, authorizedTTL: -1s, unauthorizedTTL: soon, subjectAccessReviewVersion: v2, failurePolicy: Ignore, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc/none}, matchConditions: [{}, {expression: \"request.user\"}]}}]",
        ),
        &[
            "authorizers[0].type: Required value",
            "authorizers[1].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
            "authorizers[3].type: Duplicate value: \"Node\"",
            "authorizers[4].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
            "authorizers[5].name: Invalid value: \"A b\": authorizer name is invalid",
            "authorizers[5].webhook: Required value: required when type=Webhook",
            "authorizers[6].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            "authorizers[6].authorizedTTL: Invalid value: \"-1s\": must be > 0s",
            "authorizers[6].unauthorizedTTL: Invalid value: \"soon\": time: invalid duration \"soon\"",
            "authorizers[6].subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\"",
            "authorizers[6].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
            "authorizers[6].failurePolicy: Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\"",
            "authorizers[6].connectionInfo.kubeConfigFile: Invalid value: \"/etc/none\": error loading file: open /etc/none: no such file or directory",
            "authorizers[6].matchConditions[0].expression: Required value",
            "authorizers[6].matchConditions[1].expression: Invalid value: \"request.user\": must evaluate to bool but got string",
            "expected name node for authorizer Node instead of nodes",
        ],
    );
}

#[test]
fn kubeconfigs() {
    let endpoint = Endpoint::from_kubeconfig(Path::new("/etc/hook"), &read).unwrap();
    assert_eq!((endpoint.url.as_str(), endpoint.authorization.as_str()), ("https://hook/authz", "Bearer secret"));
    assert_eq!((endpoint.ca_bundle.as_slice(), endpoint.certificate.as_ref()), (&b"PEM"[..], None));
    for (from, to, wanted) in [
        ("current-context: c", "current-context: d", "context was not found for specified context: d"),
        ("current-context: c,", "", "no configuration has been provided"),
        ("cluster: k,", "cluster: z,", "cluster \"z\" does not exist"),
        ("https://hook/authz", "", "no server found for cluster \"k\""),
        ("ca.pem", "other.pem", "open /etc/other.pem: no such file or directory"),
    ] {
        let changed = |path: &Path| read(path).map(|text| text.replace(from, to));
        let why = Endpoint::from_kubeconfig(Path::new("/etc/hook"), &changed).unwrap_err();
        assert!(why.contains(wanted), "{why}");
    }
}

#[tokio::test]
async fn the_anonymous_may_be_let_in_at_some_paths_only() {
    let f = Fixture::with(|store| {
        let mut config = config(store);
        config.anonymous = Anonymous::At(vec!["/healthz".into()]);
        config
    })
    .await;
    for (path, code) in [("/healthz", 403), ("/livez", 401), ("/api", 401)] {
        let mut request = Fixture::request(Method::GET, path, "", "");
        request.extensions_mut().remove::<User>();
        f.raw(request).await.is(code);
    }
}
