//! Trust anchors of ClusterTrustBundles, by name or by signer and labels.

use std::collections::BTreeSet;

use schema::api::certificates::v1::ClusterTrustBundle;
use schema::api::core::v1::{ClusterTrustBundleProjection, Pod};

use super::Error;
use crate::admission::selects;
use crate::recall::Recall;

/// The cluster's bundles that the pod shows, if it may show any.
pub async fn bundles(recall: &Recall, pod: &Pod) -> Result<Option<Vec<ClusterTrustBundle>>, Error> {
    let volumes = pod.spec.volumes.iter().filter_map(|volume| volume.volume_source.projected.as_ref());
    let sources = volumes.flat_map(|of| &of.sources);
    let shown: Vec<_> = sources.filter_map(|source| source.cluster_trust_bundle.as_ref()).collect();
    if shown.is_empty() {
        return Ok(None);
    }
    let wanted = recall.select(pod, |bundle| shown.iter().any(|of| shows(of, bundle))).await;
    wanted.map(Some).map_err(|error| Error::Claim(format!("while listing ClusterTrustBundles: {error}")))
}

fn shows(of: &ClusterTrustBundleProjection, bundle: &ClusterTrustBundle) -> bool {
    match (&of.name, &of.signer_name) {
        (Some(name), _) => bundle.metadata.name == *name,
        (None, Some(signer)) => {
            let labels = |selector| selects(selector, &bundle.metadata.labels);
            bundle.spec.signer_name == *signer && of.label_selector.as_ref().is_some_and(labels)
        }
        (None, None) => false,
    }
}

/// What a projection shows of them: each certificate once.
pub fn anchors(all: &[ClusterTrustBundle], of: &ClusterTrustBundleProjection) -> Result<String, String> {
    if of.name.is_none() && of.signer_name.is_none() {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".into());
    }
    let wanted: Vec<&ClusterTrustBundle> = all.iter().filter(|bundle| shows(of, bundle)).collect();
    if wanted.is_empty() && of.optional != Some(true) {
        return Err(match &of.name {
            Some(name) => {
                format!("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found")
            }
            None => "combination of signerName and labelSelector matched zero ClusterTrustBundles".into(),
        });
    }
    let blocks: BTreeSet<String> = wanted.iter().flat_map(|bundle| blocks(&bundle.spec.trust_bundle)).collect();
    Ok(blocks.iter().map(|block| pem(block)).collect())
}

/// The certificates of a text, in order and with nothing around them.
pub fn certificates(text: &str) -> String {
    blocks(text).map(|block| pem(&block)).collect()
}

/// The Base64 of each certificate, in one line.
fn blocks(text: &str) -> impl Iterator<Item = String> {
    text.split("-----BEGIN CERTIFICATE-----").skip(1).filter_map(|rest| {
        let (inner, _) = rest.split_once("-----END CERTIFICATE-----")?;
        Some(inner.split_whitespace().collect())
    })
}

fn pem(block: &str) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, c) in block.char_indices() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text + "\n-----END CERTIFICATE-----\n"
}
