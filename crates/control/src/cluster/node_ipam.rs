//! Every node has a range of pod addresses of its own: /24 of the cluster's IPv4 range, /64 of its IPv6 range.

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::Node;
use schema::cidr::{Cidr, Family};
use serde_json::json;

use crate::support::event;

pub fn row(cluster_cidrs: Vec<String>) -> Row {
    let triggers = vec![Trigger::itself::<Node>()];
    // One at a time: no two nodes get the same range.
    Row::new("node-ipam", "node-controller", 1, triggers, move |world, key, ctx| {
        reconcile(world, key, ctx, &cluster_cidrs)
    })
}

fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, cluster_cidrs: &[String]) -> Plan {
    let mut plan = Plan::nothing();
    let Some(node) = world.get::<Node>(key) else { return plan };
    if !node.spec.pod_cidr.is_empty() || node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let specs = world.of::<Node>().values().map(|other| &other.spec);
    let ranges = specs.flat_map(|spec| std::iter::once(&spec.pod_cidr).chain(&spec.pod_cidrs));
    let used: Vec<&str> = ranges.map(String::as_str).collect();
    let ranges: Option<Vec<String>> = cluster_cidrs.iter().map(|cidr| free_range(cidr, &used)).collect();
    match ranges.as_deref() {
        Some([first, ..]) => {
            let ranges = ranges.as_deref().unwrap_or_default();
            plan.push(Action::merge(&**node, None, json!({"spec": {"podCIDR": first, "podCIDRs": ranges}})));
        }
        _ => {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            plan.push(event(ctx, &**node, "cidrAllocator", "Normal", "CIDRNotAvailable", message));
        }
    }
    plan
}

/// The first part of a range that nobody uses.
fn free_range(cidr: &str, used: &[&str]) -> Option<String> {
    let cidr: Cidr = cidr.parse().ok()?;
    let (bits, width) = if cidr.family() == Family::V4 { (32, 24) } else { (128, 64) };
    let width = cidr.prefix().max(width);
    let count = 1u128.checked_shl(u32::from(width - cidr.prefix())).unwrap_or(u128::MAX).min(1 << 16);
    (0..count).find_map(|index| {
        let range = Cidr::new(cidr.nth(index << (bits - width))?, width).to_string();
        (!used.contains(&&*range)).then_some(range)
    })
}
