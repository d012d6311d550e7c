//! Broken requests through the front door: paths, queries, headers, bodies in every encoding, patches, definitions of
//! custom resources, expressions. Each gets an answer of the API's form, none ends the server, none is its own fault.

use http::Method;
use schema::json;

use crate::harness::Fixture;

#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;

use mutate::{mutate, rounds};

const POD: &str =
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
const DEFINITION: &str = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.example.org"},
 "spec":{"group":"example.org","scope":"Namespaced","names":{"plural":"boats","kind":"Boat"},"versions":[{"name":"v1","served":true,"storage":true,
 "schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"n":{"type":"integer","default":1}},
 "x-kubernetes-validations":[{"rule":"self.n > 0 && self.n <= oldSelf.n","messageExpression":"'n: ' + string(self.n)"}]}}}}}]}}"#;
const POLICY: &str = r#"{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"p"},
 "spec":{"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["pods"]}]},
 "variables":[{"name":"v","expression":"object.spec.containers.map(c, c.image)"}],
 "validations":[{"expression":"variables.v.all(i, i.matches('^[a-z]+$')) && size(object.metadata.?labels.orValue({})) < 9 ? true : quantity('1Gi').isGreaterThan(quantity('1'))"}]}}"#;

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn broken_requests_are_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fixture = runtime.block_on(Fixture::new());
    let answered = |method: Method, path: &str, content_type: &str, body: Vec<u8>| {
        let request = Fixture::request(method, path, content_type, body);
        let reply = runtime.block_on(fixture.raw(request));
        if reply.code >= 500 {
            // Apply answers unknown fields so, as upstream does.
            let known = reply.text().contains("failed to create typed patch object");
            assert!(json::parse(&reply.bytes).is_ok() && (known || reply.code != 500), "{path}: {}", reply.text());
        }
    };
    let bodies = [
        ("/api/v1/namespaces/default/pods", POD),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION),
        ("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", POLICY),
    ];
    for (path, body) in bodies {
        rounds(path, 300, &seeds(&[body]), |dice, body| {
            let kinds = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "text/plain"];
            answered(Method::POST, path, kinds[[0, 0, 0, 1, 2, 3][dice.below(6)]], body);
        });
    }
    let place = "/api/v1/namespaces/default/pods/kept";
    runtime.block_on(fixture.post("/api/v1/namespaces/default/pods", &POD.replace("\"a\"", "\"kept\"")));
    let patches = [
        r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"copy","from":"/spec","path":"/status"}]"#,
        r#"{"metadata":{"labels":{"a":null}},"spec":{"containers":[{"name":"c","$patch":"delete"}]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"kept","labels":{"x":"y"}},"spec":{"containers":[{"name":"c","image":"j"}]}}"#,
    ];
    rounds("patches", 400, &seeds(&patches), |dice, body| {
        let kinds = ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"];
        let kind = format!("application/{}", kinds[dice.below(4)]);
        answered(Method::PATCH, &format!("{place}?fieldManager=fuzz&force=true"), &kind, body);
    });
    let paths = [
        "/api/v1/namespaces/default/pods?labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dx&limit=5&continue=eyJ2IjoiMSJ9",
        "/apis/apps/v1/namespaces/default/deployments/a/scale?dryRun=All&resourceVersion=0&resourceVersionMatch=Exact",
        "/api/v1/nodes/a:80/proxy/x?y=z",
        "/openapi/v3/apis/apps/v1?hash=X",
        "/apis",
        "/healthz/etcd?verbose&exclude=x",
    ];
    rounds("paths", 1_500, &seeds(&paths), |dice, path| {
        let path: String = String::from_utf8_lossy(&path).chars().filter(|c| c.is_ascii_graphic()).collect();
        let path = format!("/{}", path.trim_start_matches('/'));
        if path.parse::<http::Uri>().is_err() || path.contains("watch") {
            return;
        }
        let mut request = Fixture::request(Method::GET, &path, "", "");
        let accepts =
            seeds(&["application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf;q=0.5,*/*"]);
        for name in ["accept", "impersonate-extra-a%2fb", "if-none-match", "accept-encoding"] {
            if let Ok(value) = http::HeaderValue::from_bytes(&mutate(dice, &accepts)) {
                request.headers_mut().insert(name, value);
            }
        }
        let reply = runtime.block_on(fixture.raw(request));
        assert_ne!(reply.code, 500, "{path}: {}", reply.text());
    });
}
