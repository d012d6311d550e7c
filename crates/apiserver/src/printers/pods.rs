//! Columns of pods and of what runs them: jobs, autoscalers, revisions, events.

use schema::{Value, time};

use super::{Cell, duration, some_of};

/// What a pod's row says of its containers.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    ready: i64,
    total: i64,
    restarts: i64,
    last_restart: Option<i64>,
    reason: String,
}

fn condition_is_true(pod: &Value, ty: &str) -> bool {
    let conditions = pod.list_at(&["status", "conditions"]);
    conditions.iter().any(|c| c.str_at(&["type"]) == ty && c.str_at(&["status"]) == "True")
}

fn ended_because(terminated: &Value) -> String {
    let number = |field: &str| terminated.i64_at(&[field]).unwrap_or(0);
    match (terminated.str_at(&["reason"]), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn summarize(pod: &Value) -> Summary {
    let spec_inits = pod.list_at(&["spec", "initContainers"]);
    let restartable =
        |name: &str| spec_inits.iter().any(|c| c.str_at(&["name"]) == name && c.str_at(&["restartPolicy"]) == "Always");
    let sidecars = spec_inits.iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always").count();
    let mut out = Summary {
        total: (pod.list_at(&["spec", "containers"]).len() + sidecars) as i64,
        reason: pod.str_at(&["status", "phase"]).to_owned(),
        ..Summary::default()
    };
    let phase = out.reason.clone();
    let given = pod.str_at(&["status", "reason"]);
    if !given.is_empty() {
        out.reason = given.to_owned();
    }
    let gated = |c: &&Value| c.str_at(&["type"]) == "PodScheduled" && c.str_at(&["reason"]) == "SchedulingGated";
    if pod.list_at(&["status", "conditions"]).iter().any(|c| gated(&c)) {
        out.reason = "SchedulingGated".into();
    }
    let finished = |status: &Value| {
        time::parse(status.str_at(&["lastState", "terminated", "finishedAt"])).map(|(seconds, _)| seconds)
    };
    let restarts = |status: &Value| status.i64_at(&["restartCount"]).unwrap_or(0);
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (at, status) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let sidecar = restartable(status.str_at(&["name"]));
        out.restarts += restarts(status);
        out.last_restart = out.last_restart.max(finished(status));
        if sidecar {
            sidecar_restarts += restarts(status);
            sidecar_last = sidecar_last.max(finished(status));
        }
        let terminated = &status["state"]["terminated"];
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if !terminated.is_null() && terminated.i64_at(&["exitCode"]).unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) {
            out.ready += i64::from(status.bool_at(&["ready"]));
            continue;
        }
        out.reason = if !terminated.is_null() {
            format!("Init:{}", ended_because(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{}", spec_inits.len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition_is_true(pod, "Initialized") {
        out.restarts = sidecar_restarts;
        out.last_restart = sidecar_last;
        let mut running = false;
        let mut error = String::new();
        for status in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
            out.restarts += restarts(status);
            out.last_restart = out.last_restart.max(finished(status));
            let terminated = &status["state"]["terminated"];
            let waiting = status.str_at(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                out.reason = waiting.to_owned();
            } else if !terminated.is_null() {
                out.reason = ended_because(terminated);
                if terminated.i64_at(&["exitCode"]).unwrap_or(0) != 0 {
                    error.clone_from(&out.reason);
                }
            } else if status.bool_at(&["ready"]) && !status["state"]["running"].is_null() {
                running = true;
                out.ready += 1;
            }
        }
        if out.reason == "Completed" {
            if running && condition_is_true(pod, "Ready") {
                out.reason = "Running".into();
            } else if !error.is_empty() {
                out.reason = error;
            } else if running {
                out.reason = "NotReady".into();
            }
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if given == "NodeLost" {
            out.reason = "Unknown".into();
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            out.reason = "Terminating".into();
        }
    }
    out
}

pub fn pod(name: &str, cell: &Cell<'_>) -> Value {
    let pod = cell.object;
    match name {
        "pod.ready" => {
            let s = summarize(pod);
            format!("{}/{}", s.ready, s.total).into()
        }
        "pod.status" => summarize(pod).reason.into(),
        "pod.restarts" => {
            let s = summarize(pod);
            match s.last_restart {
                Some(at) if s.restarts != 0 => format!("{} ({} ago)", s.restarts, duration(cell.now - at)).into(),
                _ => s.restarts.to_string().into(),
            }
        }
        "pod.ip" => match pod["status"]["podIPs"][0].str_at(&["ip"]) {
            "" => "<none>".into(),
            ip => ip.into(),
        },
        "pod.readinessGates" => {
            let gates = pod.list_at(&["spec", "readinessGates"]);
            if gates.is_empty() {
                return "<none>".into();
            }
            let open = gates.iter().filter(|g| condition_is_true(pod, g.str_at(&["conditionType"]))).count();
            format!("{open}/{}", gates.len()).into()
        }
        _ => "".into(),
    }
}

pub fn other(name: &str, cell: &Cell<'_>) -> Value {
    let object = cell.object;
    match name {
        "job.status" => job_status(object).into(),
        "job.completions" => {
            let succeeded = object.i64_at(&["status", "succeeded"]).unwrap_or(0);
            let parallelism = object.i64_at(&["spec", "parallelism"]).unwrap_or(0);
            match object.i64_at(&["spec", "completions"]) {
                Some(completions) => format!("{succeeded}/{completions}"),
                None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
                None => format!("{succeeded}/1"),
            }
            .into()
        }
        "job.duration" => {
            let at = |field: &str| time::parse(object.str_at(&["status", field])).map(|(seconds, _)| seconds);
            match (at("startTime"), at("completionTime")) {
                (None, _) => "".into(),
                (Some(start), end) => duration(end.unwrap_or(cell.now) - start).into(),
            }
        }
        "hpa.targets" => metrics(object).into(),
        "controllerRevision.controller" => {
            let owners = object.list_at(&["metadata", "ownerReferences"]);
            let Some(owner) = owners.iter().find(|o| o.bool_at(&["controller"])) else { return "<none>".into() };
            let (group, _) = crate::kind::split_api_version(owner.str_at(&["apiVersion"]));
            let kind = owner.str_at(&["kind"]).to_lowercase();
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{kind}/{}", owner.str_at(&["name"])).into()
        }
        _ => event(name, cell),
    }
}

fn job_status(job: &Value) -> &'static str {
    let deleting = !job["metadata"]["deletionTimestamp"].is_null();
    for (ty, status) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if condition_is_true(job, ty) {
            return status;
        }
    }
    if deleting {
        return "Terminating";
    }
    for (ty, status) in
        [("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")]
    {
        if condition_is_true(job, ty) {
            return status;
        }
    }
    "Running"
}

fn metrics(autoscaler: &Value) -> String {
    if autoscaler.str_at(&["apiVersion"]) == "autoscaling/v1" {
        let Some(target) = autoscaler.i64_at(&["spec", "targetCPUUtilizationPercentage"]) else {
            return "<none>".into();
        };
        let current = autoscaler.i64_at(&["status", "currentCPUUtilizationPercentage"]);
        let current = current.map_or("<unknown>".into(), |c| format!("{c}%"));
        return format!("cpu: {current}/{target}%");
    }
    let statuses = autoscaler.list_at(&["status", "currentMetrics"]);
    let list: Vec<String> = autoscaler
        .list_at(&["spec", "metrics"])
        .iter()
        .enumerate()
        .map(|(at, metric)| {
            let ty = metric.str_at(&["type"]);
            let (field, named) = match ty {
                "External" => ("external", false),
                "Pods" => ("pods", false),
                "Object" => ("object", false),
                "Resource" => ("resource", true),
                "ContainerResource" => ("containerResource", true),
                _ => return "<unknown type>".into(),
            };
            let (spec, current) = (&metric[field], statuses.get(at).map(|s| &s[field]["current"]));
            let text = |v: Option<&Value>, name: &str| {
                v.map(|v| v.str_at(&[name])).filter(|t| !t.is_empty()).map(str::to_owned)
            };
            let average = spec.str_at(&["target", "averageValue"]);
            let shown = if !average.is_empty() {
                let now = text(current, "averageValue").unwrap_or_else(|| "<unknown>".into());
                let suffix = if matches!(ty, "External" | "Object") { " (avg)" } else { "" };
                format!("{now}/{average}{suffix}")
            } else if named {
                let percent = |v: Option<i64>| v.map(|p| format!("{p}%"));
                let now = percent(current.and_then(|c| c.i64_at(&["averageUtilization"])))
                    .unwrap_or_else(|| "<unknown>".into());
                let target = percent(spec.i64_at(&["target", "averageUtilization"])).unwrap_or_else(|| "<auto>".into());
                format!("{now}/{target}")
            } else {
                let now = text(current, "value").unwrap_or_else(|| "<unknown>".into());
                format!("{now}/{}", spec.str_at(&["target", "value"]))
            };
            if named { format!("{}: {shown}", spec.str_at(&["name"])) } else { shown }
        })
        .collect();
    if list.is_empty() { "<none>".into() } else { some_of(&list, 2, ", ") }
}

/// A core Event or one of events.k8s.io: `either` reads the field by both of its names.
fn event(name: &str, cell: &Cell<'_>) -> Value {
    let event = cell.object;
    let either = |core: &str, new: &str| -> &str {
        let text = event.str_at(&[core]);
        if text.is_empty() { event.str_at(&[new]) } else { text }
    };
    let about = if event["involvedObject"].is_null() { &event["regarding"] } else { &event["involvedObject"] };
    let first = || {
        let first = either("firstTimestamp", "deprecatedFirstTimestamp");
        cell.age(if first.is_empty() { event.str_at(&["eventTime"]) } else { first })
    };
    match name {
        "event.lastSeen" => {
            let series = event.str_at(&["series", "lastObservedTime"]);
            let last = either("lastTimestamp", "deprecatedLastTimestamp");
            if !series.is_empty() {
                cell.age(series).into()
            } else if last.is_empty() {
                first().into()
            } else {
                cell.age(last).into()
            }
        }
        "event.firstSeen" => first().into(),
        "event.object" => {
            let kind = about.str_at(&["kind"]).to_lowercase();
            match about.str_at(&["name"]) {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            }
        }
        "event.subobject" => about.str_at(&["fieldPath"]).into(),
        "event.source" => {
            let source = if event["source"].is_null() { &event["deprecatedSource"] } else { &event["source"] };
            let component = match source.str_at(&["component"]) {
                "" => either("reportingComponent", "reportingController"),
                component => component,
            };
            let host = match source.str_at(&["host"]) {
                "" => event.str_at(&["reportingInstance"]),
                host => host,
            };
            if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
        }
        "event.message" => either("message", "note").trim().into(),
        "event.count" => {
            let plain = event.i64_at(&["count"]).or(event.i64_at(&["deprecatedCount"])).unwrap_or(0);
            Value::Int(event.i64_at(&["series", "count"]).unwrap_or(plain.max(1)))
        }
        _ => "".into(),
    }
}
