//! Addresses of load balancers, as rows.

use schema::api::core::v1::{Container, ContainerPort, NodeAddress, NodeCondition, ServicePort};
use schema::api::discovery::v1::Endpoint;

use super::*;

/// `name address [external=…] [unready] [label=value]`
fn node(text: &str) -> Arc<Node> {
    let mut words = text.split(' ');
    let mut node = Node::default();
    node.metadata.name = words.next().unwrap().into();
    let mut status = "True";
    let address =
        |kind: &str, ip: &str| NodeAddress { r#type: kind.into(), address: ip.into(), ..NodeAddress::default() };
    node.status.addresses.push(address("InternalIP", words.next().unwrap()));
    for word in words {
        match word.split_once('=') {
            Some(("external", ip)) => node.status.addresses.push(address("ExternalIP", ip)),
            Some(("enable", value)) => {
                node.metadata.labels.insert(ENABLE.into(), value.into());
            }
            Some(("pool", value)) => {
                node.metadata.labels.insert(POOL.into(), value.into());
            }
            _ if word == "exclude" => {
                node.metadata.labels.insert(EXCLUDE.into(), String::new());
            }
            _ => status = "False",
        }
    }
    let ready = NodeCondition { r#type: "Ready".into(), status: status.into(), ..NodeCondition::default() };
    node.status.conditions.push(ready);
    node.into()
}

/// `name port [local] [pool=…] [class=…] [v6]`
fn service(text: &str, created: i64) -> Service {
    let mut words = text.split(' ');
    let mut service = Service::default();
    service.metadata.name = words.next().unwrap().into();
    service.metadata.namespace = "d".into();
    service.metadata.creation_timestamp = schema::api::Time { seconds: created };
    service.spec.r#type = "LoadBalancer".into();
    service.spec.ip_families = vec!["IPv4".into()];
    let port = words.next().unwrap().parse().unwrap();
    service.spec.ports.push(ServicePort { protocol: "TCP".into(), port, ..ServicePort::default() });
    for word in words {
        match word.split_once('=') {
            Some(("pool", value)) => {
                service.metadata.labels.insert(POOL.into(), value.into());
            }
            Some(("class", value)) => service.spec.load_balancer_class = Some(value.into()),
            _ if word == "v6" => service.spec.ip_families = vec!["IPv6".into()],
            _ => service.spec.external_traffic_policy = "Local".into(),
        }
    }
    service
}

fn show(plans: &[StatusPlan]) -> Vec<String> {
    let show = |plan: &StatusPlan| {
        let ips: Vec<&str> = plan.ingress.iter().map(|i| i.ip.as_str()).collect();
        let conditions = plan.conditions.iter().map(|c| format!(" ({} {})", c.status, c.message));
        format!("{}: {}{}", plan.name, ips.join(" "), conditions.collect::<String>())
    };
    plans.iter().map(show).collect()
}

fn check(nodes: &[&str], services: &[&str], wanted: &[&str]) {
    let nodes: Vec<Arc<Node>> = nodes.iter().map(|text| node(text)).collect();
    let services: Vec<Arc<Service>> = services.iter().zip(0..).map(|(text, at)| service(text, at).into()).collect();
    let mut slice = EndpointSlice::default();
    slice.metadata.namespace = "d".into();
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), "a".into());
    slice.endpoints.push(Endpoint { node_name: Some("n2".into()), ..Endpoint::default() });
    let mut pod = Pod::default();
    (pod.metadata.namespace, pod.metadata.name) = ("d".into(), "p".into());
    pod.spec.node_name = "n1".into();
    let ports =
        vec![ContainerPort { host_port: 9000, container_port: 1, protocol: "TCP".into(), ..ContainerPort::default() }];
    pod.spec.containers.push(Container { ports, ..Container::default() });
    let (slices, pods) = ([slice.into()], [pod.into()]);
    let objects = Objects { services: &services, nodes: &nodes, slices: &slices, pods: &pods };
    let options = Options { class: Some("ours".into()), reserved: [6443].into() };
    let plans = plan(objects, &options);
    assert_eq!(show(&plans), wanted, "{nodes:?}");
    // What was written is not written again.
    let written: Vec<Arc<Service>> = services
        .iter()
        .map(|service| {
            let mut service = Service::clone(service);
            if let Some(plan) = plans.iter().find(|plan| plan.name == service.metadata.name) {
                service.status.load_balancer.ingress.clone_from(&plan.ingress);
                service.status.conditions.clone_from(&plan.conditions);
            }
            Arc::new(service)
        })
        .collect();
    assert_eq!(show(&plan(Objects { services: &written, ..objects }, &options)), [""; 0]);
}

#[test]
fn addresses_of_load_balancers() {
    let two = &["n1 192.0.2.1", "n2 192.0.2.2"][..];
    check(two, &["a 80"], &["a: 192.0.2.1 192.0.2.2"]);
    check(&["n1 192.0.2.1 unready", "n2 192.0.2.2"], &["a 80"], &["a: 192.0.2.2"]);
    check(&["n1 192.0.2.1 external=203.0.113.1", "n2 192.0.2.2"], &["a 80"], &["a: 203.0.113.1"]);
    check(&["n1 192.0.2.1 exclude", "n2 192.0.2.2"], &["a 80"], &["a: 192.0.2.2"]);
    check(&["n1 192.0.2.1 enable=true", "n2 192.0.2.2"], &["a 80"], &["a: 192.0.2.1"]);
    check(&["n1 192.0.2.1 enable=false", "n2 192.0.2.2"], &["a 80"], &[]);
    check(
        &["n1 192.0.2.1 pool=x", "n2 192.0.2.2"],
        &["a 80 pool=x", "b 81"],
        &["a: 192.0.2.1", "b: 192.0.2.1 192.0.2.2"],
    );
    check(two, &["a 80 local"], &["a: 192.0.2.2"]);
    check(two, &["b 80 local"], &[]);
    check(two, &["a 80 class=other", "b 80 class=ours"], &["b: 192.0.2.1 192.0.2.2"]);
    check(&["n1 192.0.2.1", "n2 2001:db8::2"], &["a 80 v6"], &["a: 2001:db8::2"]);
}

#[test]
fn the_older_service_has_the_port() {
    let two = &["n1 192.0.2.1", "n2 192.0.2.2"][..];
    check(
        two,
        &["b 80", "a 80"],
        &[
            "b: 192.0.2.1 192.0.2.2",
            "a:  (True TCP port 80 of 192.0.2.1 is in use by d/b; TCP port 80 of 192.0.2.2 is in use by d/b)",
        ],
    );
    check(two, &["a 9000"], &["a: 192.0.2.2 (True TCP port 9000 of 192.0.2.1 is in use by pod d/p)"]);
    check(&["n1 192.0.2.1"], &["a 6443"], &["a:  (True TCP port 6443 of 192.0.2.1 is in use by the node itself)"]);
}

#[test]
fn a_status_turns_and_goes() {
    let nodes = [node("n1 192.0.2.1")];
    let plan_of = |service: &Service| {
        let services = [Arc::new(service.clone())];
        show(&plan(Objects { services: &services, nodes: &nodes, slices: &[], pods: &[] }, &Options::default()))
    };
    let mut changed = service("a 80", 0);
    let mut condition = Condition { r#type: PORTS_ERROR.into(), status: "True".into(), ..Condition::default() };
    condition.message = "old".into();
    changed.status.conditions.push(condition);
    assert_eq!(plan_of(&changed), ["a: 192.0.2.1 (False )"]);
    changed.spec.r#type = "ClusterIP".into();
    assert_eq!(plan_of(&changed), ["a: "]);
}
