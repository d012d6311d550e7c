//! Who a request is made by and for: impersonation in all its modes, through requests.

use apiserver::User;
use http::{HeaderName, Method};

use crate::cluster::cluster;
use crate::harness::{Fixture, Reply};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn allow(f: &Fixture, who: &str, rules: &str) {
    f.post(&format!("{RBAC}/clusterroles"), &format!("{{metadata: {{name: \"{who}\"}}, rules: [{rules}]}}"))
        .await
        .is(201);
    let role = format!("roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"{who}\"}}");
    let subject = format!("{{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"{who}\"}}");
    f.post(
        &format!("{RBAC}/clusterrolebindings"),
        &format!("{{metadata: {{name: \"{who}\"}}, {role}, subjects: [{subject}]}}"),
    )
    .await
    .is(201);
}

async fn send(f: &Fixture, user: &User, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
    let body = if method == Method::POST { "{}" } else { "" };
    let mut request = Fixture::request(method, path, "application/json", body);
    request.extensions_mut().insert(user.clone());
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    f.raw(request).await
}

/// `NAME: GROUPS` of the one in whose name it was, or why it was refused.
async fn acting(f: &Fixture, user: &User, headers: &[(&str, &str)]) -> String {
    let reply = send(f, user, Method::POST, SELF, headers).await;
    if reply.code != 201 {
        return reply.at("/message");
    }
    let info = reply.json()["status"]["userInfo"].clone();
    let groups: Vec<_> = info.list_at(&["groups"]).iter().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    let uid = info.str_at(&["uid"]);
    let extra = info.object_at(&["extra"]).map_or(String::new(), |e| format!(" {}", schema::Value::Object(e.clone())));
    format!("{}{}{uid}: {}{extra}", info.str_at(&["username"]), if uid.is_empty() { "" } else { "#" }, groups.join(","))
}

#[tokio::test]
async fn impersonation() {
    let f = cluster().await;
    allow(&f, "old", "{apiGroups: [\"\"], resources: [users, groups, serviceaccounts], verbs: [impersonate], resourceNames: [jane, dev, \"system:unauthenticated\", bot]}, {apiGroups: [authentication.k8s.io], resources: [uids, userextras/scopes], verbs: [impersonate], resourceNames: [\"42\", view]}").await;
    allow(&f, "new", "{apiGroups: [authentication.k8s.io], resources: [users, groups], verbs: [\"impersonate:user-info\"], resourceNames: [jane, dev]}, {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: [\"impersonate-on:user-info:create\"]}").await;
    allow(&f, "nodes", "{apiGroups: [authentication.k8s.io], resources: [nodes], verbs: [\"impersonate:arbitrary-node\"]}, {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: [\"impersonate-on:arbitrary-node:create\"]}").await;
    allow(&f, "system:serviceaccount:ns:agent", "{apiGroups: [authentication.k8s.io], resources: [nodes], verbs: [\"impersonate:associated-node\"]}, {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: [\"impersonate-on:associated-node:create\"]}").await;
    let (old, new, nodes, nobody) =
        (User::new("old", &[]), User::new("new", &[]), User::new("nodes", &[]), User::new("anna", &[]));
    let mut agent = User::new("system:serviceaccount:ns:agent", &[]);
    agent.extra.insert("authentication.kubernetes.io/node-name".into(), vec!["a".into()]);
    let cannot = |who: &str, verb: &str, what: &str| format!("User \"{who}\" cannot {verb} resource {what}");
    let create = "\"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope";
    for (user, headers, wanted) in [
        (&old, &[("impersonate-user", "jane")][..], "jane: system:authenticated".to_owned()),
        (
            &old,
            &[("impersonate-user", "jane"), ("impersonate-group", "dev"), ("impersonate-uid", "42"), ("impersonate-extra-scopes", "view")],
            "jane#42: dev,system:authenticated {\"scopes\":[\"view\"]}".into(),
        ),
        (&old, &[("impersonate-user", "jane"), ("impersonate-uid", "43")], cannot("old", "impersonate", "\"uids\" in API group \"authentication.k8s.io\"")),
        (&old, &[("impersonate-user", "jane"), ("impersonate-group", "system:unauthenticated")], cannot("jane", "create", create)),
        (&old, &[("impersonate-user", "system:serviceaccount:ns:bot")], "system:serviceaccount:ns:bot: system:serviceaccounts,system:serviceaccounts:ns,system:authenticated".into()),
        (&old, &[("impersonate-user", "bob")], cannot("old", "impersonate", "\"users\" in API group \"\" at the cluster scope")),
        // Who never succeeded is told of the first mode that is for such a user.
        (&nobody, &[("impersonate-user", "bob")], cannot("anna", "impersonate-on:user-info:create", create)),
        (&nobody, &[("impersonate-user", "system:node:a")], cannot("anna", "impersonate-on:arbitrary-node:create", create)),
        (&nobody, &[("impersonate-user", "system:serviceaccount:ns:bot")], cannot("anna", "impersonate-on:serviceaccount:create", create)),
        (&new, &[("impersonate-user", "jane"), ("impersonate-group", "dev")], "jane: dev,system:authenticated".into()),
        (&new, &[("impersonate-user", "jane"), ("impersonate-group", "ops")], cannot("new", "impersonate:user-info", "\"groups\" in API group \"authentication.k8s.io\"")),
        (&new, &[("impersonate-user", "jane"), ("impersonate-group", "system:masters")], "impersonating the system:masters group is not allowed".into()),
        (&new, &[("impersonate-user", "jane"), ("impersonate-extra-scopes", "view")], "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"scopes\": must be a domain-prefixed path (such as \"acme.io/foo\")".into()),
        (&nodes, &[("impersonate-user", "system:node:a")], "system:node:a: system:nodes,system:authenticated".into()),
        (&nodes, &[("impersonate-user", "system:node:a"), ("impersonate-group", "x")], cannot("nodes", "impersonate", "\"users\" in API group \"\"")),
        (&agent, &[("impersonate-user", "system:node:a")], "system:node:a: system:nodes,system:authenticated".into()),
        (&agent, &[("impersonate-user", "system:node:b")], cannot("system:serviceaccount:ns:agent", "impersonate-on:arbitrary-node:create", create)),
        (&old, &[("impersonate-group", "dev")], "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name".into()),
    ] {
        let found = acting(&f, user, headers).await;
        assert!(found.contains(&wanted), "{} {headers:?}: {found}", user.name);
    }
    // The permission is for one thing that the other may do, as well as for being the other.
    let pods = "/api/v1/namespaces/default/pods";
    let reply = send(&f, &new, Method::GET, pods, &[("impersonate-user", "jane")]).await.is(403);
    assert!(
        reply.at("/message").contains("User \"new\" cannot impersonate-on:user-info:list resource \"pods\""),
        "{}",
        reply.text()
    );
}
