//! Client certificates: common name → user, organizations → groups, if a trusted authority signed them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pki::Certificate;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::User;

/// What a connection's chain proved is believed again without checking for this long.
const REMEMBERED_SECONDS: i64 = 300;
const REMEMBERED_MAX: usize = 4096;

type Believed = (Arc<User>, std::ops::Range<i64>);

/// Authorities for client certificates.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    /// Digest of the leaf → user and the times between which it is believed.
    remembered: Mutex<HashMap<[u8; 32], Believed>>,
}

impl Trust {
    /// No authority trusts nobody.
    pub fn from_pem(text: &str) -> Result<Self, pki::Error> {
        let mut anchors = Vec::new();
        if !text.is_empty() {
            for certificate in Certificate::all_from_pem(text)? {
                let der = CertificateDer::from(certificate.der);
                let anchor = webpki::anchor_from_trusted_cert(&der)
                    .map_err(|_| pki::Error::Der { what: "an authority's certificate", field: "trust anchor" })?;
                anchors.push(anchor.to_owned());
            }
        }
        Ok(Self { anchors, remembered: Mutex::default() })
    }

    /// The user that a chain (leaf first) proves; `None` for a certificate without a common name.
    pub fn user(&self, chain: &[Vec<u8>], now: i64) -> Result<Option<User>, String> {
        let Some((leaf, others)) = chain.split_first() else { return Ok(None) };
        let digest: [u8; 32] = {
            use sha2::Digest;
            sha2::Sha256::digest(leaf).into()
        };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((user, _)) = remembered.get(&digest).filter(|(_, when)| when.contains(&now)) {
            return Ok(Some((**user).clone()));
        }
        self.verify(leaf, others, now).map_err(|e| format!("client certificate: {e}"))?;
        let certificate = Certificate::from_der(leaf).map_err(|e| e.to_string())?;
        if certificate.subject.common_name.is_empty() {
            return Ok(None);
        }
        let id: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        let mut user = User {
            name: certificate.subject.common_name,
            groups: certificate.subject.organizations,
            ..User::default()
        };
        user.extra.insert(super::service_accounts::CREDENTIAL_ID.into(), vec![format!("X509SHA256={id}")]);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let until = certificate.not_after.min(now + REMEMBERED_SECONDS);
        remembered.insert(digest, (Arc::new(user.clone()), now..until));
        Ok(Some(user))
    }

    fn verify(&self, leaf: &[u8], others: &[Vec<u8>], now: i64) -> Result<(), webpki::Error> {
        let leaf = CertificateDer::from(leaf);
        let others: Vec<CertificateDer<'_>> = others.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        EndEntityCert::try_from(&leaf)?
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                &others,
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(drop)
    }
}
