//! A whole cluster's server: its own objects, RBAC, tokens and admission, through requests.

use std::{collections::HashMap, sync::Arc};

use apiserver::User;
use apiserver::admission::registry;
use apiserver::authn::issue::TokenIssuer;
use apiserver::authn::{Authenticator, RequestHeaders, Setup};
use apiserver::authz::Authorizer;
use apiserver::bootstrap::{self, Facts, identity};
use http::Method;
use pki::{Authority, KeyPair, SystemRandom, jwt};

use crate::harness::{Fixture, Reply, config, relaxed};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn facts() -> Facts {
    Facts {
        addresses: vec!["192.168.1.5".parse().unwrap()],
        port: 6443,
        service_cidrs: vec!["10.43.0.0/16".into()],
        client_ca_pem: "CA".into(),
        ..Facts::default()
    }
}

pub async fn cluster() -> Fixture {
    let random = SystemRandom::new();
    let ca = Authority::create("client-ca", 1_800_000_000, &random).unwrap();
    let key = KeyPair::generate(&random).unwrap();
    let audiences = vec![ISSUER.to_owned()];
    let authenticator = Authenticator::new(Setup {
        client_ca_pem: ca.bundle_pem(),
        request_header_ca_pem: String::new(),
        request_header_names: Vec::new(),
        request_headers: RequestHeaders::default(),
        verifier: jwt::Verifier::new([key.public().clone()], audiences.clone()),
        audiences: audiences.clone(),
        static_tokens: HashMap::new(),
        bootstrap_tokens: true,
        issuers: Vec::new(),
        webhook: None,
    });
    let authorizer = Arc::new(Authorizer::default());
    let f = Fixture::with(|store| {
        let mut config = config(store);
        config.authenticate = Arc::new(authenticator.unwrap());
        config.authorize = authorizer.clone();
        config.issue_token = Arc::new(TokenIssuer::new(jwt::Signer::new(key), ISSUER, audiences));
        config.admission = registry::plugins(authorizer, &[]);
        config
    })
    .await;
    bootstrap::run(&f.server, &facts()).await.unwrap();
    f
}

impl Fixture {
    pub async fn as_user(&self, user: User, method: Method, path: &str, body: &str) -> Reply {
        let body = if body.is_empty() { String::new() } else { relaxed(body) };
        let mut request = Fixture::request(method, path, "application/json", body);
        request.extensions_mut().insert(user);
        self.raw(request).await
    }

    async fn with_token(&self, token: &str, path: &str) -> Reply {
        let mut request = Fixture::request(Method::GET, path, "", "");
        request.extensions_mut().remove::<User>();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.raw(request).await
    }
}

#[tokio::test]
async fn a_fresh_cluster_is_complete_and_stays_so() {
    let f = cluster().await;
    let revision = f.server.revision();
    bootstrap::run(&f.server, &facts()).await.unwrap();
    assert_eq!(f.server.revision(), revision, "a second start writes nothing");
    let count = async |path: &str| f.get(path).await.is(200).json().list_at(&["items"]).len();
    assert_eq!(count("/api/v1/namespaces").await, 4);
    assert_eq!(count("/apis/rbac.authorization.k8s.io/v1/clusterroles").await, 73 + 6);
    assert_eq!(count("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").await, 11);
    assert_eq!(count("/apis/apiregistration.k8s.io/v1/apiservices").await, 22);
    f.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps")
        .await
        .is(200)
        .has(&[("/spec/groupPriorityMinimum", "17800"), ("/status/conditions/0/reason", "Local")]);
    f.get("/api/v1/namespaces/default/services/kubernetes").await.is(200).has(&[
        ("/spec/clusterIP", "10.43.0.1"),
        ("/spec/ports/0/targetPort", "6443"),
        ("/metadata/labels/provider", "kubernetes"),
    ]);
    f.get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await
        .is(200)
        .has(&[("/subsets/0/addresses/0/ip", "192.168.1.5")]);
    f.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await
        .is(200)
        .has(&[("/endpoints/0/addresses/0", "192.168.1.5")]);
    f.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
        .await
        .is(200)
        .has(&[("/status/conditions/0/type", "Ready")]);
    f.get("/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical")
        .await
        .is(200)
        .has(&[("/value", "2000001000")]);
}

#[tokio::test]
async fn rbac_guards_requests() {
    let f = cluster().await;
    let anna = || User::new("anna", &["system:authenticated"]);
    f.as_user(anna(), Method::GET, "/api/v1/namespaces/default/pods", "").await.is(403).has(&[
        ("/message", "pods is forbidden: User \"anna\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""),
        ("/reason", "Forbidden"),
    ]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    f.post(roles, "{metadata: {name: r}, rules: [{apiGroups: [\"\"], resources: [pods], verbs: [list]}, {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [create]}]}").await.is(201);
    let binding = "{metadata: {name: b}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: anna}]}";
    f.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.is(201);
    f.as_user(anna(), Method::GET, "/api/v1/namespaces/default/pods", "").await.is(200);
    f.as_user(anna(), Method::GET, "/api/v1/namespaces/kube-system/pods", "").await.is(403);
    let grant = "{metadata: {name: more}, rules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get]}]}";
    let refused = f.as_user(anna(), Method::POST, roles, grant).await.is(403);
    assert!(
        refused.at("/message").contains("is attempting to grant RBAC permissions not currently held"),
        "{}",
        refused.text()
    );
    let same = "{metadata: {name: same}, rules: [{apiGroups: [\"\"], resources: [pods], verbs: [list]}]}";
    f.as_user(anna(), Method::POST, roles, same).await.is(201);
    // By WebSockets an exec is a GET, and acts all the same.
    let look = "{metadata: {name: look}, rules: [{apiGroups: [\"\"], resources: [pods/exec], verbs: [get]}]}";
    f.post(roles, look).await.is(201);
    f.post(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        &binding.replace("name: b", "name: look").replace("name: r}", "name: look}"),
    )
    .await
    .is(201);
    let exec = "/api/v1/namespaces/default/pods/p/exec?command=ls";
    f.as_user(anna(), Method::GET, exec, "").await.is(403).has(&[
        ("/message", "pods \"p\" is forbidden: User \"anna\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\""),
    ]);
    // What a user may do, as reviews tell it.
    let review = "{spec: {resourceAttributes: {verb: list, resource: pods, namespace: default}}}";
    f.as_user(anna(), Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        .await
        .is(201)
        .has(&[
            ("/status/allowed", "true"),
            ("/status/reason", "RBAC: allowed by RoleBinding \"b/default\" of Role \"r\" to User \"anna\""),
        ]);
    let rules = f
        .as_user(
            anna(),
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            "{spec: {namespace: default}}",
        )
        .await
        .is(201);
    assert!(rules.text().contains("\"pods\""), "{}", rules.text());
    f.as_user(anna(), Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}")
        .await
        .is(201)
        .has(&[("/status/userInfo/username", "anna")]);
    // Upstream's health and version for everyone.
    let nobody = User::anonymous();
    f.as_user(nobody.clone(), Method::GET, "/version", "").await.is(200);
    f.as_user(nobody, Method::GET, "/api", "")
        .await
        .is(403)
        .has(&[("/message", "forbidden: User \"system:anonymous\" cannot get path \"/api\"")]);
}

#[tokio::test]
async fn tokens_of_pods_live_and_die_with_them() {
    let f = cluster().await;
    f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}").await.is(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        f.post(pods, "{metadata: {name: p}, spec: {containers: [{name: c, image: nginx}]}}").await.is(201).has(&[
            ("/spec/serviceAccountName", "default"),
            ("/spec/priority", "0"),
            ("/spec/preemptionPolicy", "PreemptLowerPriority"),
            ("/spec/tolerations/0/key", "node.kubernetes.io/not-ready"),
            ("/spec/volumes/0/projected/defaultMode", "420"),
            ("/spec/containers/0/volumeMounts/0/mountPath", "/var/run/secrets/kubernetes.io/serviceaccount"),
        ]);
    let uid = pod.at("/metadata/uid");
    let request = format!(
        "{{spec: {{expirationSeconds: 3607, boundObjectRef: {{apiVersion: v1, kind: Pod, name: p, uid: \"{uid}\"}}}}}}"
    );
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = f
        .post(path, &request)
        .await
        .is(201)
        .has(&[("/status/expirationTimestamp", "2027-01-15T09:00:07Z"), ("/spec/audiences/0", ISSUER)]);
    let token = answer.at("/status/token");
    // A service account has no rights of its own, but those of everyone.
    f.with_token(&token, "/api").await.is(200);
    f.with_token(&token, pods).await.is(403).has(&[(
        "/message",
        "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    )]);
    let review = |token: &str| format!("{{spec: {{token: \"{token}\"}}}}");
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    f.post(reviews, &review(&token)).await.is(201).has(&[
        ("/status/authenticated", "true"),
        ("/status/user/username", "system:serviceaccount:default:default"),
        ("/status/user/extra/authentication.kubernetes.io~1pod-name/0", "p"),
        ("/status/audiences/0", ISSUER),
    ]);
    let forged = format!("{}x", &token[..token.len() - 8]);
    f.with_token(&forged, "/api").await.is(401).has(&[("/message", "Unauthorized"), ("/reason", "Unauthorized")]);
    f.with_token("nonsense", "/version").await.is(401);
    // A node asks for its own pods' tokens, and only for those.
    let node = identity::kubelet("n1");
    let answer = f.as_user(node.clone(), Method::POST, path, &request).await.is(403);
    assert!(
        answer.at("/message").ends_with("no relationship found between node 'n1' and this object"),
        "{}",
        answer.text()
    );
    let bind = "{metadata: {name: p}, target: {kind: Node, name: n1}}";
    f.as_user(identity::scheduler(), Method::POST, "/api/v1/namespaces/default/pods/p/binding", bind).await.is(201);
    f.as_user(node.clone(), Method::POST, path, &request).await.is(201);
    f.as_user(node.clone(), Method::GET, "/api/v1/namespaces/default/pods/p", "").await.is(200);
    let unbound = "{spec: {expirationSeconds: 3600}}";
    f.as_user(node, Method::POST, path, unbound)
        .await
        .is(403)
        .has(&[("/message", "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod")]);
    // The pod goes, and its token with it.
    f.send(Method::DELETE, "/api/v1/namespaces/default/pods/p", "application/json", "{gracePeriodSeconds: 0}")
        .await
        .is(200);
    f.with_token(&token, "/api").await.is(401);
}

#[tokio::test]
async fn admission_refuses_in_upstreams_words() {
    let f = cluster().await;
    f.post("/api/v1/namespaces/nowhere/configmaps", "{metadata: {name: c}}")
        .await
        .is(404)
        .has(&[("/message", "namespaces \"nowhere\" not found")]);
    f.delete("/api/v1/namespaces/kube-system")
        .await
        .is(403)
        .has(&[("/message", "namespaces \"kube-system\" is forbidden: this namespace may not be deleted")]);
    f.post(
        "/api/v1/namespaces",
        "{metadata: {name: safe, labels: {\"pod-security.kubernetes.io/enforce\": baseline}}}",
    )
    .await
    .is(201);
    f.post("/api/v1/namespaces/safe/serviceaccounts", "{metadata: {name: default}}").await.is(201);
    let pod = "{metadata: {name: p}, spec: {hostNetwork: true, containers: [{name: c, image: nginx}]}}";
    f.post("/api/v1/namespaces/safe/pods", pod).await.is(403).has(&[(
        "/message",
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)",
    )]);
    let node = identity::kubelet("n1");
    f.as_user(node.clone(), Method::POST, "/api/v1/nodes", "{metadata: {name: n1}}")
        .await
        .is(201)
        .has(&[("/spec/taints/0/key", "node.kubernetes.io/not-ready")]);
    f.as_user(node, Method::POST, "/api/v1/nodes", "{metadata: {name: n2}}")
        .await
        .is(403)
        .has(&[("/message", "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"")]);
}

/// A pod that comes before its namespace's account waits for it.
#[tokio::test]
async fn pods_wait_for_the_default_account() {
    let f = cluster().await;
    let pod = f.post(
        "/api/v1/namespaces/default/pods",
        "{metadata: {name: p}, spec: {containers: [{name: c, image: nginx}]}}",
    );
    let account = f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}");
    let (pod, account) = tokio::join!(pod, account);
    account.is(201);
    pod.is(201).has(&[("/spec/serviceAccountName", "default")]);
}

/// A Secret for a token is filled as it is written, and its token dies with it.
#[tokio::test]
async fn token_secrets() {
    let f = cluster().await;
    f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: bot}}").await.is(201);
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = "{metadata: {name: s, annotations: {\"kubernetes.io/service-account.name\": bot}}, type: \"kubernetes.io/service-account-token\"}";
    let secret = f.post(secrets, body).await.is(201).has(&[("/data/namespace", "ZGVmYXVsdA==")]);
    let token = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, secret.at("/data/token")).unwrap();
    let token = String::from_utf8(token).unwrap();
    f.with_token(&token, "/api").await.is(200);
    f.delete("/api/v1/namespaces/default/secrets/s").await.is(200);
    f.with_token(&token, "/api").await.is(401);
    f.get("/.well-known/openid-configuration").await.is(200).has(&[("/issuer", ISSUER)]);
    f.get("/openid/v1/jwks").await.is(200).has(&[("/keys/0/crv", "P-256")]);
}

/// Many at once never book more than there is.
#[tokio::test]
async fn quotas_hold_under_concurrency() {
    let f = cluster().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    f.post(quotas, "{metadata: {name: q}, spec: {hard: {configmaps: \"5\"}}}").await.is(201);
    f.send(
        Method::PUT,
        &format!("{quotas}/q/status"),
        "application/json",
        "{metadata: {name: q}, status: {hard: {configmaps: \"5\"}, used: {configmaps: \"0\"}}}",
    )
    .await
    .is(200);
    let bodies: Vec<String> = (0..12).map(|i| format!("{{metadata: {{name: c{i}}}}}")).collect();
    let creates = bodies.iter().map(|body| f.post("/api/v1/namespaces/default/configmaps", body));
    let codes: Vec<u16> = futures_util::future::join_all(creates).await.iter().map(|reply| reply.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 7, "{codes:?}");
    f.get(&format!("{quotas}/q")).await.is(200).has(&[("/status/used/configmaps", "5")]);
}

/// What nothing came of takes neither a port nor a share of a quota.
#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let f = cluster().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = "{services.nodeports: \"0\", count/ingresses.networking.k8s.io: \"2\"}";
    f.post(quotas, &format!("{{metadata: {{name: q}}, spec: {{hard: {hard}}}}}")).await.is(201);
    let used = "{services.nodeports: \"0\", count/ingresses.networking.k8s.io: \"0\"}";
    let status = format!("{{metadata: {{name: q}}, status: {{hard: {hard}, used: {used}}}}}");
    f.send(Method::PUT, &format!("{quotas}/q/status"), "application/json", &status).await.is(200);

    let services = "/api/v1/namespaces/default/services";
    f.post(services, "{metadata: {name: s}, spec: {ports: [{port: 80}]}}").await.is(201);
    let port = "{spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}";
    for _ in 0..2 {
        f.patch(&format!("{services}/s"), "merge-patch", port).await.is(403);
    }

    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let body = |name| {
        format!(
            "{{metadata: {{name: {name}}}, spec: {{defaultBackend: {{service: {{name: s, port: {{number: 80}}}}}}}}}}"
        )
    };
    f.post(ingresses, &body("a")).await.is(201);
    f.post(ingresses, &body("a")).await.is(409);
    for _ in 0..1000 {
        if f.get(&format!("{quotas}/q")).await.at("/status/used/count~1ingresses.networking.k8s.io") == "1" {
            return drop(f.post(ingresses, &body("b")).await.is(201));
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("{}", f.get(&format!("{quotas}/q")).await.text());
}
