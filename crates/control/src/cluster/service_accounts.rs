//! Every namespace has a ServiceAccount `default`.

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::{Namespace, ServiceAccount};
use schema::api::meta::v1::ObjectMeta;

const NAME: &str = "default";

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Namespace>(),
        Trigger::on::<ServiceAccount>(|_, old, new| super::namespace_of_lost(old, new, NAME)),
    ];
    Row::new("serviceaccount", "service-account-controller", 4, triggers, reconcile)
}

fn reconcile(world: &World, key: &Key, _: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    if super::is_active(world, key) && world.of::<ServiceAccount>().named(&key.name, NAME).is_none() {
        plan.push(Action::create(ServiceAccount {
            metadata: ObjectMeta { name: NAME.to_owned(), namespace: key.name.to_string(), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        }));
    }
    plan
}
