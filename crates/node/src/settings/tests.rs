//! What a kubelet is told: by flags, by files, and wrongly.

use std::collections::BTreeMap;

use super::*;
use crate::Config;

struct Shelf(BTreeMap<&'static str, &'static str>);

impl Files for Shelf {
    fn read(&self, path: &Path) -> io::Result<String> {
        let found = path.to_str().and_then(|path| self.0.get(path));
        found.map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.keys().map(PathBuf::from).filter(|path| path.starts_with(dir)).collect())
    }
}

const VERIFICATION: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nimagePullCredentialsVerificationPolicy: Sometimes\npreloadedImagesVerificationAllowlist: [a.test/b]\n";
const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn told(flags: &[&str], files: &[(&'static str, &'static str)]) -> Result<(Config, Value), Vec<String>> {
    let flags: Vec<Flag> = flags.iter().map(|text| flag(text).expect("a flag")).collect();
    let settings = Settings::read(&flags, &Shelf(files.iter().copied().collect()))?;
    let mut config = Config::default();
    settings.apply(&mut config)?;
    let shown = config.configz.clone();
    Ok((config, shown))
}

#[test]
fn every_default_is_of_its_kind() {
    for row in ROWS.iter().filter(|row| !row.default.is_empty()) {
        assert_eq!(check(row, &default(row)), Ok(()), "{}", key(row));
    }
    let mut names: Vec<&str> = ROWS.iter().map(key).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len(), "no setting twice");
    let (config, shown) = told(&[], &[]).expect("defaults");
    assert_eq!((config.max_pods, config.log_max_bytes, config.cpu_period_us), (110, 10 << 20, 100_000));
    assert_eq!(config.evictions.hard_memory(0), 100 << 20);
    assert_eq!((&shown["podPidsLimit"], &shown["memorySwap"]), (&json!(-1), &Value::Null));
}

#[test]
fn flags_stand_above_files() {
    let file = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 20\nevictionHard:\n  memory.available: 5%\nmemorySwap: {swapBehavior: LimitedSwap}\ncrashLoopBackOff:\n  maxContainerRestartPeriod: 20s\nreservedMemory:\n- numaNode: 0\n  limits: {memory: 1Gi}\n";
    let more = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodPidsLimit: 7\nmaxPods: 21\n";
    let files = [("/k.yaml", file), ("/d/10-a.conf", more), ("/d/20.txt", "nonsense")];
    let all = [
        "config=/k.yaml", "--config-dir=/d", "pod-max-pids=9", "node-labels=a=b", "node-labels=c=d", "seccomp-default",
        "v=4",
    ];
    let (config, shown) = told(&all, &files).expect("settings");
    assert_eq!(
        (config.max_pods, config.pod_pids_limit, config.limited_swap, config.seccomp_default),
        (21, 9, true, true)
    );
    assert_eq!(config.labels.len(), 2);
    assert_eq!((config.evictions.hard_memory(1000), config.crash_backoff_max), (50, 20_000_000_000));
    for (pointer, value) in [
        ("/maxPods", json!(21)),
        ("/podPidsLimit", json!(9)),
        ("/memorySwap/swapBehavior", json!("LimitedSwap")),
        ("/evictionHard", json!({"memory.available": "5%"})),
        ("/evictionPressureTransitionPeriod", json!("5m0s")),
        ("/reservedMemory/0/limits/memory", json!("1Gi")),
        ("/port", json!(10250)),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&value), "{pointer}");
    }
    let (config, _) = told(
        &[
            "eviction-hard=nodefs.available<10%,pid.available<5",
            "eviction-soft=memory.available<1Gi",
            "eviction-soft-grace-period=memory.available=1m30s",
            "eviction-minimum-reclaim=nodefs.available=500Mi",
        ],
        &[],
    )
    .expect("thresholds");
    let graces: Vec<i64> = config.evictions.thresholds.iter().map(|of| of.grace).collect();
    assert_eq!(graces, [0, 0, 90_000_000_000]);
    let (config, _) = told(
        &[
            "reserved-cpus=0-1",
            "system-reserved=cpu=500m,memory=1Gi,pid=100",
            "cpu-manager-policy=static",
            "cpu-manager-policy-options=full-pcpus-only=true",
            "memory-manager-policy=Static",
            "reserved-memory=0:memory=1Gi,hugepages-1Gi=2Gi",
            "reserved-memory=1:memory=100Mi",
            "topology-manager-policy=restricted",
        ],
        &[],
    )
    .expect("managers");
    assert_eq!(
        (config.reserved.cpu_milli, config.reserved.pids, config.managers.reserved_memory.len()),
        (2000, 100, 2)
    );
    assert!(config.managers.cpus.is_some_and(|options| options.full_pcpus_only) && config.managers.memory);
    let (config, _) = told(
        &[
            "shutdown-grace-period=30s",
            "shutdown-grace-period-critical-pods=10s",
            "register-with-taints=a=b:NoSchedule,c:NoExecute",
        ],
        &[],
    )
    .expect("a shutdown");
    let phases: Vec<(i32, u64)> = config.shutdown.iter().map(|(priority, time)| (*priority, time.as_secs())).collect();
    assert_eq!((phases, config.taints.len()), (vec![(0, 20), (2_000_000_000, 10)], 2));
}

#[test]
fn mistakes_are_named_all_at_once() {
    for (flags, wrong) in [
        ("max-pods", "expected a number"),
        ("max-pods=many", "expected a number"),
        ("port=1", "cannot be set on this node"),
        ("eviction-hard=memory.available=1", "expected NAME<VALUE"),
        ("sync-frequency=soon", "expected a duration"),
        ("no-such=1", "known are config, config-dir, allowed-unsafe-sysctls"),
        ("config", "a path is missing"),
    ] {
        assert!(flag(flags).is_err_and(|why| why.contains(wrong)), "{flags}");
    }
    let text: &'static str = Box::leak(
        format!(
            "{HEAD}maxpods: 1\nmaxPods: many\nfeatureGates: {{A: true}}\nstaticPodURL: http://a\nmemorySwap: {{a: 1}}\n"
        )
        .into_boxed_str(),
    );
    for (flags, files, expected) in [
        (
            &["config=/f"][..],
            &[("/f", text)][..],
            &[
                "/f: maxPods: expected a number",
                "/f: unknown field \"maxpods\"",
                "/f: staticPodURL: cannot be set on this node",
                "/f: unknown field \"memorySwap.a\"",
            ][..],
        ),
        (&["config=/none"], &[], &["cannot read /none: entity not found"]),
        (
            &["config=/f"],
            &[("/f", "kind: Pod\napiVersion: v1\n")],
            &["/f: expected kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1, not \"Pod\" of \"v1\""],
        ),
        (
            &["config=/f"],
            &[("/f", VERIFICATION)],
            &[
                "invalid configuration: can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"",
                "invalid configuration: option \"Sometimes\" specified for imagePullCredentialsVerificationPolicy. Valid options are \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\"",
            ],
        ),
        (
            &["config=/f", "feature-gates=KubeletEnsureSecretPulledImages=false"],
            &[("/f", VERIFICATION)],
            &[
                "invalid configuration: `imagePullCredentialsVerificationPolicy` must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled",
                "invalid configuration: `preloadedImagesVerificationAllowlist` must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled",
            ],
        ),
        (
            &[
                "image-gc-low-threshold=90",
                "topology-manager-scope=node",
                "eviction-soft=memory.available<1Gi,disk<1",
                "system-reserved=gpu=1",
                "cpu-manager-policy=static",
                "cpu-manager-policy-options=align-by-socket=true,x=true",
                "memory-manager-policy=Static",
                "enforce-node-allocatable=pods,system-reserved",
                "container-log-max-files=1",
            ],
            &[],
            &[
                "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
                "invalid configuration: topologyManagerScope \"node\" must be one of: [\"container\", \"pod\"]",
                "unsupported eviction signal disk",
                "grace period must be specified for the soft eviction threshold memory.available",
                "invalid configuration: systemReserved reserves gpu, which cannot be reserved",
                "CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided",
                "unknown CPU Manager Policy option: \"x\"",
                "invalid configuration: enforceNodeAllocatable (--enforce-node-allocatable): this node enforces pods or none, not \"system-reserved\"",
                "invalid configuration: containerLogMaxFiles 1 must be between 2 and 2147483647, inclusive",
                "the total amount \"0\" of type \"memory\" is not equal to the value \"0\" determined by Node Allocatable feature",
            ],
        ),
    ] {
        let mut problems = told(flags, files).map(drop).expect_err("mistakes");
        let mut expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        // Without thresholds, which are wrong, nothing is kept from pods.
        expected.retain(|text| !text.starts_with("the total amount"));
        problems.sort();
        expected.sort();
        assert_eq!(problems, expected);
    }
}
