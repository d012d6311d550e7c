//! ServiceAccount: every pod has an account, its token and its pull secrets.

use std::{sync::Arc, time::Duration};

use schema::Value;

use super::{AdmissionRequest, Judged, Plugin};
use crate::authn::issue::WARN_ONLY_SECONDS;
use crate::seams::Random;
use crate::view::{self, SERVICE_ACCOUNTS, View};
use crate::{Server, Status, meta, pods};

pub struct ServiceAccount;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// How long the account `default` of a new namespace is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(async move {
            if !request.is("", "pods") || !request.is_create() {
                return Ok(());
            }
            if !pods::is_mirror(&request.object) {
                if request.object.str_at(&["spec", "serviceAccountName"]).is_empty() {
                    request.object.set(&["spec", "serviceAccountName"], "default");
                    request.object.set(&["spec", "serviceAccount"], "default");
                }
                let account = wait_for(server, request).await?;
                complete(&account, &*server.config().random, &mut request.object);
            }
            check(server, request)
        })
    }

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        let concerns = request.is("", "pods") && (request.is_create() || request.subresource == "ephemeralcontainers");
        Box::pin(std::future::ready(if concerns { check(server, request) } else { Ok(()) }))
    }
}

/// A new namespace's account is made by a controller: its first pods wait for it.
async fn wait_for(server: &Server, request: &AdmissionRequest) -> Result<Arc<Value>, Status> {
    let changes = server.news(SERVICE_ACCOUNTS);
    let found = account(server, request);
    if found.is_ok() || request.object.str_at(&["spec", "serviceAccountName"]) != "default" {
        return found;
    }
    let Some(mut changes) = changes else { return found };
    let waited = tokio::time::timeout(PATIENCE, async {
        while changes.changed().await.is_ok() {
            if let Ok(account) = account(server, request) {
                return Some(account);
            }
        }
        None
    });
    waited.await.ok().flatten().map_or(found, Ok)
}

fn account(view: &dyn View, request: &AdmissionRequest) -> Result<Arc<Value>, Status> {
    let (namespace, name) = (&request.namespace, request.object.str_at(&["spec", "serviceAccountName"]));
    view.get(SERVICE_ACCOUNTS, namespace, name).ok_or_else(|| {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        request.forbidden(&why)
    })
}

/// Sets token volume and pull secrets.
pub(super) fn complete(account: &Value, random: &dyn Random, pod: &mut Value) {
    let asked = |object: &Value, path: &[&str]| object.get(path).and_then(Value::as_bool);
    let automount = asked(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| asked(account, &["automountServiceAccountToken"]))
        .unwrap_or(true);
    if automount {
        mount_token(random, pod);
    }
    if pod.list_at(&["spec", "imagePullSecrets"]).is_empty() {
        let secrets = account.list_at(&["imagePullSecrets"]);
        if !secrets.is_empty() {
            pod.set(&["spec", "imagePullSecrets"], Value::List(secrets.to_vec()));
        }
    }
}

fn mount_token(random: &dyn Random, pod: &mut Value) {
    let volumes = pod.list_at(&["spec", "volumes"]).iter();
    let held = volumes.map(|v| v.str_at(&["name"])).find(|name| name.starts_with(VOLUME)).map(str::to_owned);
    let name = held.clone().unwrap_or_else(|| meta::generated_name(VOLUME, random));
    let mount =
        Value::object([("name", name.as_str().into()), ("readOnly", true.into()), ("mountPath", MOUNT_PATH.into())]);
    let mut is_needed = false;
    for field in ["initContainers", "containers"] {
        for container in pod.get_mut(&["spec", field]).and_then(Value::as_list_mut).into_iter().flatten() {
            let mounts = container.list_at(&["volumeMounts"]);
            if mounts.iter().all(|mount| mount.str_at(&["mountPath"]) != MOUNT_PATH) {
                container.make_list(&["volumeMounts"]).push(mount.clone());
                is_needed = true;
            }
        }
    }
    if held.is_some() || !is_needed {
        return;
    }
    let token = Value::object([("path", "token".into()), ("expirationSeconds", WARN_ONLY_SECONDS.into())]);
    let root = Value::object([
        ("name", "kube-root-ca.crt".into()),
        ("items", Value::list([Value::object([("key", "ca.crt".into()), ("path", "ca.crt".into())])])),
    ]);
    let field = Value::object([("apiVersion", "v1".into()), ("fieldPath", "metadata.namespace".into())]);
    let namespace = Value::object([("path", "namespace".into()), ("fieldRef", field)]);
    let sources = [
        ("serviceAccountToken", token),
        ("configMap", root),
        ("downwardAPI", Value::object([("items", Value::list([namespace]))])),
    ];
    let sources = Value::list(sources.map(|(kind, source)| Value::object([(kind, source)])));
    let projected = Value::object([("defaultMode", 0o644.into()), ("sources", sources)]);
    let volume = Value::object([("name", name.into()), ("projected", projected)]);
    pod.make_list(&["spec", "volumes"]).push(volume);
}

pub(super) fn check(view: &dyn View, request: &AdmissionRequest) -> Result<(), Status> {
    let pod = &request.object;
    if pods::is_mirror(pod) && request.subresource.is_empty() {
        return check_mirror(request);
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return request.refuse(format!(
            "no service account specified for pod {}/{}",
            request.namespace,
            view::name(pod)
        ));
    }
    let account = account(view, request)?;
    let enforced = view::annotation(&account, "kubernetes.io/enforce-mountable-secrets");
    if !enforced.is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")) {
        return Ok(());
    }
    check_secrets(&account, request).or_else(|why| request.refuse(why))
}

fn check_mirror(request: &AdmissionRequest) -> Result<(), Status> {
    let pod = &request.object;
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return request.refuse("a mirror pod may not reference service accounts");
    }
    let mut has_secrets = false;
    pods::references(pod, &mut |kind, _| has_secrets |= kind == pods::Reference::Secret);
    if has_secrets {
        return request.refuse("a mirror pod may not reference secrets");
    }
    let mut sources = pod.list_at(&["spec", "volumes"]).iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    if sources.any(|source| source.get(&["serviceAccountToken"]).is_some_and(|t| !t.is_null())) {
        return request.refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// An account that enforces its list of secrets.
fn check_secrets(account: &Value, request: &AdmissionRequest) -> Result<(), String> {
    let lists = |field: &str, name: &str| account.list_at(&[field]).iter().any(|s| s.str_at(&["name"]) == name);
    let of = view::name(account);
    let spec = &request.object["spec"];
    let refusal = format!("is not allowed because service account {of} does not reference that secret");
    let ephemeral = request.subresource == "ephemeralcontainers";
    if !ephemeral {
        for volume in spec.list_at(&["volumes"]) {
            let name = volume.str_at(&["secret", "secretName"]);
            if !name.is_empty() && !lists("secrets", name) {
                return Err(format!("volume with secret.secretName=\"{name}\" {refusal}"));
            }
        }
    }
    for (field, _, container) in pods::containers(spec).filter(|(f, ..)| (*f == "ephemeralContainers") == ephemeral) {
        let kind = match field {
            "initContainers" => "init container",
            "containers" => "container",
            _ => "ephemeral container",
        };
        let own = container.str_at(&["name"]);
        for variable in container.list_at(&["env"]) {
            let name = variable.str_at(&["valueFrom", "secretKeyRef", "name"]);
            if !name.is_empty() && !lists("secrets", name) {
                let variable = variable.str_at(&["name"]);
                return Err(format!(
                    "{kind} {own} with envVar {variable} referencing secret.secretName=\"{name}\" {refusal}"
                ));
            }
        }
        for source in container.list_at(&["envFrom"]) {
            let name = source.str_at(&["secretRef", "name"]);
            if !name.is_empty() && !lists("secrets", name) {
                return Err(format!("{kind} {own} with envFrom referencing secret.secretName=\"{name}\" {refusal}"));
            }
        }
    }
    for (i, secret) in spec.list_at(&["imagePullSecrets"]).iter().enumerate().filter(|_| !ephemeral) {
        let name = secret.str_at(&["name"]);
        if !lists("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {of} does not reference \
                 that imagePullSecret"
            ));
        }
    }
    Ok(())
}
