//! From settings to a node's configuration: everything is resolved, and all that does not fit is said.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schema::api::core::v1::Taint;
use schema::quantity::Quantity;
use serde_json::Value;

use super::Settings;
use crate::config::{Config, Reservation};
use crate::eviction;
use crate::images::verify::{self, Policy as Verification};
use crate::ports::Nanos;
use crate::topology::cpus::{self, Options};
use crate::topology::memory::Amounts;
use crate::topology::{self, Policy};

/// Pods at and above it end in the second phase of a shutdown.
const CRITICAL: i32 = 2_000_000_000;

struct Reading<'a> {
    of: &'a Settings,
    problems: Vec<String>,
}

impl Reading<'_> {
    fn wrong(&mut self, field: &str, why: impl std::fmt::Display) {
        self.problems.push(format!("invalid configuration: {field} {why}"));
    }

    fn text(&self, field: &str) -> String {
        self.of.get(field).as_str().unwrap_or_default().to_owned()
    }

    fn flag(&self, field: &str) -> bool {
        self.of.get(field) == Value::Bool(true)
    }

    /// A number within bounds.
    fn number(&mut self, field: &str, least: i64, most: i64) -> i64 {
        let Some(number) = self.of.get(field).as_i64() else { return least };
        if !(least..=most).contains(&number) {
            self.wrong(field, format_args!("{number} must be between {least} and {most}, inclusive"));
        }
        number.clamp(least, most)
    }

    fn nanos(&mut self, field: &str) -> Nanos {
        let nanos = schema::time::parse_duration(&self.text(field)).unwrap_or(0);
        if nanos < 0 {
            self.wrong(field, "must not be negative");
        }
        nanos.max(0)
    }

    fn duration(&mut self, field: &str) -> Duration {
        Duration::from_nanos(self.nanos(field).unsigned_abs())
    }

    fn list(&self, field: &str) -> Vec<String> {
        let list = self.of.get(field);
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn map(&self, field: &str) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let map = self.of.get(field);
        map.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    fn one_of(&mut self, field: &str, known: &[&str]) -> String {
        let text = self.text(field);
        if !known.contains(&&*text) {
            self.wrong(field, format_args!("{text:?} must be one of: {known:?}"));
        }
        text
    }

    fn amount(&mut self, field: &str, text: &str) -> u64 {
        match Quantity::parse(text).ok().and_then(|amount| u64::try_from(amount.value()).ok()) {
            Some(amount) => amount,
            None => {
                self.wrong(field, format_args!("{text:?} is no amount"));
                0
            }
        }
    }

    fn reserve(&mut self, field: &str, to: &mut Reservation) {
        for (name, text) in self.map(field) {
            let amount = self.amount(field, &text);
            match &*name {
                "cpu" => {
                    let milli = Quantity::parse(&text).map_or(0, |amount| amount.milli_value());
                    to.cpu_milli += u64::try_from(milli).unwrap_or(0);
                }
                "memory" => to.memory_bytes += amount,
                "ephemeral-storage" => to.ephemeral_storage_bytes += amount,
                "pid" => to.pids += amount,
                _ => self.wrong(field, format_args!("reserves {name}, which cannot be reserved")),
            }
        }
    }

    fn gate(&self, name: &str) -> bool {
        self.map("featureGates").get(name).is_some_and(|on| on.eq_ignore_ascii_case("true"))
    }

    fn switch(&mut self, name: &str, text: &str) -> bool {
        match text {
            "true" | "false" => text == "true",
            _ => {
                self.problems.push(format!("bad value for option {name:?}: {text:?}"));
                false
            }
        }
    }

    fn cpu_options(&mut self) -> Options {
        let mut options = Options::default();
        for (name, text) in self.map("cpuManagerPolicyOptions") {
            let on = self.switch(&name, &text);
            let alpha = matches!(&*name, "align-by-socket" | "distribute-cpus-across-cores");
            if alpha && !self.gate("CPUManagerPolicyAlphaOptions") {
                self.problems
                    .push(format!("CPU Manager Policy Alpha-level Options not enabled, but option {name:?} provided"));
            }
            match &*name {
                "full-pcpus-only" => options.full_pcpus_only = on,
                "distribute-cpus-across-numa" => options.distribute_across_numa = on,
                "distribute-cpus-across-cores" => options.distribute_across_cores = on,
                "align-by-socket" => options.align_by_socket = on,
                "strict-cpu-reservation" => options.strict_reservation = on,
                "prefer-align-cpus-by-uncorecache" => options.prefer_uncore = on,
                _ => self.problems.push(format!("unknown CPU Manager Policy option: {name:?}")),
            }
        }
        let cores = "distribute-cpus-across-cores";
        for (both, a, b) in [
            (options.full_pcpus_only && options.distribute_across_cores, "full-pcpus-only", cores),
            (options.distribute_across_numa && options.distribute_across_cores, "distribute-cpus-across-numa", cores),
            (options.prefer_uncore && options.distribute_across_cores, "prefer-align-cpus-by-uncorecache", cores),
            (
                options.prefer_uncore && options.distribute_across_numa,
                "prefer-align-cpus-by-uncorecache",
                "distribute-cpus-across-numa",
            ),
        ] {
            if both {
                self.problems.push(format!("static policy options {a} and {b} can not be used at the same time"));
            }
        }
        options
    }

    fn managers(&mut self, reserved: &mut Reservation) -> topology::Settings {
        let mut made = topology::Settings::default();
        if self.one_of("cpuManagerPolicy", &["none", "static"]) == "static" {
            made.cpus = Some(self.cpu_options());
        }
        let text = self.text("reservedSystemCPUs");
        match cpus::parse(&text) {
            Some(set) => made.reserved_cpus = set,
            None => self.wrong("reservedSystemCPUs", format_args!("(--reserved-cpus): unable to parse {text}")),
        }
        if !made.reserved_cpus.is_empty() {
            // It supersedes the counts of systemReserved and kubeReserved.
            reserved.cpu_milli = made.reserved_cpus.len() as u64 * 1000;
        }
        made.memory = self.one_of("memoryManagerPolicy", &["None", "Static"]) == "Static";
        for node in self.of.get("reservedMemory").as_array().into_iter().flatten() {
            let id = node["numaNode"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
            let limits = node["limits"].as_object().into_iter().flatten();
            let limits: Vec<(String, String)> =
                limits.map(|(name, text)| (name.clone(), text.as_str().unwrap_or_default().to_owned())).collect();
            let amounts: Amounts =
                limits.into_iter().map(|(name, text)| (name, self.amount("reservedMemory", &text))).collect();
            made.reserved_memory.insert(id, amounts);
        }
        made.policy =
            match &*self.one_of("topologyManagerPolicy", &["none", "best-effort", "restricted", "single-numa-node"]) {
                "best-effort" => Policy::BestEffort,
                "restricted" => Policy::Restricted,
                "single-numa-node" => Policy::SingleNumaNode,
                _ => Policy::None,
            };
        made.pod_scope = self.one_of("topologyManagerScope", &["container", "pod"]) == "pod";
        for (name, text) in self.map("topologyManagerPolicyOptions") {
            match &*name {
                "prefer-closest-numa-nodes" => made.closest = self.switch(&name, &text),
                "max-allowable-numa-nodes" => {}
                _ => self.problems.push(format!("unknown Topology Manager Policy option: {name:?}")),
            }
        }
        if made.policy == Policy::SingleNumaNode && made.cpus.is_some_and(|options| options.align_by_socket) {
            self.problems.push(
                "Topology manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
                    .into(),
            );
        }
        made
    }

    /// Whose images need no proof.
    fn image_verification(&mut self) -> Verification {
        const POLICY: &str = "imagePullCredentialsVerificationPolicy";
        const LIST: &str = "preloadedImagesVerificationAllowlist";
        let gate = self.map("featureGates").remove("KubeletEnsureSecretPulledImages");
        if gate.is_some_and(|on| on.eq_ignore_ascii_case("false")) {
            for field in [POLICY, LIST].into_iter().filter(|field| self.of.said.contains_key(field)) {
                let why = "must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled";
                self.problems.push(format!("invalid configuration: `{field}` {why}"));
            }
            return Verification::NeverVerify;
        }
        let list = self.list(LIST);
        let policy = self.text(POLICY);
        if !list.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            self.problems.push(format!(
                "invalid configuration: can't set `{LIST}` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
            ));
        } else if let Some(why) = list.iter().find_map(|pattern| verify::check_pattern(pattern).err()) {
            self.problems.push(format!("invalid configuration: invalid image pattern in `{LIST}`: {why}"));
        }
        match &*policy {
            "NeverVerify" => Verification::NeverVerify,
            "" | "NeverVerifyPreloadedImages" => Verification::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => Verification::NeverVerifyAllowlistedImages(list),
            "AlwaysVerify" => Verification::AlwaysVerify,
            other => {
                self.problems.push(format!(
                    "invalid configuration: option \"{other}\" specified for {POLICY}. Valid options are \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\""
                ));
                Verification::AlwaysVerify
            }
        }
    }

    /// What the managers reserve must be what the node reserves.
    fn check_reserved_memory(&mut self, managers: &topology::Settings, config: &Config) {
        if !managers.memory {
            return;
        }
        let told: u64 = managers.reserved_memory.values().filter_map(|of| of.get("memory")).sum();
        let hard = config.evictions.hard_memory(0);
        let kept = config.reserved.memory_bytes + hard;
        if told != kept {
            self.problems.push(format!(
                "the total amount \"{told}\" of type \"memory\" is not equal to the value \"{kept}\" determined by Node Allocatable feature"
            ));
        }
    }

    fn evictions(&mut self, allocatable: bool) -> Vec<eviction::Threshold> {
        let mut hard = self.map("evictionHard");
        if self.flag("mergeDefaultEvictionSettings") {
            let defaults = Reading { of: &Settings::default(), problems: Vec::new() }.map("evictionHard");
            for (name, text) in defaults {
                hard.entry(name).or_insert(text);
            }
        }
        let [soft, graces, reclaims] =
            ["evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim"].map(|field| self.map(field));
        match eviction::thresholds(&hard, &soft, &graces, &reclaims, allocatable) {
            Ok(thresholds) => thresholds,
            Err(problems) => {
                self.problems.extend(problems);
                Vec::new()
            }
        }
    }

    /// Phases of a shutdown: pods from this priority on have so long.
    fn shutdown(&mut self) -> Vec<(i32, Duration)> {
        let (all, critical) = (self.duration("shutdownGracePeriod"), self.duration("shutdownGracePeriodCriticalPods"));
        if critical > all {
            let why = format!("{critical:?} must be <= shutdownGracePeriod {all:?}");
            self.wrong("shutdownGracePeriodCriticalPods", why);
        }
        let phases = self.of.get("shutdownGracePeriodByPodPriority");
        let phases = phases.as_array().cloned().unwrap_or_default();
        if !phases.is_empty() && !all.is_zero() {
            self.wrong("shutdownGracePeriodByPodPriority", "and shutdownGracePeriod cannot both be set");
        }
        let mut made: Vec<(i32, Duration)> = Vec::new();
        for phase in phases {
            let priority = phase["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok());
            match (priority, phase["shutdownGracePeriodSeconds"].as_u64()) {
                (Some(priority), Some(seconds)) => made.push((priority, Duration::from_secs(seconds))),
                _ => self
                    .wrong("shutdownGracePeriodByPodPriority", "is a list of priority and shutdownGracePeriodSeconds"),
            }
        }
        if !all.is_zero() {
            made = vec![(0, all.saturating_sub(critical)), (CRITICAL, critical)];
        }
        made.sort_by_key(|(priority, _)| *priority);
        made
    }

    fn taints(&mut self) -> Vec<Taint> {
        let mut made = Vec::new();
        for taint in self.of.get("registerWithTaints").as_array().into_iter().flatten() {
            let text = |name: &str| taint[name].as_str().unwrap_or_default().to_owned();
            let of = Taint { key: text("key"), value: text("value"), effect: text("effect"), ..Taint::default() };
            if of.key.is_empty() || !matches!(&*of.effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                self.wrong("registerWithTaints", format_args!("(--register-with-taints): invalid taint: {taint}"));
            }
            made.push(of);
        }
        made
    }
}

impl Settings {
    /// Sets what was said, and leaves the rest of the configuration as it is.
    pub fn apply(&self, config: &mut Config) -> Result<(), Vec<String>> {
        let mut read = Reading { of: self, problems: Vec::new() };
        let of = &mut read;
        let most = i64::from(i32::MAX);
        config.max_pods = u32::try_from(of.number("maxPods", 0, most)).unwrap_or(0);
        config.pods_per_core = u32::try_from(of.number("podsPerCore", 0, most)).unwrap_or(0);
        config.pod_pids_limit = u64::try_from(of.number("podPidsLimit", -1, i64::MAX)).unwrap_or(0);
        of.reserve("systemReserved", &mut config.reserved);
        of.reserve("kubeReserved", &mut config.reserved);
        config.managers = of.managers(&mut config.reserved);
        let enforced = of.list("enforceNodeAllocatable");
        for other in enforced.iter().filter(|name| !matches!(&***name, "pods" | "none" | "")) {
            of.wrong(
                "enforceNodeAllocatable",
                format_args!("(--enforce-node-allocatable): this node enforces pods or none, not {other:?}"),
            );
        }
        config.enforce_allocatable = enforced.iter().any(|name| name == "pods");
        config.evictions.thresholds = of.evictions(config.enforce_allocatable);
        config.evictions.transition = of.nanos("evictionPressureTransitionPeriod");
        config.evictions.max_grace_seconds = of.number("evictionMaxPodGracePeriod", 0, most);
        let (managers, plain) = (config.managers.clone(), config.clone());
        of.check_reserved_memory(&managers, &plain);
        let images = &mut config.image_gc;
        images.high_percent = of.number("imageGCHighThresholdPercent", 0, 100).unsigned_abs();
        images.low_percent = of.number("imageGCLowThresholdPercent", 0, 100).unsigned_abs();
        if images.low_percent >= images.high_percent {
            let (low, high) = (images.low_percent, images.high_percent);
            of.wrong(
                "imageGCLowThresholdPercent",
                format_args!(
                    "(--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
                ),
            );
        }
        images.minimum_age = of.nanos("imageMinimumGCAge");
        images.maximum_age = of.nanos("imageMaximumGCAge");
        if images.maximum_age != 0 && images.maximum_age <= images.minimum_age {
            of.wrong("imageMaximumGCAge", "must be greater than imageMinimumGCAge");
        }
        config.image_verification = of.image_verification();
        let size = of.text("containerLogMaxSize");
        config.log_max_bytes = of.amount("containerLogMaxSize", &size);
        config.log_max_files = u32::try_from(of.number("containerLogMaxFiles", 2, most)).unwrap_or(2);
        config.allowed_sysctls = of.list("allowedUnsafeSysctls");
        config.seccomp_default = of.flag("seccompDefault");
        config.fail_on_swap = of.flag("failSwapOn");
        config.single_process_oom_kill = of.flag("singleProcessOOMKill");
        config.limited_swap = match &*of.text("memorySwap.swapBehavior") {
            "LimitedSwap" => true,
            "" | "NoSwap" => false,
            other => {
                let why = format!("{other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"");
                of.wrong("memorySwap.swapBehavior", why);
                false
            }
        };
        config.cpu_quota = of.flag("cpuCFSQuota");
        let period = of.nanos("cpuCFSQuotaPeriod");
        if !(1_000_000..=1_000_000_000).contains(&period) {
            of.wrong("cpuCFSQuotaPeriod", "(--cpu-cfs-quota-period) must be between 1ms and 1sec, inclusive");
        }
        config.cpu_period_us = period.unsigned_abs() / 1000;
        let restarts = of.nanos("crashLoopBackOff.maxContainerRestartPeriod");
        if !(1_000_000_000..=300_000_000_000).contains(&restarts) {
            of.wrong("crashLoopBackOff.maxContainerRestartPeriod", "must be set between 1s and 300s");
        }
        config.crash_backoff_max = restarts;
        config.shutdown = of.shutdown();
        config.status_every = of.duration("nodeStatusUpdateFrequency").max(Duration::from_secs(1));
        let reports = if self.said.contains_key("nodeStatusReportFrequency") { "Report" } else { "Update" };
        config.report_every = match self.said.contains_key("nodeStatusUpdateFrequency") {
            true => of.nanos(&format!("nodeStatus{reports}Frequency")),
            false => of.nanos("nodeStatusReportFrequency"),
        };
        config.status_max_images = of.number("nodeStatusMaxImages", -1, most);
        config.dead_containers = of.number("maximum-dead-containers", -1, most);
        config.dead_per_container = of.number("maximum-dead-containers-per-container", -1, most);
        config.labels.extend(of.map("node-labels"));
        config.taints.extend(of.taints());
        for (field, to) in [("staticPodPath", &mut config.static_pods), ("resolvConf", &mut config.resolv_conf)] {
            if self.said.contains_key(field) {
                *to = PathBuf::from(of.text(field));
            }
        }
        for (field, to) in [("clusterDomain", &mut config.cluster_domain), ("providerID", &mut config.provider_id)] {
            if self.said.contains_key(field) {
                *to = of.text(field);
            }
        }
        if self.said.contains_key("clusterDNS") {
            config.cluster_dns.clear();
            for text in of.list("clusterDNS") {
                match text.parse() {
                    Ok(address) => config.cluster_dns.push(address),
                    Err(_) => of.wrong("clusterDNS", format_args!("(--cluster-dns) {text:?} is no IP address")),
                }
            }
        }
        let mut shown = self.configz();
        shown["clusterDNS"] = config.cluster_dns.iter().map(ToString::to_string).collect();
        shown["clusterDomain"] = Value::String(config.cluster_domain.clone());
        shown["podLogsDir"] = Value::String(config.log_root.display().to_string());
        shown["resolvConf"] = Value::String(config.resolv_conf.display().to_string());
        shown["staticPodPath"] = Value::String(config.static_pods.display().to_string());
        shown["port"] = config.kubelet_port.into();
        config.configz = shown;
        if read.problems.is_empty() { Ok(()) } else { Err(read.problems) }
    }
}
