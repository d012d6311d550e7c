//! PKCS#10 certificate requests: a node makes one, the server reads and checks it.

use ring::rand::SecureRandom;

use crate::authority::seal;
use crate::certificate::{
    EXT_NAMES, read_extension, read_names, read_subject, write_extension, write_names, write_subject,
};
use crate::der::{self, Reader};
use crate::{Error, KeyPair, Names, Pem, PublicKey, Result, Subject};

/// PKCS#9 extensionRequest.
const OID_EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

/// A request whose signature was checked: its sender holds the key.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    pub subject: Subject,
    pub names: Names,
    pub public_key: PublicKey,
}

impl CertificateRequest {
    /// A signed request as PEM.
    pub fn create(key: &KeyPair, subject: &Subject, names: &Names, random: &dyn SecureRandom) -> Result<String> {
        Ok(Pem::encode("CERTIFICATE REQUEST", &Self::create_der(key, subject, names, random)?))
    }

    pub fn create_der(key: &KeyPair, subject: &Subject, names: &Names, random: &dyn SecureRandom) -> Result<Vec<u8>> {
        let attributes = if names.is_empty() {
            Vec::new()
        } else {
            let extensions = der::sequence(&[write_extension(EXT_NAMES, false, &write_names(names))]);
            der::sequence(&[der::tlv(der::OID, OID_EXTENSION_REQUEST), der::tlv(der::SET, &extensions)])
        };
        let info = der::sequence(&[
            der::unsigned(&[]),
            write_subject(subject),
            key.public().spki.clone(),
            der::tlv(der::context(0, true), &attributes),
        ]);
        seal(key, &info, random)
    }

    pub fn from_pem(text: &str) -> Result<Self> {
        let blocks = Pem::parse_all(text)?;
        let block = blocks
            .iter()
            .find(|b| b.label == "CERTIFICATE REQUEST")
            .ok_or(Error::NoPem { label: "CERTIFICATE REQUEST" })?;
        Self::from_der(&block.contents)
    }

    pub fn from_der(bytes: &[u8]) -> Result<Self> {
        let bad = |field| Error::Der { what: "a certificate request", field };
        let mut outer = Reader(bytes).sequence().ok_or(bad("outer sequence"))?;
        let (_, info, signed) = outer.element().ok_or(bad("certificationRequestInfo"))?;
        let oid = outer.sequence().and_then(|mut a| a.expect(der::OID)).ok_or(bad("signatureAlgorithm"))?;
        let signature = outer.bits().ok_or(bad("signature"))?;
        let mut info = Reader(info);
        info.expect(der::INTEGER).ok_or(bad("version"))?;
        let (_, _, subject) = info.element().ok_or(bad("subject"))?;
        let (_, _, spki) = info.element().ok_or(bad("subjectPKInfo"))?;
        let public_key = PublicKey::from_spki(spki)?;
        if !public_key.verify_x509(oid, signed, signature) {
            return Err(Error::Signature("the certificate request"));
        }
        let attributes = info.expect(der::context(0, true)).unwrap_or_default();
        let names = requested_names(Reader(attributes)).ok_or(bad("attributes"))?;
        Ok(Self { subject: read_subject(subject).ok_or(bad("subject"))?, names, public_key })
    }
}

fn requested_names(mut attributes: Reader<'_>) -> Option<Names> {
    let mut names = Names::default();
    while !attributes.is_empty() {
        let mut attribute = attributes.sequence()?;
        let oid = attribute.expect(der::OID)?;
        let values = attribute.expect(der::SET)?;
        if oid != OID_EXTENSION_REQUEST {
            continue;
        }
        let mut extensions = Reader(values).sequence()?;
        while !extensions.is_empty() {
            let (oid, value) = read_extension(extensions.sequence()?)?;
            if oid == EXT_NAMES {
                names = read_names(Reader(value).sequence()?)?;
            }
        }
    }
    Some(names)
}
