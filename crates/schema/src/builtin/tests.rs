use super::*;

#[test]
fn every_line_loads() {
    let table = load(TEXT).expect("a line of table.txt does not load");
    assert!(table.messages.len() > 900, "{} messages", table.messages.len());
    assert_eq!(table.by_name.len(), table.messages.len());
}

#[test]
fn every_rule_of_the_overlay_loads() {
    rules(include_str!(concat!(env!("OUT_DIR"), "/rules.txt"))).expect("a rule");
}

/// Facts of one field each, as upstream's Go source has them.
#[test]
fn fields_are_upstreams() {
    let table = Table::builtin();
    let field = |message: &str, name: &str| {
        let m = &table.messages[table.id(message).expect(message).0 as usize];
        &m.fields[m.position(name).expect(name)]
    };
    let containers = field("io.k8s.api.core.v1.PodSpec", "containers");
    assert_eq!((containers.tag, containers.required, containers.omitempty), (2, true, false));
    assert_eq!(containers.patch.merge_key.as_deref(), Some("name"));
    let keys = vec!["name".into()];
    assert!(matches!(&containers.ty, Type::List { kind: ListKind::Map { keys: k }, .. } if *k == keys));
    let volumes = field("io.k8s.api.core.v1.PodSpec", "volumes");
    assert!(volumes.patch.merge && volumes.patch.retain_keys);
    let protocol = field("io.k8s.api.core.v1.ContainerPort", "protocol");
    assert_eq!(protocol.default, Some(Value::String("TCP".into())));
    assert_eq!(protocol.enumeration, ["SCTP", "TCP", "UDP"].map(Box::from));
    let selector = field("io.k8s.api.core.v1.PodSpec", "nodeSelector");
    assert_eq!(selector.ty, Type::Map { value: Box::new(Type::Scalar(Scalar::String)), kind: MapKind::Atomic });
    assert!(field("io.k8s.api.core.v1.Volume", "volumeSource").inline);
    assert!(field("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp").omitzero);
}

#[test]
fn resources_are_found() {
    let table = Table::builtin();
    let deployments = table.resource("apps", "v1", "deployments").expect("deployments");
    assert_eq!(table.resource_of_kind("apps", "v1", "Deployment").map(|r| &r.plural), Some(&deployments.plural));
    assert_eq!(&*deployments.prefix, "/registry/deployments");
    assert_eq!(deployments.subresources.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["scale", "status"]);
    assert!(table.kind("", "v1", "PodList").is_some() && table.kind("", "v1", "Status").is_some());
}
