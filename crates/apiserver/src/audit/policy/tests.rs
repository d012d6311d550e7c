//! Which rule a request meets, and what is wrong with policies.

use http::Method;

use super::{Level, Policy};
use crate::{Attributes, User};

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [quiet]}
- {level: Metadata, userGroups: [dev], verbs: [list]}
- {level: RequestResponse, resources: [{group: '', resources: [pods], resourceNames: [special]}], omitManagedFields: true}
- {level: Request, resources: [{group: apps, resources: [deployments/*]}], omitStages: [ResponseStarted]}
- {level: Metadata, resources: [{group: '*', resources: ['*/scale']}], namespaces: [here]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Request, namespaces: ['']}
- {level: Metadata, resources: [{group: batch}]}
";

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = Policy::parse(POLICY.as_bytes()).expect("a policy");
    let check = |user: &str, method: Method, url: &str, level: Level, stages: usize| {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let user = User::new(user, &["dev"]);
        let decided = policy.decide(Some(&user), &Attributes::parse(&method, path, query));
        assert_eq!((decided.level, decided.omit_stages.len()), (level, stages), "{method} {url}");
    };
    let pods = "/api/v1/namespaces/here/pods";
    check("quiet", Method::GET, pods, Level::None, 1);
    check("jane", Method::GET, pods, Level::Metadata, 1);
    check("jane", Method::GET, &format!("{pods}/special"), Level::RequestResponse, 1);
    check("jane", Method::GET, &format!("{pods}/special/log"), Level::None, 0);
    check("jane", Method::GET, &format!("{pods}/other"), Level::None, 0);
    let deployments = "/apis/apps/v1/namespaces/here/deployments/d";
    check("jane", Method::GET, deployments, Level::Request, 2);
    check("jane", Method::PUT, &format!("{deployments}/scale"), Level::Request, 2);
    check("jane", Method::PUT, "/apis/apps/v1/namespaces/here/replicasets/d/scale", Level::Metadata, 1);
    check("jane", Method::PUT, "/apis/apps/v1/namespaces/there/replicasets/d/scale", Level::None, 0);
    check("jane", Method::GET, "/healthz/ping", Level::None, 1);
    check("jane", Method::GET, "/versions", Level::None, 0);
    check("jane", Method::DELETE, "/api/v1/nodes/n", Level::Request, 1);
    check("jane", Method::GET, "/apis/batch/v1/namespaces/here/jobs/j/status", Level::Metadata, 1);
    assert_eq!(policy.decide(None, &Attributes::parse(&Method::GET, pods, "")).level, Level::None);
}

#[test]
fn everything_wrong_is_told() {
    let check = |rules: &str, why: &str| {
        let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}");
        assert_eq!(Policy::parse(text.as_bytes()).expect_err(rules), why);
    };
    check("[]", "loaded illegal policy with 0 rules");
    check("[{}]", "rules[0].level: Required value");
    check(
        "[{level: All, omitStages: [Never]}]",
        "[rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\", rules[0].omitStages[0]: Invalid value: \"Never\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic]",
    );
    check(
        "[{level: None, nonResourceURLs: ['*', healthz, '/a*b']}]",
        "[rules[0].nonResourceURLs[1]: Invalid value: \"healthz\": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs[2]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule]",
    );
    check(
        "[{level: None, resources: [{resourceNames: [a]}]}]",
        "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one resource",
    );
    let other = Policy::parse(b"apiVersion: audit.k8s.io/v1beta1\nkind: Policy").expect_err("an old version");
    assert_eq!(other, "unknown group version field audit.k8s.io/v1beta1, Kind=Policy in policy");
}
