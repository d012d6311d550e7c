//! How full the volumes of pods are: `volume` in `/stats/summary`, and `kubelet_volume_stats_*`.

use serde_json::{Value, json};

use super::summary::fs;
use crate::kubelet::Kubelet;
use crate::metrics::family;
use crate::objects::lock;
use crate::ports::{FsStats, Nanos};
use crate::worker::View;

/// One that is claimed, or a driver's.
pub(super) struct VolumeStats {
    name: String,
    claim: Option<String>,
    stats: FsStats,
}

impl Kubelet {
    pub(super) async fn volume_stats(&self, view: &View) -> Vec<VolumeStats> {
        let (shared, pod) = (&self.shared, &view.desired.pod);
        let mounted = lock(&shared.mounted).get(view.desired.uid()).cloned().unwrap_or_default();
        let sources = pod.spec.volumes.iter().filter_map(|volume| {
            let source = &volume.volume_source;
            let named = source.persistent_volume_claim.as_ref().map(|of| of.claim_name.clone());
            let own = source.ephemeral.as_ref().map(|_| format!("{}-{}", pod.metadata.name, volume.name));
            let claim = named.or(own);
            let at = mounted.get(&volume.name).filter(|at| !at.block)?;
            (claim.is_some() || source.csi.is_some()).then(|| (volume.name.clone(), claim, at.host_path.clone()))
        });
        let sources: Vec<_> = sources.collect();
        if sources.is_empty() {
            return Vec::new();
        }
        let told = shared.csi.stats(view.desired.uid()).await;
        let all = sources.into_iter().filter_map(|(name, claim, path)| {
            let stats = match told.iter().find(|(at, _)| *at == path) {
                Some((_, stats)) => *stats,
                // A driver that says nothing is not asked through the file system: it may hang.
                None if path.components().any(|part| part.as_os_str() == "kubernetes.io~csi") => return None,
                None => shared.ports.host.fs(&path).ok()?,
            };
            Some(VolumeStats { name, claim, stats })
        });
        all.collect()
    }

    pub(super) async fn volume_metrics(&self) -> String {
        let mut samples = Vec::new();
        for view in self.views() {
            let namespace = &view.desired.pod.metadata.namespace;
            for of in self.volume_stats(&view).await {
                if let Some(claim) = of.claim {
                    let labels = format!("{{namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"}}");
                    samples.push((labels, of.stats));
                }
            }
        }
        samples.sort_by(|a, b| a.0.cmp(&b.0));
        samples.dedup_by(|a, b| a.0 == b.0);
        let gauges: [(&str, &str, fn(&FsStats) -> u64); 6] = [
            ("available_bytes", "Number of available bytes in the volume", |of| of.available_bytes),
            ("capacity_bytes", "Capacity in bytes of the volume", |of| of.capacity_bytes),
            ("inodes", "Maximum number of inodes in the volume", |of| of.inodes),
            ("inodes_free", "Number of free inodes in the volume", |of| of.inodes_free),
            ("inodes_used", "Number of used inodes in the volume", |of| of.inodes.saturating_sub(of.inodes_free)),
            ("used_bytes", "Number of used bytes in the volume", |of| {
                of.capacity_bytes.saturating_sub(of.available_bytes)
            }),
        ];
        let mut text = String::new();
        for (name, help, of) in gauges.into_iter().filter(|_| !samples.is_empty()) {
            let help = format!("[ALPHA] {help}");
            let values = samples.iter().map(|(labels, stats)| (labels, of(stats)));
            family(&mut text, &format!("kubelet_volume_stats_{name}"), "gauge", &help, values);
        }
        text
    }
}

impl VolumeStats {
    pub(super) fn json(&self, at: Nanos, namespace: &str) -> Value {
        let stats = &self.stats;
        let used = stats.capacity_bytes.saturating_sub(stats.available_bytes);
        let mut value = fs(at, stats, used, stats.inodes.saturating_sub(stats.inodes_free));
        value["name"] = json!(self.name);
        if let Some(claim) = &self.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": namespace});
        }
        value
    }
}
