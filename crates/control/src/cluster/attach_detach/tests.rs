use serde_json::{Value as Json, json};

use super::*;
use crate::tests::{Fixture, NOW};

const IN_USE: &str = "kubernetes.io/csi/disk.example.com^h1";

fn node(name: &str, ready: bool, in_use: bool, attached: bool) -> Json {
    let list = |is: bool, entry: Json| if is { json!([entry]) } else { json!([]) };
    json!({"kind": "Node", "metadata": {"name": name}, "status": {
        "volumesInUse": list(in_use, json!(IN_USE)), "volumesAttached": list(attached, json!({"name": IN_USE, "devicePath": ""})),
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

fn pod(name: &str, node: &str, phase: &str) -> Json {
    json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]}, "status": {"phase": phase}})
}

fn attachment(node: &str, status: Json) -> Json {
    json!({"kind": "VolumeAttachment", "metadata": {"name": attachment_name("h1", "disk.example.com", node)},
        "spec": {"attacher": "disk.example.com", "nodeName": node, "source": {"persistentVolumeName": "pv"}}, "status": status})
}

fn driver(attaches: bool) -> Json {
    json!({"kind": "CSIDriver", "metadata": {"name": "disk.example.com"}, "spec": {"attachRequired": attaches}})
}

/// Decides about node `a` beside a bound claim of a volume with this access mode.
#[track_caller]
fn check(mode: &str, objects: &[Json], seconds: &[i64], expected: &[&str]) {
    let bound = [
        json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {"accessModes": [mode],
            "claimRef": {"namespace": "n", "name": "claim", "uid": "claim-uid"},
            "csi": {"driver": "disk.example.com", "volumeHandle": "h1"}}}),
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "claim"}, "spec": {"volumeName": "pv"},
            "status": {"phase": "Bound"}}),
    ];
    let mut fixture = Fixture::new(&[&bound, objects].concat());
    let (world, memory) = (&mut fixture, Mutex::default());
    let mut other = attachment("c", json!({}));
    other["spec"]["source"]["persistentVolumeName"] = json!("other");
    for kind in [driver(true), other] {
        // The world knows these kinds even where there is none.
        if !objects.iter().any(|of| of["kind"] == kind["kind"]) {
            world.put(&kind);
        }
    }
    let (last, before) = seconds.split_last().unwrap();
    for at in before {
        fixture.now = NOW + at;
        fixture.plan(|world, key, ctx| reconcile(world, key, ctx, &memory), "a");
    }
    fixture.now = NOW + last;
    fixture.check(|world, key, ctx| reconcile(world, key, ctx, &memory), "a", expected);
}

#[test]
fn what_a_pod_uses_is_attached_to_its_node() {
    let rwo = "ReadWriteOnce";
    let name = attachment_name("h1", "disk.example.com", "a");
    let spec = r#""spec":{"attacher":"disk.example.com","nodeName":"a","source":{"persistentVolumeName":"pv"}}"#;
    let create = format!(
        r#"create volumeattachments {name} {{"metadata":{{"name":"{name}"}},{spec},"status":{{"attached":false}}}}"#
    );
    let free = node("a", true, false, false);
    check(rwo, &[free.clone(), pod("p", "a", "Pending")], &[0], &[&create]);
    check(rwo, &[free.clone(), pod("p", "a", "Succeeded")], &[0], &[]);
    check(rwo, &[free.clone(), pod("p", "", "Pending")], &[0], &[]);
    check(rwo, &[free.clone(), pod("p", "a", "Pending"), driver(false)], &[0], &[]);
    // It is there, and its driver has not answered yet; it has failed; it has done it.
    let of = |status: Json| [free.clone(), pod("p", "a", "Pending"), attachment("a", status)];
    check(rwo, &of(json!({"attached": false})), &[0], &[]);
    let failed = json!({"attached": false, "attachError": {"message": "no such disk"}});
    check(rwo, &of(failed.clone()), &[0], &["Warning p FailedAttachVolume"]);
    check(rwo, &of(failed), &[0, 1], &[]);
    let said =
        format!(r#"patch nodes a status {{"status":{{"volumesAttached":[{{"devicePath":"","name":"{IN_USE}"}}]}}}}"#);
    check(rwo, &of(json!({"attached": true})), &[0], &["Normal p SuccessfulAttachVolume", &said]);
    // Another node has it.
    let elsewhere = [free, pod("p", "a", "Pending"), attachment("b", json!({"attached": true}))];
    check(rwo, &elsewhere, &[0], &["Warning p FailedAttachVolume"]);
    check(rwo, &elsewhere, &[0, 1], &[]);
    check("ReadWriteMany", &elsewhere, &[0], &[&create]);
}

#[test]
fn what_nobody_uses_is_detached_once_the_node_has_let_go() {
    let name = attachment_name("h1", "disk.example.com", "a");
    let gone = format!("delete volumeattachments {name}");
    let said = r#"patch nodes a status {"status":{"volumesAttached":[]}}"#;
    let of = |node: Json| [node, attachment("a", json!({"attached": true}))];
    let rwo = "ReadWriteOnce";
    check(rwo, &of(node("a", true, true, true)), &[0], &["again in 360s"]);
    check(rwo, &of(node("a", true, false, true)), &[0], &[said, &gone]);
    // A node that is not there any more, or that is silent for six minutes, has nothing to say.
    check(rwo, &of(node("b", true, true, true)), &[0], &[&gone]);
    check(rwo, &of(node("a", false, true, true)), &[0, 359], &["again in 60s"]);
    check(rwo, &of(node("a", false, true, true)), &[0, 360], &[said, &gone]);
    check(rwo, &of(node("a", true, true, true)), &[0, 400], &["again in 60s"]);
    let mut out = node("a", true, true, true);
    out["spec"] = json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]});
    check(rwo, &of(out), &[0], &[said, &gone]);
}

#[test]
fn attachments_of_others_are_left_alone() {
    let mut other = attachment("a", json!({}));
    other["metadata"]["name"] = json!("mine");
    check("ReadWriteOnce", &[node("a", true, false, false), other], &[0, 400], &[]);
}
