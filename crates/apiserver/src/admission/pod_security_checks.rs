//! The Pod Security Standards, each check with the versions in which it holds.

use std::collections::BTreeSet;

use schema::Value;

use super::pod_security::Level;
use crate::pods;

/// The newest version that has rules of its own.
pub const LATEST_MINOR: u32 = 37;

/// What a pod does that it may not, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Finding = Option<(&'static str, String)>;

/// A check of one level from a minor version on; a restricted one may stand in for a baseline one.
struct Check {
    level: Level,
    since: u32,
    replaces: Option<usize>,
    run: fn(&Pod<'_>) -> Finding,
}

const fn baseline(since: u32, run: fn(&Pod<'_>) -> Finding) -> Check {
    Check { level: Level::Baseline, since, replaces: None, run }
}

const fn restricted(since: u32, replaces: Option<usize>, run: fn(&Pod<'_>) -> Finding) -> Check {
    Check { level: Level::Restricted, since, replaces, run }
}

/// In the order in which violations are told.
const CHECKS: [Check; 19] = [
    baseline(0, app_armor),
    baseline(0, capabilities_baseline),
    baseline(0, host_namespaces),
    baseline(0, host_path_volumes),
    baseline(0, host_ports),
    baseline(34, host_probes),
    baseline(0, privileged),
    baseline(0, proc_mount_baseline),
    baseline(0, selinux),
    baseline(0, seccomp_baseline),
    baseline(0, sysctls),
    baseline(0, windows_host_process),
    restricted(8, None, privilege_escalation),
    restricted(22, Some(1), capabilities_restricted),
    restricted(35, Some(7), proc_mount),
    restricted(0, Some(3), restricted_volumes),
    restricted(0, None, run_as_non_root),
    restricted(23, None, run_as_user),
    restricted(19, Some(9), seccomp_restricted),
];

/// A pod or a pod template, looked at as of a version.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    minor: u32,
}

pub fn run(pod: &Value, level: Level, minor: u32) -> Vec<Violation> {
    let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"], minor };
    let applies = |check: &Check| check.level <= level && check.since <= minor;
    let replaced: Vec<usize> = CHECKS.iter().filter(|c| applies(c)).filter_map(|c| c.replaces).collect();
    let checks = CHECKS.iter().enumerate().filter(|(i, check)| applies(check) && !replaced.contains(i));
    let findings = checks.filter_map(|(_, check)| (check.run)(&pod));
    findings.map(|(reason, detail)| Violation { reason: reason.into(), detail }).collect()
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        pods::containers(spec).map(|(_, _, container)| container)
    }

    /// Names of the containers for which something holds.
    fn which(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| holds(c)).map(|c| c.str_at(&["name"])).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec.str_at(&["os", "name"]) == "windows"
    }

    fn has_user_namespace(&self) -> bool {
        self.spec.get(&["hostUsers"]).and_then(Value::as_bool) == Some(false)
    }

    /// Looks at a member of the pod's and each container's security context: who set it badly, as one phrase.
    fn setters(&self, bad: &mut dyn FnMut(&Value) -> bool) -> Option<String> {
        let mut setters = Vec::new();
        if bad(&self.spec["securityContext"]) {
            setters.push("pod".to_owned());
        }
        let mut names = Vec::new();
        for container in self.containers() {
            if bad(&container["securityContext"]) {
                names.push(container.str_at(&["name"]));
            }
        }
        if !names.is_empty() {
            setters.push(named(&names));
        }
        (!setters.is_empty()).then(|| setters.join(" and "))
    }
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

fn app_armor(pod: &Pod<'_>) -> Finding {
    let mut values = BTreeSet::new();
    let setters = pod.setters(&mut |context| {
        let kind = context.get(&["appArmorProfile"]).filter(|p| !p.is_null()).map(|p| p.str_at(&["type"]));
        let bad = kind.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"));
        values.extend(bad.map(str::to_owned));
        bad.is_some()
    });
    let annotations = pod.metadata.object_at(&["annotations"]).into_iter().flatten();
    let annotations: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(_, v)| !v.is_empty() && *v != "runtime/default" && !v.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let word = plural("annotation", "annotations", annotations.len());
    let setters = match (setters, annotations.is_empty()) {
        (None, true) => return None,
        (Some(setters), true) => setters,
        (None, false) => word.to_owned(),
        (Some(setters), false) => format!("{setters} and {word}"),
    };
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    Some((reason, format!("{setters} must not set AppArmor profile type to {}", quoted(values))))
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container.list_at(&["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Finding {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
        "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    ];
    let bad = |container: &Value| added(container).any(|c| !ALLOWED.contains(&c));
    let names = pod.which(bad);
    let capabilities: BTreeSet<&str> = pod.containers().flat_map(added).filter(|c| !ALLOWED.contains(c)).collect();
    let detail =
        || format!("{} must not include {} in securityContext.capabilities.add", named(&names), quoted(&capabilities));
    (!names.is_empty()).then(|| ("non-default capabilities", detail()))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Finding {
    if pod.is_windows() && pod.minor >= 25 {
        return None;
    }
    let drops_all = |container: &Value| {
        let dropped = container.list_at(&["securityContext", "capabilities", "drop"]);
        dropped.iter().any(|c| c.as_str() == Some("ALL"))
    };
    let keeping = pod.which(|container| !drops_all(container));
    let adding = pod.which(|container| added(container).any(|c| c != "NET_BIND_SERVICE"));
    let capabilities: BTreeSet<&str> = pod.containers().flat_map(added).filter(|c| *c != "NET_BIND_SERVICE").collect();
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let list = quoted(&capabilities);
        details.push(format!("{} must not include {list} in securityContext.capabilities.add", named(&adding)));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Finding {
    let used = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec.bool_at(&[field]));
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    (!used.is_empty()).then(|| ("host namespaces", used.join(", ")))
}

fn host_path_volumes(pod: &Pod<'_>) -> Finding {
    let volumes = pod.spec.list_at(&["volumes"]).iter();
    let names: Vec<&str> = volumes.filter(|v| !v["hostPath"].is_null()).map(|v| v.str_at(&["name"])).collect();
    let word = plural("volume", "volumes", names.len());
    (!names.is_empty()).then(|| ("hostPath volumes", format!("{word} {}", quoted(&names))))
}

fn host_ports(pod: &Pod<'_>) -> Finding {
    fn ports(container: &Value) -> impl Iterator<Item = i64> {
        let ports = container.list_at(&["ports"]).iter();
        ports.filter_map(|p| p.i64_at(&["hostPort"])).filter(|port| *port != 0)
    }
    let names = pod.which(|container| ports(container).next().is_some());
    let numbers: BTreeSet<String> = pod.containers().flat_map(ports).map(|p| p.to_string()).collect();
    (!names.is_empty()).then(|| {
        let uses = plural("uses", "use", names.len());
        let word = plural("hostPort", "hostPorts", numbers.len());
        let list = numbers.into_iter().collect::<Vec<_>>().join(", ");
        ("hostPort", format!("{} {uses} {word} {list}", named(&names)))
    })
}

fn host_probes(pod: &Pod<'_>) -> Finding {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let handlers = HANDLERS.into_iter().filter_map(|path| container.get(path));
        handlers
            .flat_map(|handler| ["httpGet", "tcpSocket"].map(|kind| handler.str_at(&[kind, "host"])))
            .filter(|host| !host.is_empty())
    }
    let names: BTreeSet<&str> = pod.which(|container| hosts(container).next().is_some()).into_iter().collect();
    let found: BTreeSet<&str> = pod.containers().flat_map(hosts).collect();
    (!names.is_empty()).then(|| {
        let names: Vec<&str> = names.into_iter().collect();
        let uses = plural("uses", "use", names.len());
        let word = plural("probe or lifecycle host", "probe or lifecycle hosts", found.len());
        ("probe or lifecycle host", format!("{} {uses} {word} {}", named(&names), quoted(&found)))
    })
}

fn privileged(pod: &Pod<'_>) -> Finding {
    let names = pod.which(|container| container.bool_at(&["securityContext", "privileged"]));
    (!names.is_empty())
        .then(|| ("privileged", format!("{} must not set securityContext.privileged=true", named(&names))))
}

fn proc_mount_baseline(pod: &Pod<'_>) -> Finding {
    if pod.has_user_namespace() && pod.minor >= 35 { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Pod<'_>) -> Finding {
    let kind = |container: &Value| container.str_at(&["securityContext", "procMount"]).to_owned();
    let bad = |container: &Value| !matches!(kind(container).as_str(), "" | "Default");
    let names = pod.which(bad);
    let kinds: BTreeSet<String> = pod.containers().filter(|c| bad(c)).map(kind).collect();
    let detail = || format!("{} must not set securityContext.procMount to {}", named(&names), quoted(&kinds));
    (!names.is_empty()).then(|| ("procMount", detail()))
}

fn selinux(pod: &Pod<'_>) -> Finding {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let setters = pod.setters(&mut |context| {
        let options = &context["seLinuxOptions"];
        let kind = options.str_at(&["type"]);
        let is_known = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || kind == "container_engine_t" && pod.minor >= 31;
        if !is_known {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!options.str_at(&["user"]).is_empty(), !options.str_at(&["role"]).is_empty());
        user |= sets_user;
        role |= sets_role;
        !is_known || sets_user || sets_role
    })?;
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    let data = data.join("; ");
    Some(("seLinuxOptions", format!("{setters} set forbidden securityContext.seLinuxOptions: {data}")))
}

/// The type of a security context's seccomp profile, if it has one.
fn seccomp(context: &Value) -> Option<&str> {
    context.get(&["seccompProfile"]).filter(|p| !p.is_null()).map(|p| p.str_at(&["type"]))
}

fn is_confined(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

fn unconfined(pod: &Pod<'_>) -> Finding {
    let mut kinds = BTreeSet::new();
    let setters = pod.setters(&mut |context| {
        let bad = seccomp(context).filter(|kind| !is_confined(kind));
        kinds.extend(bad.map(str::to_owned));
        bad.is_some()
    })?;
    let kinds = quoted(&kinds);
    Some(("seccompProfile", format!("{setters} must not set securityContext.seccompProfile.type to {kinds}")))
}

fn seccomp_baseline(pod: &Pod<'_>) -> Finding {
    if pod.minor >= 19 {
        return unconfined(pod);
    }
    let mut keys = vec!["seccomp.security.alpha.kubernetes.io/pod".to_owned()];
    let containers = pod.containers().map(|c| c.str_at(&["name"]));
    keys.extend(containers.map(|name| format!("container.seccomp.security.alpha.kubernetes.io/{name}")));
    let bad: BTreeSet<String> = keys
        .into_iter()
        .filter_map(|key| Some((pod.metadata.get(&["annotations", &key])?.as_str()?, key)))
        .filter(|(v, _)| !matches!(*v, "runtime/default" | "docker/default") && !v.starts_with("localhost/"))
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    let word = plural("annotation", "annotations", bad.len());
    let list = bad.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!bad.is_empty()).then(|| ("seccompProfile", format!("forbidden {word} {list}")))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Finding {
    if pod.is_windows() && pod.minor >= 25 {
        return None;
    }
    if let Some(found) = unconfined(pod) {
        return Some(found);
    }
    if seccomp(&pod.spec["securityContext"]).is_some() {
        return None;
    }
    let names = pod.which(|container| seccomp(&container["securityContext"]).is_none());
    (!names.is_empty()).then(|| {
        let detail = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        ("seccompProfile", format!("pod or {} {detail}", named(&names)))
    })
}

/// Sysctls with the minor version from which they are allowed.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

fn sysctls(pod: &Pod<'_>) -> Finding {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= pod.minor);
    let names = pod.spec.list_at(&["securityContext", "sysctls"]).iter().map(|s| s.str_at(&["name"]));
    let bad: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}

fn windows_host_process(pod: &Pod<'_>) -> Finding {
    let setters = pod.setters(&mut |context| context.bool_at(&["windowsOptions", "hostProcess"]))?;
    Some(("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true")))
}

fn privilege_escalation(pod: &Pod<'_>) -> Finding {
    if pod.is_windows() && pod.minor >= 25 {
        return None;
    }
    let asked = |c: &Value| c.get(&["securityContext", "allowPrivilegeEscalation"]).and_then(Value::as_bool);
    let names = pod.which(|container| asked(container) != Some(false));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&names));
    (!names.is_empty()).then(|| ("allowPrivilegeEscalation != false", detail()))
}

fn restricted_volumes(pod: &Pod<'_>) -> Finding {
    const ALLOWED: [&str; 9] = [
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
        "secret",
    ];
    let kind = |volume: &Value| -> schema::Key {
        let mut members = volume.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(k, _)| k);
        members.find(|k| *k != "name").cloned().unwrap_or_else(|| "unknown".into())
    };
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec.list_at(&["volumes"]) {
        let kind = kind(volume);
        if !ALLOWED.contains(&kind.as_str()) {
            names.push(volume.str_at(&["name"]));
            kinds.insert(kind);
        }
    }
    (!names.is_empty()).then(|| {
        let (volumes, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
        let types = plural("type", "types", kinds.len());
        let detail = format!("{volumes} {} {uses} restricted volume {types} {}", quoted(&names), quoted(&kinds));
        ("restricted volume types", detail)
    })
}

fn run_as_non_root(pod: &Pod<'_>) -> Finding {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_user_namespace() && pod.minor >= 35 {
        return None;
    }
    let asked = |context: &Value| context.get(&["runAsNonRoot"]).and_then(Value::as_bool);
    if let Some(setters) = pod.setters(&mut |context| asked(context) == Some(false)) {
        return Some((REASON, format!("{setters} must not set securityContext.runAsNonRoot=false")));
    }
    if asked(&pod.spec["securityContext"]) == Some(true) {
        return None;
    }
    let names = pod.which(|container| asked(&container["securityContext"]).is_none());
    (!names.is_empty())
        .then(|| (REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&names))))
}

fn run_as_user(pod: &Pod<'_>) -> Finding {
    if pod.has_user_namespace() && pod.minor >= 35 {
        return None;
    }
    let setters = pod.setters(&mut |context| context.i64_at(&["runAsUser"]) == Some(0))?;
    Some(("runAsUser=0", format!("{setters} must not set runAsUser=0")))
}
