//! Trust anchors of ClusterTrustBundles, by name or by signer and labels.

use std::collections::BTreeSet;

use reconcile::io::Client;
use schema::api::certificates::v1::ClusterTrustBundle;
use schema::api::core::v1::{ClusterTrustBundleProjection, Pod};

use super::Error;
use crate::admission::selects;

/// The cluster's bundles, if the pod shows any.
pub async fn bundles(client: &Client, pod: &Pod) -> Result<Option<Vec<ClusterTrustBundle>>, Error> {
    let volumes = pod.spec.volumes.iter().filter_map(|volume| volume.volume_source.projected.as_ref());
    if !volumes.into_iter().flat_map(|of| &of.sources).any(|source| source.cluster_trust_bundle.is_some()) {
        return Ok(None);
    }
    let list = client.list::<ClusterTrustBundle>("", "").await;
    list.map(|list| Some(list.items))
        .map_err(|error| Error::Claim(format!("while listing ClusterTrustBundles: {error}")))
}

/// What a projection shows of them: each certificate once.
pub fn anchors(all: &[ClusterTrustBundle], of: &ClusterTrustBundleProjection) -> Result<String, String> {
    let selector = of.label_selector.as_ref();
    let wanted: Vec<&ClusterTrustBundle> = match (&of.name, &of.signer_name) {
        (Some(name), _) => all.iter().filter(|bundle| bundle.metadata.name == *name).collect(),
        (None, Some(signer)) => {
            let labels =
                |of: &ClusterTrustBundle| selector.is_some_and(|selector| selects(selector, &of.metadata.labels));
            all.iter().filter(|bundle| bundle.spec.signer_name == *signer && labels(bundle)).collect()
        }
        (None, None) => {
            return Err("ClusterTrustBundle projection requires either name or signerName to be set".into());
        }
    };
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
