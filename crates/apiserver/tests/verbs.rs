//! create, get, list, update, patch, delete.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::harness::Fixture;

const POD: &str = "{metadata: {name: NAME, labels: {app: web}}, spec: {containers: [{name: c, image: nginx}]}}";

fn pod(name: &str) -> String {
    POD.replace("NAME", name)
}

#[tokio::test]
async fn create_get_list_delete() {
    let f = Fixture::new().await;
    let created = f.post("/api/v1/namespaces/default/pods", &pod("a")).await.is(201).has(&[
        ("/kind", "Pod"),
        ("/apiVersion", "v1"),
        ("/metadata/namespace", "default"),
        ("/metadata/generation", "1"),
        ("/metadata/creationTimestamp", "2027-01-15T08:00:00Z"),
        ("/status/phase", "Pending"),
        ("/status/qosClass", "BestEffort"),
        ("/spec/restartPolicy", "Always"),
        ("/spec/containers/0/imagePullPolicy", "Always"),
        ("/metadata/managedFields/0/manager", "tests"),
    ]);
    let got = f.get("/api/v1/namespaces/default/pods/a").await.is(200);
    assert_eq!(created.json(), got.json());
    f.get("/api/v1/namespaces/default/pods").await.is(200).has(&[
        ("/kind", "PodList"),
        ("/items/0/metadata/name", "a"),
        ("/items/0/kind", "-"),
        ("/metadata/resourceVersion", &created.at("/metadata/resourceVersion")),
    ]);
    f.post("/api/v1/namespaces/default/pods", &pod("a"))
        .await
        .is(409)
        .has(&[("/reason", "AlreadyExists"), ("/message", "pods \"a\" already exists")]);
    f.delete("/api/v1/namespaces/default/pods/a").await.is(200).has(&[("/kind", "Pod")]);
    f.get("/api/v1/namespaces/default/pods/a").await.is(404).has(&[
        ("/message", "pods \"a\" not found"),
        ("/details/kind", "pods"),
        ("/code", "404"),
    ]);
}

#[tokio::test]
async fn generated_names() {
    let f = Fixture::new().await;
    let body = "{metadata: {generateName: web-}, data: {a: b}}";
    let name = f.post("/api/v1/namespaces/default/configmaps", body).await.is(201).at("/metadata/name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn bad_requests() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (path, body, code, message) in [
        (maps, "{", 400, ""),
        (
            maps,
            "{metadata: {}}",
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (maps, "{metadata: {name: UP}}", 422, ""),
        (
            maps,
            "{metadata: {name: a, namespace: other}}",
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            maps,
            "{metadata: {name: a, resourceVersion: \"1\"}}",
            500,
            "resourceVersion should not be set on objects to be created",
        ),
        (maps, "{kind: Pod, apiVersion: v1, metadata: {name: a}}", 400, ""),
        ("/api/v1/namespaces/default/pods", "{metadata: {name: a}, spec: {containers: 1}}", 400, ""),
        ("/api/v1/nothing", "{}", 404, "the server could not find the requested resource"),
    ] {
        let reply = f.post(path, body).await.is(code);
        if !message.is_empty() {
            reply.has(&[("/message", message)]);
        }
    }
    f.post(&format!("{maps}?fieldValidation=Strict"), "{metadata: {name: a}, dta: {}}").await.is(400).has(&[(
        "/message",
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\"",
    )]);
    let warned = f.post(maps, "{metadata: {name: warned}, dta: {}}").await.is(201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    let refused = f.post(maps, "{metadata: {name: UP}, dta: {}}").await.is(422);
    assert_eq!(refused.headers["warning"], warned.headers["warning"], "a refusal does not hide what was wrong besides");
}

#[tokio::test]
async fn refusals_of_upstream() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    f.post(maps, "{metadata: {name: m}}").await.is(201);
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, &pod("p")).await.is(201);
    let ephemeral = format!("{pods}/p/ephemeralcontainers");
    let patch = |image: &str| format!("{{spec: {{ephemeralContainers: [{{name: e, image: {image}}}]}}}}");
    f.patch(&ephemeral, "strategic-merge-patch", &patch("one")).await.is(200);
    let merge = "application/merge-patch+json";
    let (get, post, put, change, delete) =
        (http::Method::GET, http::Method::POST, http::Method::PUT, http::Method::PATCH, http::Method::DELETE);
    for (method, path, kind, body, code, message) in [
        (&delete, "/api/v1/configmaps", "", "", 405, "does not allow this method"),
        (&get, "/api/v2", "", "", 404, "could not find the requested resource"),
        (&get, "/apis/apps/v9", "", "", 404, "could not find the requested resource"),
        (&post, maps, "", "{metadata: {name: a, finalizers: [x]}}", 422, "neither a standard finalizer name"),
        (&post, maps, "", "{kind: Pod}", 400, "Pod in version \"v1\" cannot be handled as a ConfigMap"),
        (&put, "/api/v1/namespaces/default/configmaps/m", "", "{}", 400, "name must be provided"),
        (
            &change,
            "/api/v1/namespaces/default/configmaps/m",
            merge,
            "{metadata: {uid: x}}",
            422,
            "metadata.uid: Invalid value: \"x\": field is immutable",
        ),
        (
            &change,
            "/api/v1/namespaces/default/configmaps/m",
            merge,
            "[]",
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            &change,
            &ephemeral,
            "application/strategic-merge-patch+json",
            &patch("two"),
            422,
            "existing ephemeral containers \"e\" may not be changed",
        ),
        (
            &change,
            "/api/v1/namespaces/default/pods/p/resize",
            "application/strategic-merge-patch+json",
            "{spec: {containers: [{name: c, resources: {requests: {cpu: \"1\"}}}]}}",
            422,
            "Pod QOS Class may not change",
        ),
        (
            &post,
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            "",
            "{metadata: {name: i}}",
            422,
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            &post,
            "/apis/storagemigration.k8s.io/v1/storageversionmigrations",
            "",
            "{metadata: {name: s}}",
            422,
            "spec.resource.resource: Required value: resource is required to be set",
        ),
    ] {
        let kind = if kind.is_empty() && !body.is_empty() { "application/json" } else { kind };
        let reply = f.send(method.clone(), path, kind, body).await.is(code);
        assert!(reply.at("/message").contains(message), "{path}: {}", reply.text());
    }
    f.get(&format!("{maps}/m")).await.is(200);
}

#[tokio::test]
async fn a_replacement_by_the_same_counts_no_generation() {
    let f = Fixture::new().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let body = "{metadata: {name: r}, spec: {replicas: 0, selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";
    let made = f.post(path, body).await.is(201);
    let again = f.put(&format!("{path}/r"), body).await.is(200).has(&[("/metadata/generation", "1")]);
    assert_eq!(again.revision(), made.revision());
}

#[tokio::test]
async fn patches_are_read_strictly() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    f.post(maps, "{metadata: {name: m}}").await.is(201);
    let send = |query: &str, kind: &str, body: &str| {
        let path = format!("{maps}/m?fieldManager=t&{query}");
        f.raw(Fixture::request(http::Method::PATCH, &path, &format!("application/{kind}"), body.to_owned()))
    };
    let twice = r#"{"data":{"a":"1"},"data":{"a":"2"}}"#;
    let applied = "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: v\n  a: w\n";
    let unknown = "apiVersion: v1\nkind: ConfigMap\ndta: {}\n";
    for (query, kind, body, code, message) in [
        ("", "merge-patch+json", "{", 400, "invalid JSON patch"),
        ("fieldValidation=Strict", "merge-patch+json", twice, 422, r#"strict decoding error: duplicate field "data""#),
        (
            "fieldValidation=Strict",
            "strategic-merge-patch+json",
            r#"{"dta":{"b":"c"}}"#,
            422,
            r#"patch: Invalid value: "map[dta:map[b:c]]": strict decoding error: unknown field "dta""#,
        ),
        (
            "fieldValidation=Strict",
            "json-patch+json",
            r#"[{"op":"add","path":"/data","value":{},"odd":1}]"#,
            422,
            r#"strict decoding error: json patch unknown field "[0].odd""#,
        ),
        (
            "fieldValidation=Strict",
            "apply-patch+yaml",
            applied,
            400,
            "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"a\" already set in map",
        ),
        ("", "apply-patch+yaml", unknown, 500, "ConfigMap): .dta: field not declared in schema"),
        ("", "apply-patch+yaml", "apiVersion: v1\nkind: Pod\n", 400, "invalid object type: /v1, Kind=Pod"),
    ] {
        let reply = send(query, kind, body).await.is(code);
        assert!(reply.at("/message").contains(message), "{}", reply.text());
    }
    for (kind, body, warning) in [
        ("merge-patch+json", twice, r#"duplicate field "data""#),
        ("apply-patch+yaml", applied, r#"key "a" already set in map"#),
    ] {
        let reply = send("force=true", kind, body);
        let reply = if kind.starts_with("merge") { send("", kind, body).await } else { reply.await };
        let found = reply.is(200).headers["warning"].to_str().expect("text").replace('\\', "");
        assert!(found.contains(warning), "{found}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_pages_expire_and_old_watches_do_not() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        f.post(maps, &format!("{{metadata: {{name: {name}}}}}")).await.is(201);
    }
    let first = f.get(&format!("{maps}?limit=1")).await.is(200);
    let next = format!("{maps}?limit=1&continue={}", first.at("/metadata/continue"));
    f.get(&next).await.is(200).has(&[("/items/0/metadata/name", "b")]);
    for minute in 0..12 {
        f.post(maps, &format!("{{metadata: {{name: later-{minute}}}}}")).await.is(201);
        tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    }
    let expired = f.get(&next).await.is(410).has(&[("/reason", "Expired")]);
    let rest = format!("{maps}?limit=1&continue={}", expired.at("/metadata/continue"));
    f.get(&rest).await.is(200).has(&[("/items/0/metadata/name", "b")]);
    f.get(&format!("{maps}?resourceVersion={}&resourceVersionMatch=Exact", first.revision())).await.is(200);
}

#[tokio::test]
async fn updates() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let one = f.post(maps, "{metadata: {name: m}, data: {a: \"1\"}}").await.is(201);
    let path = format!("{maps}/m");
    let same = f.put(&path, "{metadata: {name: m}, data: {a: \"1\"}}").await.is(200);
    assert_eq!(one.revision(), same.revision(), "an update that changes nothing writes nothing");
    let two = f.put(&path, "{metadata: {name: m}, data: {a: \"2\"}}").await.is(200).has(&[("/data/a", "2")]);
    assert!(two.revision() > one.revision());
    let stale = format!("{{metadata: {{name: m, resourceVersion: \"{}\"}}, data: {{}}}}", one.revision());
    f.put(&path, &stale).await.is(409).has(&[
        ("/reason", "Conflict"),
        ("/message", "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the latest version and try again"),
    ]);
    f.put(&path, "{metadata: {name: other}}")
        .await
        .is(400)
        .has(&[("/message", "the name of the object (other) does not match the name on the URL (m)")]);
    f.put(&format!("{maps}/none"), "{metadata: {name: none}}").await.is(404);
    f.put("/api/v1/namespaces/default/endpoints/made", "{metadata: {name: made}}").await.is(201);
    f.put(&format!("{path}?dryRun=All"), "{metadata: {name: m}, data: {a: dry}}")
        .await
        .is(200)
        .has(&[("/data/a", "dry")]);
    f.get(&path).await.has(&[("/data/a", "2")]);
}

#[tokio::test]
async fn patches() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, &pod("p")).await.is(201);
    let path = format!("{pods}/p");
    for (kind, body, at, want) in [
        ("merge-patch", "{metadata: {labels: {x: y}}}", "/metadata/labels/x", "y"),
        (
            "strategic-merge-patch",
            "{spec: {containers: [{name: c, image: \"nginx:2\"}]}}",
            "/spec/containers/0/image",
            "nginx:2",
        ),
        ("json-patch", "[{op: add, path: \"/metadata/labels/j\", value: k}]", "/metadata/labels/j", "k"),
        ("merge-patch", "{metadata: {labels: {x: null}}}", "/metadata/labels/x", "-"),
    ] {
        f.patch(&path, kind, body).await.is(200).has(&[(at, want)]);
    }
    f.patch(&path, "merge-patch", "{spec: {nodeName: n}}").await.is(422);
    f.patch(&path, "json-patch", "[{op: test, path: \"/metadata/name\", value: other}]").await.is(422);
    f.patch(&path, "json-patch", "[{op: nonsense}]").await.is(422);
    f.patch(&path, "odd", "{}").await.is(415);
    f.patch(&format!("{pods}/none"), "merge-patch", "{}").await.is(404);
}

#[tokio::test]
async fn apply() {
    let f = Fixture::new().await;
    let path = "/api/v1/namespaces/default/configmaps/applied";
    let send = |manager: &str, force: bool, body: &'static str| {
        let url = format!("{path}?fieldManager={manager}&force={force}");
        let request =
            Fixture::request(http::Method::PATCH, &url, "application/apply-patch+yaml", crate::harness::relaxed(body));
        f.raw(request)
    };
    let body = "{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {a: x}}";
    send("one", false, body).await.is(201).has(&[("/data/a", "x"), ("/metadata/managedFields/0/operation", "Apply")]);
    let again = send("one", false, body).await.is(200);
    let conflicting = "{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {a: z}}";
    send("two", false, conflicting).await.is(409).has(&[("/details/causes/0/field", ".data.a")]);
    let forced = send("two", true, conflicting).await.is(200).has(&[("/data/a", "z")]);
    assert!(forced.revision() > again.revision());
    let none = Fixture::request(http::Method::PATCH, path, "application/apply-patch+yaml", body);
    f.raw(none).await.is(422);
}

#[tokio::test]
async fn finalizers_and_preconditions() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    f.post(maps, "{metadata: {name: m, finalizers: [example.com/hold]}}").await.is(201);
    let path = format!("{maps}/m");
    let uid = f.get(&path).await.at("/metadata/uid");
    f.send(http::Method::DELETE, &path, "application/json", "{preconditions: {uid: other}}").await.is(409);
    f.send(http::Method::DELETE, &path, "application/json", &format!("{{preconditions: {{uid: \"{uid}\"}}}}"))
        .await
        .is(200)
        .has(&[("/metadata/deletionGracePeriodSeconds", "0"), ("/metadata/deletionTimestamp", "2027-01-15T08:00:00Z")]);
    f.patch(&path, "merge-patch", "{metadata: {finalizers: [example.com/new]}}").await.is(422);
    f.patch(&path, "merge-patch", "{metadata: {finalizers: null}}").await.is(200);
    f.get(&path).await.is(404);

    f.post(maps, "{metadata: {name: o}}").await.is(201);
    f.send(http::Method::DELETE, &format!("{maps}/o"), "application/json", "{propagationPolicy: Foreground}")
        .await
        .is(200)
        .has(&[("/metadata/finalizers/0", "foregroundDeletion")]);
    f.send(http::Method::DELETE, &format!("{maps}/o"), "application/json", "{propagationPolicy: Sideways}")
        .await
        .is(422);
}

#[tokio::test]
async fn pods_die_gracefully() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, &pod("p")).await.is(201);
    f.post(&format!("{pods}/p/binding"), "{metadata: {name: p}, target: {name: n1}}")
        .await
        .is(201)
        .has(&[("/status", "Success")]);
    f.get(&format!("{pods}/p")).await.has(&[("/spec/nodeName", "n1"), ("/status/conditions/0/type", "PodScheduled")]);
    f.post(&format!("{pods}/p/binding"), "{metadata: {name: p}, target: {name: n2}}").await.is(409).has(&[(
        "/message",
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"",
    )]);
    f.delete(&format!("{pods}/p")).await.is(200).has(&[
        ("/metadata/deletionGracePeriodSeconds", "30"),
        ("/metadata/deletionTimestamp", "2027-01-15T08:00:30Z"),
        ("/metadata/generation", "2"),
    ]);
    f.delete(&format!("{pods}/p?gracePeriodSeconds=5"))
        .await
        .is(200)
        .has(&[("/metadata/deletionGracePeriodSeconds", "5")]);
    f.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await.is(200);
    f.get(&format!("{pods}/p")).await.is(404);
}

#[tokio::test]
async fn pages() {
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c", "d", "e"] {
        f.post(maps, &format!("{{metadata: {{name: {name}, labels: {{odd: {name}}}}}}}")).await.is(201);
    }
    let first = f
        .get(&format!("{maps}?limit=2"))
        .await
        .is(200)
        .has(&[("/items/1/metadata/name", "b"), ("/metadata/remainingItemCount", "3")]);
    // What happens between the pages is not seen.
    f.delete(&format!("{maps}/c")).await.is(200);
    f.post(maps, "{metadata: {name: bb}}").await.is(201);
    let token = first.at("/metadata/continue");
    let second = f.get(&format!("{maps}?limit=2&continue={token}")).await.is(200).has(&[
        ("/items/0/metadata/name", "c"),
        ("/items/1/metadata/name", "d"),
        ("/metadata/resourceVersion", &first.at("/metadata/resourceVersion")),
    ]);
    let token = second.at("/metadata/continue");
    f.get(&format!("{maps}?limit=2&continue={token}"))
        .await
        .is(200)
        .has(&[("/items/0/metadata/name", "e"), ("/metadata/continue", "-")]);
    f.get(&format!("{maps}?continue=nonsense")).await.is(400);
    f.get(&format!("{maps}?labelSelector=odd+in+(a,e)"))
        .await
        .is(200)
        .has(&[("/items/1/metadata/name", "e"), ("/items/2", "-")]);
    f.get(&format!("{maps}?fieldSelector=metadata.name%3Dd"))
        .await
        .is(200)
        .has(&[("/items/0/metadata/name", "d"), ("/items/1", "-")]);
    f.get(&format!("{maps}?fieldSelector=data.x%3Dd")).await.is(400);
    f.get(&format!("{maps}?resourceVersion=99999999"))
        .await
        .is(504)
        .has(&[("/details/causes/0/reason", "ResourceVersionTooLarge")]);
    let then = first.at("/metadata/resourceVersion");
    f.get(&format!("{maps}?resourceVersion={then}&resourceVersionMatch=Exact"))
        .await
        .is(200)
        .has(&[("/items/4/metadata/name", "e"), ("/items/1/metadata/name", "b")]);
}

#[tokio::test]
async fn services_get_addresses() {
    let f = Fixture::new().await;
    let services = "/api/v1/namespaces/default/services";
    let made =
        f.post(services, "{metadata: {name: s}, spec: {selector: {a: b}, ports: [{port: 80}]}}").await.is(201).has(&[
            ("/spec/type", "ClusterIP"),
            ("/spec/ipFamilies/0", "IPv4"),
            ("/spec/ipFamilyPolicy", "SingleStack"),
            ("/spec/ports/0/targetPort", "80"),
            ("/spec/sessionAffinity", "None"),
            ("/spec/internalTrafficPolicy", "Cluster"),
        ]);
    let ip = made.at("/spec/clusterIP");
    assert!(ip.starts_with("10.43."), "{ip}");
    let taken = format!("{{metadata: {{name: t}}, spec: {{clusterIP: \"{ip}\", ports: [{{port: 80}}]}}}}");
    f.post(services, &taken).await.is(422);
    f.patch(&format!("{services}/s"), "merge-patch", "{spec: {type: NodePort}}").await.is(200);
    let port: u16 = f.get(&format!("{services}/s")).await.at("/spec/ports/0/nodePort").parse().expect("a port");
    assert!((30000..=32767).contains(&port));
    f.patch(&format!("{services}/s"), "merge-patch", "{spec: {clusterIP: \"10.43.0.9\"}}").await.is(422);
    f.patch(&format!("{services}/s"), "merge-patch", "{spec: {type: ClusterIP}}")
        .await
        .is(200)
        .has(&[("/spec/ports/0/nodePort", "-")]);
    f.delete(&format!("{services}/s")).await.is(200);
    f.post(services, &taken).await.is(201);
    f.post(services, "{metadata: {name: h}, spec: {clusterIP: None, selector: {a: b}}}")
        .await
        .is(201)
        .has(&[("/spec/clusterIPs/0", "None")]);
}

#[tokio::test]
async fn namespaces_end_in_two_steps() {
    let f = Fixture::new().await;
    f.post("/api/v1/namespaces", "{metadata: {name: n}}").await.is(201).has(&[
        ("/spec/finalizers/0", "kubernetes"),
        ("/status/phase", "Active"),
        ("/metadata/labels/kubernetes.io~1metadata.name", "n"),
    ]);
    f.delete("/api/v1/namespaces/n").await.is(200).has(&[("/status/phase", "Terminating")]);
    f.put("/api/v1/namespaces/n/finalize", "{metadata: {name: n}, spec: {finalizers: []}}").await.is(200);
    f.get("/api/v1/namespaces/n").await.is(404);
}

#[tokio::test]
async fn who_may() {
    let f = Fixture::new().await;
    let get = |token: &'static str| {
        let mut request = Fixture::request(http::Method::GET, "/api/v1/namespaces/default/pods", "", "");
        request.extensions_mut().clear();
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        f.raw(request)
    };
    get("bad").await.is(401).has(&[("/reason", "Unauthorized")]);
    get("jane").await.is(200);
    get("nobody").await.is(403).has(&[(
        "/message",
        "pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    )]);
    get("").await.is(403);
}

#[tokio::test]
async fn encodings() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, &pod("p")).await.is(201);
    let accept = |path: &str, accept: &str| {
        let mut request = Fixture::request(http::Method::GET, path, "", "");
        request.headers_mut().insert("accept", accept.parse().expect("a header"));
        f.raw(request)
    };
    let proto = accept(pods, "application/vnd.kubernetes.protobuf").await.is(200);
    assert!(proto.bytes.starts_with(b"k8s\0"));
    let envelope = schema::proto::open(&proto.bytes).expect("an envelope");
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "PodList"));
    let id = schema::Table::builtin().kind("", "v1", "PodList").expect("the list's type");
    let list = schema::proto::decode(schema::Table::builtin(), id, envelope.raw).expect("a list");
    assert_eq!(list.str_at(&["items"]), "");
    assert_eq!(list["items"][0].str_at(&["metadata", "name"]), "p");
    accept(&format!("{pods}/p"), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.is(200).has(&[
        ("/kind", "PartialObjectMetadata"),
        ("/metadata/name", "p"),
        ("/spec", "-"),
    ]);
    accept(pods, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        .await
        .is(200)
        .has(&[("/kind", "PartialObjectMetadataList"), ("/items/0/metadata/name", "p")]);
    accept(pods, "application/json;as=Table;g=meta.k8s.io;v=v1,application/json").await.is(200).has(&[
        ("/kind", "Table"),
        ("/rows/0/cells/0", "p"),
        ("/rows/0/object/kind", "PartialObjectMetadata"),
        ("/columnDefinitions/0/name", "Name"),
    ]);
    accept(pods, "text/html").await.is(406);
}

#[tokio::test]
async fn lists_decode_nothing() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b", "c"] {
        f.post(pods, &pod(name)).await.is(201);
    }
    let decodes = || f.server.storage("", "pods").unwrap().decodes.load(std::sync::atomic::Ordering::Relaxed);
    let before = decodes();
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "application/json",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    ] {
        let mut request = Fixture::request(
            http::Method::GET,
            &format!("{pods}?labelSelector=app%3Dweb&fieldSelector=spec.nodeName%3D"),
            "",
            "",
        );
        request.headers_mut().insert("accept", accept.parse().unwrap());
        f.raw(request).await.is(200);
    }
    assert_eq!(decodes(), before);
}

#[tokio::test]
async fn long_lists_are_compressed_for_those_who_ask() {
    use std::io::Read;
    let f = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let text = "x".repeat(50_000);
    for name in ["a", "b", "c", "d"] {
        f.post(maps, &format!("{{metadata: {{name: {name}}}, data: {{k: {text}}}}}")).await.is(201);
    }
    let plain = f.get(maps).await.is(200);
    let mut request = Fixture::request(http::Method::GET, maps, "", "");
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let packed = f.raw(request).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.bytes.len() < 10_000);
    let mut all = Vec::new();
    flate2::read::GzDecoder::new(&packed.bytes[..]).read_to_end(&mut all).unwrap();
    assert_eq!(all, plain.bytes);
}

#[tokio::test]
async fn trust_bundles_are_named_by_their_signer() {
    let f = Fixture::new().await;
    let path = "/apis/certificates.k8s.io/v1/clustertrustbundles";
    let anchor = anchor();
    let body = |name: &str, signer: &str, anchors: &str| {
        serde_json::json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": anchors}})
            .to_string()
    };
    for (name, signer, anchors, message) in [
        ("a:b", "", &*anchor, "ClusterTrustBundle without signer name must not have"),
        ("b", "example.com/signer", &*anchor, "must be named with prefix example.com:signer:"),
        ("example.com:signer:B", "example.com/signer", &*anchor, "RFC 1123"),
        ("b", "", "nothing", "at least one trust anchor must be provided"),
        ("b", "", &*anchor.replace("CERTIFICATE", "SECRET"), "entry 0 has bad block type: SECRET"),
        ("b", "", &*anchor.repeat(2), "duplicate trust anchor (indices [0 1])"),
    ] {
        let answer = f.post(path, &body(name, signer, anchors)).await.is(422);
        assert!(answer.at("/message").contains(message), "{name}: {}", answer.at("/message"));
    }
    f.post(path, &body("example.com:signer:b", "example.com/signer", &anchor)).await.is(201);
    f.post(path, &body("b", "", &anchor)).await.is(201);
}

#[tokio::test]
async fn signing_requests_are_decided_once() {
    let f = Fixture::new().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let random = pki::SystemRandom::new();
    let key = pki::KeyPair::generate(&random).expect("a key");
    let request = pki::CertificateRequest::create_der(&key, &pki::Subject::default(), &pki::Names::default(), &random);
    let request = STANDARD.encode(request.expect("a request"));
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{request}\n-----END CERTIFICATE REQUEST-----\n");
    let body = serde_json::json!({"metadata": {"name": "r"}, "spec": {
        "request": STANDARD.encode(pem), "signerName": "example.com/signer", "usages": ["client auth"]}});
    f.post(path, &body.to_string()).await.is(201);
    let conditions = |types: &[&str]| {
        let list: Vec<_> =
            types.iter().map(|ty| serde_json::json!({"type": ty, "status": "True", "reason": "r"})).collect();
        serde_json::json!({"status": {"conditions": list}})
    };
    let certificate = |text: &str| serde_json::json!({"status": {"certificate": STANDARD.encode(text)}});
    for (part, patch, message) in [
        ("approval", conditions(&["Approved", "Denied"]), "Approved and Denied conditions are mutually exclusive"),
        ("approval", conditions(&["Approved"]), ""),
        ("approval", conditions(&["Approved", "Other"]), ""),
        ("approval", conditions(&[]), "Forbidden: updates may not remove a condition of type \"Approved\""),
        ("status", certificate("nothing"), "\"<certificate data>\": must contain at least one CERTIFICATE PEM block"),
        ("status", certificate(&anchor()), ""),
        ("status", certificate(&anchor()), "Forbidden: updates may not modify existing certificate content"),
    ] {
        let answer = f.patch(&format!("{path}/r/{part}"), "merge-patch", &patch.to_string()).await;
        let answer = answer.is(if message.is_empty() { 200 } else { 422 });
        assert!(message.is_empty() || answer.at("/message").contains(message), "{}", answer.at("/message"));
    }
}

#[tokio::test]
async fn events_are_selected_by_the_names_of_either_version() {
    let f = Fixture::new().await;
    let event = r#"{metadata: {name: e, namespace: default}, eventTime: "2026-01-01T00:00:00.000000Z", action: a, reason: r, type: Normal,
        reportingController: c, reportingInstance: i, regarding: {kind: Pod, name: p, namespace: default}}"#;
    f.post("/apis/events.k8s.io/v1/namespaces/default/events", event).await.is(201);
    for (group, selector, found) in [
        ("api/v1", "source=c", "e"),
        ("api/v1", "source=i", "-"),
        ("api/v1", "reportingComponent=c,involvedObject.name=p", "e"),
        ("apis/events.k8s.io/v1", "reportingController=c,regarding.name=p", "e"),
        ("apis/events.k8s.io/v1", "reportingController=c,regarding.name=q", "-"),
    ] {
        let path = format!("/{group}/namespaces/default/events?fieldSelector={}", selector.replace('=', "%3D"));
        f.get(&path).await.is(200).has(&[("/items/0/metadata/name", found)]);
    }
}

fn anchor() -> String {
    let ca = pki::Authority::create("anchor", 0, &pki::SystemRandom::new()).expect("an authority");
    ca.bundle_pem()
}
