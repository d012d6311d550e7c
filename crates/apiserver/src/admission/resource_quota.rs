//! ResourceQuota: what an object asks for must fit into each quota of its namespace that counts it, and is booked there.
//!
//! Bookings of a namespace happen one after another. What is booked for an object that then fails to be stored is
//! given back by the quota controller, which counts anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use schema::{Value, quantity::Quantity};

use super::{AdmissionRequest, Judged, Operation, Plugin, quota_usage as usage};
use crate::pods::Resources;
use crate::view::{self, RESOURCE_QUOTAS, View};
use crate::{Server, Status, cluster};

/// How often a booking is tried anew when someone else wrote the quota.
const ATTEMPTS: u32 = 5;

#[derive(Default)]
pub struct ResourceQuota {
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(async move {
            let has_quotas = || !cluster::is_empty(server, RESOURCE_QUOTAS, &request.namespace);
            if request.namespace.is_empty() || !usage::is_counted(request) || !has_quotas() {
                return Ok(());
            }
            let turn = self.turn(&request.namespace);
            let _turn = turn.lock().await;
            let now = server.now();
            for _ in 0..ATTEMPTS {
                let changed = book(server.list(RESOURCE_QUOTAS, &request.namespace), request, now)?;
                if request.dry_run || write(server, &request.namespace, changed).await? {
                    return Ok(());
                }
            }
            let why = "Operation cannot be fulfilled on resourcequotas: they are written by others too often";
            Err(Status::internal(why))
        })
    }
}

impl ResourceQuota {
    fn turn(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits holds a clone of its own.
        namespaces.retain(|_, turn| Arc::strong_count(turn) > 1);
        namespaces.entry(namespace.to_owned()).or_default().clone()
    }
}

/// Gives back what an object used that is gone, if nobody counts its kind anew.
pub(crate) fn give_back(server: &Server, request: AdmissionRequest) {
    let has_quotas = || !cluster::is_empty(server, RESOURCE_QUOTAS, &request.namespace);
    if request.namespace.is_empty() || usage::is_recounted(&request) || !has_quotas() {
        return;
    }
    let server = server.clone();
    tokio::spawn(async move {
        for _ in 0..ATTEMPTS {
            let changed = less(server.list(RESOURCE_QUOTAS, &request.namespace), &request, server.now());
            match write(&server, &request.namespace, changed).await {
                Ok(false) => {}
                Ok(true) => return,
                Err(status) => return tracing::warn!(request.namespace, message = %status.message, "quota"),
            }
        }
    });
}

/// The quotas that count the object of a deletion, without it.
pub(super) fn less(quotas: Vec<Arc<Value>>, request: &AdmissionRequest, now: i64) -> Vec<Value> {
    let Some(gone) = request.old.as_deref() else { return Vec::new() };
    let held = usage::of(request, gone, now);
    let without = |quota: Arc<Value>| {
        let before = Resources::of(&quota["status"], "used");
        let mut after = before.clone();
        for (resource, used) in &mut after.0 {
            if let Some(held) = held.get(resource).filter(|_| usage::counts(request, resource)) {
                *used = if used.compare(held).is_gt() { used.minus(held) } else { Quantity::default() };
            }
        }
        let changes = after.to_value() != before.to_value() && usage::is_in_scope(&quota, request, gone);
        changes.then(|| {
            let mut quota = (*quota).clone();
            quota.set(&["status", "used"], after.to_value());
            quota
        })
    };
    quotas.into_iter().filter_map(without).collect()
}

/// False if somebody else was faster with one of them: what was written then is counted in the next round.
async fn write(server: &Server, namespace: &str, quotas: Vec<Value>) -> Result<bool, Status> {
    for quota in quotas {
        let path = format!("/api/v1/namespaces/{namespace}/resourcequotas/{}/status", view::name(&quota));
        match cluster::send(server, Method::PUT, &path, Some(&quota)).await {
            (StatusCode::CONFLICT, _) => return Ok(false),
            // It was deleted, and limits no more.
            (StatusCode::NOT_FOUND, _) => {}
            (code, _) if code.is_success() => {}
            (code, body) => {
                let why =
                    format!("cannot book on quota {}: {code} {}", view::name(&quota), String::from_utf8_lossy(&body));
                return Err(Status::internal(why));
            }
        }
    }
    Ok(true)
}

/// Checks a request against quotas; the ones that change, with `status.used` as it then is.
pub(super) fn book(quotas: Vec<Arc<Value>>, request: &AdmissionRequest, now: i64) -> Result<Vec<Value>, Status> {
    let wanted = usage::of(request, &request.object, now);
    let mut changed = Vec::new();
    for quota in quotas {
        let name = view::name(&quota);
        let hard = Resources::of(&quota["status"], "hard");
        let counted: Vec<&String> = hard.0.keys().filter(|name| usage::counts(request, name)).collect();
        if counted.is_empty() || !usage::is_in_scope(&quota, request, &request.object) {
            continue;
        }
        if let Some(missing) = usage::unspecified(request, &counted) {
            return request.refuse(format!("failed quota: {name}: {missing}")).map(|()| Vec::new());
        }
        let used = Resources::of(&quota["status"], "used");
        if counted.iter().any(|resource| used.get(resource).is_none()) {
            let list = counted.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(",");
            return request.refuse(format!("status unknown for quota: {name}, resources: {list}")).map(|()| Vec::new());
        }
        let mut delta = wanted.clone();
        if request.operation == Operation::Update {
            let old = request.old.as_deref().filter(|old| usage::is_in_scope(&quota, request, old));
            if let Some(old) = old {
                let held = usage::of(request, old, now);
                for (resource, quantity) in &mut delta.0 {
                    let before = held.get(resource).unwrap_or_default();
                    *quantity =
                        if quantity.compare(before).is_gt() { quantity.minus(before) } else { Quantity::default() };
                }
            }
        }
        delta.0.retain(|resource, quantity| !quantity.is_zero() && hard.get(resource).is_some());
        if delta.0.is_empty() {
            continue;
        }
        let mut after = used.clone();
        after.add(&delta);
        let is_over = |resource: &String| match (after.get(resource), hard.get(resource)) {
            (Some(after), Some(hard)) => after.compare(hard).is_gt(),
            _ => false,
        };
        let exceeded: Vec<&String> = delta.0.keys().filter(|resource| is_over(resource)).collect();
        if !exceeded.is_empty() && request.subresource != "status" {
            let list = |from: &Resources| {
                let parts = exceeded.iter().map(|r| format!("{r}={}", from.get(r).unwrap_or_default()));
                parts.collect::<Vec<_>>().join(",")
            };
            let (asked, used, limited) = (list(&delta), list(&used), list(&hard));
            return request
                .refuse(format!("exceeded quota: {name}, requested: {asked}, used: {used}, limited: {limited}"))
                .map(|()| Vec::new());
        }
        let mut quota = (*quota).clone();
        quota.set(&["status", "used"], after.to_value());
        changed.push(quota);
    }
    Ok(changed)
}
