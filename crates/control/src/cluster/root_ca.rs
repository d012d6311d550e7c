//! Every namespace has the ConfigMap `kube-root-ca.crt`, by which pods know the API server.

use reconcile::{Action, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::{ConfigMap, Namespace};
use schema::api::meta::v1::ObjectMeta;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "The CA of the API server at its addresses inside the cluster, such as kubernetes.default.svc.",
);

pub fn row(server_ca: String) -> Row {
    let triggers = vec![
        Trigger::itself::<Namespace>(),
        Trigger::on_named::<ConfigMap>(NAME, |_, old, new| {
            let ours = old.or(new).filter(|map| map.metadata.name == NAME);
            ours.map(|map| Key::new("", &map.metadata.namespace)).into_iter().collect()
        }),
    ];
    Row::new("root-ca-cert-publisher", "root-ca-cert-publisher", 4, triggers, move |world, key, _| {
        reconcile(world, key, &server_ca)
    })
}

fn reconcile(world: &World, key: &Key, server_ca: &str) -> Plan {
    let mut plan = Plan::nothing();
    if !super::is_active(world, key) {
        return plan;
    }
    let data = [("ca.crt".to_owned(), server_ca.to_owned())].into();
    match world.of::<ConfigMap>().named(&key.name, NAME) {
        Some(held) if held.data == data => {}
        Some(held) => plan.push(Action::update(ConfigMap { data, ..(**held).clone() })),
        None => plan.push(Action::create(ConfigMap {
            metadata: ObjectMeta {
                name: NAME.to_owned(),
                namespace: key.name.to_string(),
                annotations: [(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into(),
                ..ObjectMeta::default()
            },
            data,
            ..ConfigMap::default()
        })),
    }
    plan
}
