//! TLS settings per host: the system's roots, or what `registries.yaml` says for that host. Read when first needed.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::sync::Mutex;

use crate::images::error::{Error, Result};
use crate::images::registries::{Registries, TlsFiles};

pub struct TlsConfigs {
    registries: Arc<Registries>,
    /// Made when first needed, until [`TlsConfigs::forget`]: roots are half a megabyte, and files may change.
    configs: Mutex<HashMap<Option<String>, Arc<ClientConfig>>>,
}

impl TlsConfigs {
    pub fn forget(&self) {
        if let Ok(mut configs) = self.configs.try_lock() {
            configs.clear();
        }
    }

    pub fn new(registries: Arc<Registries>) -> TlsConfigs {
        TlsConfigs { registries, configs: Mutex::default() }
    }

    pub async fn of(&self, authority: &str) -> Result<Arc<ClientConfig>> {
        let files = self.registries.tls(authority).cloned();
        let key = files.as_ref().map(|_| authority.to_owned());
        let mut configs = self.configs.lock().await;
        if let Some(config) = configs.get(&key) {
            return Ok(config.clone());
        }
        let host = authority.to_owned();
        let made = tokio::task::spawn_blocking(move || config(&host, &files.unwrap_or_default())).await;
        let config = Arc::new(made.map_err(|_| Error::Cancelled)??);
        configs.insert(key, config.clone());
        Ok(config)
    }
}

fn config(host: &str, files: &TlsFiles) -> Result<ClientConfig> {
    let fail = |why: String| Error::Tls { host: host.into(), why };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?;
    let builder = if files.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
    } else {
        builder.with_root_certificates(roots(&files.ca_file).map_err(fail)?)
    };
    if files.cert_file.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert_file)
        .and_then(Iterator::collect)
        .map_err(|e| fail(format!("{}: {e}", files.cert_file)))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|e| fail(format!("{}: {e}", files.key_file)))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| fail(e.to_string()))
}

/// The system's roots; none if the machine has none. Half a megabyte, read anew each time.
pub fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

/// The system's roots and, if there is one, the registry's own CA.
fn roots(ca_file: &str) -> std::result::Result<RootCertStore, String> {
    let mut store = system_roots();
    if !ca_file.is_empty() {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(ca_file)
            .and_then(Iterator::collect)
            .map_err(|e| format!("{ca_file}: {e}"))?;
        if certificates.is_empty() {
            return Err(format!("{ca_file} has no certificate"));
        }
        for certificate in certificates {
            store.add(certificate).map_err(|e| format!("{ca_file}: {e}"))?;
        }
    }
    if store.is_empty() {
        return Err("this machine has no root certificates (package ca-certificates)".into());
    }
    Ok(store)
}

/// Takes whoever the server is (`insecure_skip_verify`), but the handshake itself must be right.
#[derive(Debug)]
pub struct NoVerification(pub Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
