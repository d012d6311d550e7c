//! Every setting of a kubelet: its flag, its field of KubeletConfiguration, its kind, and what it is when nobody says.
//!
//! Flags, files and `/configz` read this table.

/// How a flag's text becomes a value, and what a file may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Bool,
    Text,
    Duration,
    /// `a,b`.
    List,
    /// `a=1,b=2`, or with another sign between name and value.
    Map(char),
    /// `key=value:Effect,…`.
    Taints,
    /// `0:memory=1Gi,hugepages-1Gi=2Gi`.
    ReservedMemory,
    /// A file's alone.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// This node does what it says.
    Set,
    /// It does no harm here that nobody obeys it.
    Ignored,
    /// This node is as the default says, and cannot be otherwise.
    Fixed,
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Empty: there is no such flag.
    pub flag: &'static str,
    /// Empty: a flag's alone. `a.b` is `b` in the object `a`.
    pub field: &'static str,
    pub kind: Kind,
    pub meaning: Meaning,
    /// JSON; empty: not set.
    pub default: &'static str,
}

const fn row(meaning: Meaning, flag: &'static str, field: &'static str, kind: Kind, default: &'static str) -> Row {
    Row { flag, field, kind, meaning, default }
}

use Kind::{Any, Bool, Duration, Int, List, Map, ReservedMemory, Taints, Text};
use Meaning::{Fixed, Ignored, Set};

pub const ROWS: &[Row] = &[
    row(Set, "allowed-unsafe-sysctls", "allowedUnsafeSysctls", List, ""),
    row(Set, "cluster-dns", "clusterDNS", List, ""),
    row(Set, "cluster-domain", "clusterDomain", Text, ""),
    row(Set, "container-log-max-files", "containerLogMaxFiles", Int, "5"),
    row(Set, "container-log-max-size", "containerLogMaxSize", Text, r#""10Mi""#),
    row(Set, "cpu-cfs-quota", "cpuCFSQuota", Bool, "true"),
    row(Set, "cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Duration, r#""100ms""#),
    row(Set, "cpu-manager-policy", "cpuManagerPolicy", Text, r#""none""#),
    row(Set, "cpu-manager-policy-options", "cpuManagerPolicyOptions", Map('='), ""),
    row(Set, "", "crashLoopBackOff.maxContainerRestartPeriod", Duration, r#""5m0s""#),
    row(Set, "enforce-node-allocatable", "enforceNodeAllocatable", List, r#"["pods"]"#),
    row(
        Set,
        "eviction-hard",
        "evictionHard",
        Map('<'),
        r#"{"memory.available":"100Mi","nodefs.available":"5%","nodefs.inodesFree":"5%","imagefs.available":"5%","imagefs.inodesFree":"5%"}"#,
    ),
    row(Set, "eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Int, "0"),
    row(Set, "eviction-minimum-reclaim", "evictionMinimumReclaim", Map('='), ""),
    row(Set, "eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Duration, r#""5m0s""#),
    row(Set, "eviction-soft", "evictionSoft", Map('<'), ""),
    row(Set, "eviction-soft-grace-period", "evictionSoftGracePeriod", Map('='), ""),
    row(Set, "", "mergeDefaultEvictionSettings", Bool, "false"),
    row(Set, "fail-swap-on", "failSwapOn", Bool, "false"),
    row(Set, "feature-gates", "featureGates", Map('='), ""),
    row(Set, "image-gc-high-threshold", "imageGCHighThresholdPercent", Int, "85"),
    row(Set, "image-gc-low-threshold", "imageGCLowThresholdPercent", Int, "80"),
    row(Set, "image-maximum-gc-age", "imageMaximumGCAge", Duration, r#""0s""#),
    row(Set, "minimum-image-ttl-duration", "imageMinimumGCAge", Duration, r#""2m0s""#),
    row(Set, "", "imagePullCredentialsVerificationPolicy", Text, r#""NeverVerifyPreloadedImages""#),
    row(Set, "", "preloadedImagesVerificationAllowlist", List, ""),
    row(Set, "kube-reserved", "kubeReserved", Map('='), ""),
    row(Ignored, "max-parallel-image-pulls", "maxParallelImagePulls", Int, ""),
    row(Set, "max-pods", "maxPods", Int, "110"),
    row(Set, "maximum-dead-containers", "", Int, "-1"),
    row(Set, "maximum-dead-containers-per-container", "", Int, "1"),
    row(Set, "memory-manager-policy", "memoryManagerPolicy", Text, r#""None""#),
    row(Set, "", "memorySwap.swapBehavior", Text, ""),
    row(Set, "", "singleProcessOOMKill", Bool, ""),
    row(Set, "node-labels", "", Map('='), ""),
    row(Set, "node-status-max-images", "nodeStatusMaxImages", Int, "50"),
    row(Set, "node-status-update-frequency", "nodeStatusUpdateFrequency", Duration, r#""10s""#),
    row(Set, "", "nodeStatusReportFrequency", Duration, r#""5m0s""#),
    row(Set, "pod-max-pids", "podPidsLimit", Int, "-1"),
    row(Set, "pods-per-core", "podsPerCore", Int, "0"),
    row(Set, "provider-id", "providerID", Text, ""),
    row(Set, "register-with-taints", "registerWithTaints", Taints, ""),
    row(Ignored, "registry-burst", "registryBurst", Int, "10"),
    row(Ignored, "registry-qps", "registryPullQPS", Int, "5"),
    row(Set, "reserved-cpus", "reservedSystemCPUs", Text, ""),
    row(Set, "reserved-memory", "reservedMemory", ReservedMemory, ""),
    row(Set, "resolv-conf", "resolvConf", Text, ""),
    row(Set, "seccomp-default", "seccompDefault", Bool, "false"),
    row(Ignored, "serialize-image-pulls", "serializeImagePulls", Bool, "false"),
    row(Set, "shutdown-grace-period", "shutdownGracePeriod", Duration, r#""0s""#),
    row(Set, "", "shutdownGracePeriodByPodPriority", Any, ""),
    row(Set, "shutdown-grace-period-critical-pods", "shutdownGracePeriodCriticalPods", Duration, r#""0s""#),
    row(Set, "pod-manifest-path", "staticPodPath", Text, ""),
    row(Set, "system-reserved", "systemReserved", Map('='), ""),
    row(Set, "topology-manager-policy", "topologyManagerPolicy", Text, r#""none""#),
    row(Set, "topology-manager-policy-options", "topologyManagerPolicyOptions", Map('='), ""),
    row(Set, "topology-manager-scope", "topologyManagerScope", Text, r#""container""#),
    row(Ignored, "", "authentication", Any, ""),
    row(Ignored, "", "authorization", Any, ""),
    row(Ignored, "cgroup-driver", "cgroupDriver", Text, r#""cgroupfs""#),
    row(Ignored, "", "configMapAndSecretChangeDetectionStrategy", Text, r#""Watch""#),
    row(Ignored, "contention-profiling", "enableContentionProfiling", Bool, ""),
    row(Ignored, "", "containerLogMaxWorkers", Int, "1"),
    row(Ignored, "", "containerLogMonitorInterval", Duration, r#""10s""#),
    row(Ignored, "container-runtime-endpoint", "containerRuntimeEndpoint", Text, ""),
    row(Ignored, "cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Duration, r#""10s""#),
    row(Ignored, "", "enableProfilingHandler", Bool, ""),
    row(Ignored, "", "enableDebugFlagsHandler", Bool, ""),
    row(Ignored, "event-burst", "eventBurst", Int, ""),
    row(Ignored, "event-qps", "eventRecordQPS", Int, ""),
    row(Ignored, "file-check-frequency", "fileCheckFrequency", Duration, ""),
    row(Ignored, "hairpin-mode", "hairpinMode", Text, ""),
    row(Ignored, "http-check-frequency", "httpCheckFrequency", Duration, ""),
    row(Ignored, "image-service-endpoint", "imageServiceEndpoint", Text, ""),
    row(Ignored, "iptables-drop-bit", "iptablesDropBit", Int, ""),
    row(Ignored, "iptables-masquerade-bit", "iptablesMasqueradeBit", Int, ""),
    row(Ignored, "kernel-memcg-notification", "kernelMemcgNotification", Bool, ""),
    row(Ignored, "kube-api-burst", "kubeAPIBurst", Int, ""),
    row(Ignored, "kube-api-content-type", "contentType", Text, ""),
    row(Ignored, "kube-api-qps", "kubeAPIQPS", Int, ""),
    row(Ignored, "", "logging", Any, ""),
    row(Ignored, "make-iptables-util-chains", "makeIPTablesUtilChains", Bool, ""),
    row(Ignored, "max-open-files", "maxOpenFiles", Int, ""),
    row(Ignored, "minimum-container-ttl-duration", "", Duration, ""),
    row(Ignored, "oom-score-adj", "oomScoreAdj", Int, ""),
    row(Ignored, "rotate-certificates", "rotateCertificates", Bool, ""),
    row(Ignored, "rotate-server-certificates", "serverTLSBootstrap", Bool, ""),
    row(Ignored, "runtime-request-timeout", "runtimeRequestTimeout", Duration, ""),
    row(Ignored, "", "showHiddenMetricsForVersion", Text, ""),
    row(Ignored, "streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Duration, ""),
    row(Ignored, "sync-frequency", "syncFrequency", Duration, r#""1m0s""#),
    row(Ignored, "v", "", Int, ""),
    row(Ignored, "volume-stats-agg-period", "volumeStatsAggPeriod", Duration, r#""1m0s""#),
    row(Fixed, "address", "address", Text, r#""0.0.0.0""#),
    row(Fixed, "cgroup-root", "cgroupRoot", Text, ""),
    row(Fixed, "cgroups-per-qos", "cgroupsPerQOS", Bool, "true"),
    row(Fixed, "", "defaultPodSysctls", Map('='), ""),
    row(Fixed, "enable-controller-attach-detach", "enableControllerAttachDetach", Bool, "true"),
    row(Fixed, "enable-debugging-handlers", "enableDebuggingHandlers", Bool, "true"),
    row(Fixed, "enable-server", "enableServer", Bool, "true"),
    row(Fixed, "", "enableSystemLogHandler", Bool, "false"),
    row(Fixed, "", "enableSystemLogQuery", Bool, "false"),
    row(Fixed, "fail-cgroupv1", "failCgroupV1", Bool, "false"),
    row(Fixed, "healthz-bind-address", "healthzBindAddress", Text, ""),
    row(Fixed, "healthz-port", "healthzPort", Int, ""),
    row(Fixed, "kube-reserved-cgroup", "kubeReservedCgroup", Text, ""),
    row(Fixed, "kubelet-cgroups", "kubeletCgroups", Text, ""),
    row(Fixed, "local-storage-capacity-isolation", "localStorageCapacityIsolation", Bool, "true"),
    row(Fixed, "", "memoryReservationPolicy", Text, r#""None""#),
    row(Fixed, "", "memoryThrottlingFactor", Any, ""),
    row(Fixed, "", "nodeLeaseDurationSeconds", Int, "40"),
    row(Fixed, "pod-cidr", "podCIDR", Text, ""),
    row(Fixed, "", "podLogsDir", Text, ""),
    row(Fixed, "port", "port", Int, "10250"),
    row(Fixed, "protect-kernel-defaults", "protectKernelDefaults", Bool, "false"),
    row(Fixed, "qos-reserved", "qosReserved", Map('='), ""),
    row(Fixed, "read-only-port", "readOnlyPort", Int, "0"),
    row(Fixed, "register-node", "registerNode", Bool, "true"),
    row(Fixed, "runonce", "runOnce", Bool, "false"),
    row(Fixed, "manifest-url", "staticPodURL", Text, ""),
    row(Fixed, "manifest-url-header", "staticPodURLHeader", Any, ""),
    row(Fixed, "system-cgroups", "systemCgroups", Text, ""),
    row(Fixed, "system-reserved-cgroup", "systemReservedCgroup", Text, ""),
    row(Fixed, "tls-cert-file", "tlsCertFile", Text, ""),
    row(Fixed, "tls-cipher-suites", "tlsCipherSuites", List, ""),
    row(Fixed, "", "tlsCurvePreferences", Any, ""),
    row(Fixed, "tls-min-version", "tlsMinVersion", Text, ""),
    row(Fixed, "tls-private-key-file", "tlsPrivateKeyFile", Text, ""),
    row(Fixed, "", "tracing", Any, ""),
    row(Fixed, "", "userNamespaces", Any, ""),
    row(Fixed, "volume-plugin-dir", "volumePluginDir", Text, ""),
];
