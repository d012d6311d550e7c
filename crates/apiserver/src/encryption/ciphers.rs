//! The ciphers of upstream's providers, as bytes: what follows `k8s:enc:CIPHER:v1:KEYNAME:`.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipher, BlockDecryptMut, BlockEncryptMut, KeyInit as _, KeyIvInit};
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, UnboundKey};

use crate::seams::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// A nonce, the ciphertext and its tag; the key under which it is stored is authenticated with it.
    AesGcm,
    /// An initialisation vector and the ciphertext, padded as PKCS #7 says; nothing is authenticated.
    AesCbc,
    /// NaCl's: a nonce, a tag and the ciphertext.
    Secretbox,
}

const BLOCK: usize = 16;
const SECRETBOX_NONCE: usize = 24;
const SECRETBOX_TAG: usize = 16;
const TOO_SHORT: &str = "the stored data was shorter than the required size";

impl Cipher {
    pub const ALL: [(&'static str, Cipher); 3] =
        [("aesgcm", Cipher::AesGcm), ("aescbc", Cipher::AesCbc), ("secretbox", Cipher::Secretbox)];

    pub fn prefix(self) -> &'static str {
        match self {
            Cipher::AesGcm => "k8s:enc:aesgcm:v1:",
            Cipher::AesCbc => "k8s:enc:aescbc:v1:",
            Cipher::Secretbox => "k8s:enc:secretbox:v1:",
        }
    }

    pub fn family(self) -> &'static str {
        if self == Cipher::Secretbox { "Secretbox" } else { "AES" }
    }

    pub fn key_bytes(self) -> &'static [usize] {
        match self {
            // Upstream takes 24, too; nothing here knows AES-192-GCM.
            Cipher::AesGcm => &[16, 32],
            Cipher::AesCbc => &[16, 24, 32],
            Cipher::Secretbox => &[32],
        }
    }

    pub fn open(self, secret: &[u8], place: &str, sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self {
            Cipher::AesGcm => {
                let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(TOO_SHORT)?;
                let key = gcm(secret)?;
                let mut data = sealed.to_vec();
                let nonce = ring::aead::Nonce::assume_unique_for_key(*nonce);
                let opened = key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut data);
                let length = opened.map_err(|_| "cipher: message authentication failed")?.len();
                data.truncate(length);
                Ok(data)
            }
            Cipher::AesCbc => {
                let (vector, sealed) = sealed.split_first_chunk::<BLOCK>().ok_or(TOO_SHORT)?;
                if sealed.len() % BLOCK != 0 {
                    return Err("the stored data is not a multiple of the block size");
                }
                match secret.len() {
                    16 => open_cbc::<Aes128>(secret, vector, sealed),
                    24 => open_cbc::<Aes192>(secret, vector, sealed),
                    _ => open_cbc::<Aes256>(secret, vector, sealed),
                }
            }
            Cipher::Secretbox => {
                let (nonce, sealed) = sealed.split_first_chunk::<SECRETBOX_NONCE>().ok_or(TOO_SHORT)?;
                if sealed.len() < SECRETBOX_TAG {
                    return Err(TOO_SHORT);
                }
                let key = XSalsa20Poly1305::new_from_slice(secret).map_err(|_| BAD_KEY)?;
                // Upstream's words, whatever the reason.
                key.decrypt(&Nonce::from(*nonce), sealed)
                    .map_err(|_| "output array was not large enough for encryption")
            }
        }
    }

    /// Appends the sealed form.
    pub fn seal(
        self,
        secret: &[u8],
        place: &str,
        plain: &[u8],
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        match self {
            Cipher::AesGcm => {
                let mut nonce = [0; NONCE_LEN];
                random.fill(&mut nonce);
                out.extend_from_slice(&nonce);
                let mut data = plain.to_vec();
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                let sealed = gcm(secret)?.seal_in_place_append_tag(nonce, Aad::from(place.as_bytes()), &mut data);
                sealed.map_err(|_| "AES-GCM failed")?;
                out.extend_from_slice(&data);
            }
            Cipher::AesCbc => {
                let mut vector = [0; BLOCK];
                random.fill(&mut vector);
                out.extend_from_slice(&vector);
                out.extend(match secret.len() {
                    16 => seal_cbc::<Aes128>(secret, &vector, plain)?,
                    24 => seal_cbc::<Aes192>(secret, &vector, plain)?,
                    _ => seal_cbc::<Aes256>(secret, &vector, plain)?,
                });
            }
            Cipher::Secretbox => {
                let mut nonce = [0; SECRETBOX_NONCE];
                random.fill(&mut nonce);
                out.extend_from_slice(&nonce);
                let key = XSalsa20Poly1305::new_from_slice(secret).map_err(|_| BAD_KEY)?;
                out.extend(key.encrypt(&Nonce::from(nonce), plain).map_err(|_| "secretbox failed")?);
            }
        }
        Ok(())
    }
}

const BAD_KEY: &str = "a key of the wrong length";

fn gcm(secret: &[u8]) -> Result<LessSafeKey, &'static str> {
    let algorithm = if secret.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    UnboundKey::new(algorithm, secret).map(LessSafeKey::new).map_err(|_| BAD_KEY)
}

fn open_cbc<C: BlockDecryptMut + BlockCipher + cbc::cipher::KeyInit>(
    secret: &[u8],
    vector: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let key = cbc::Decryptor::<C>::new_from_slices(secret, vector).map_err(|_| BAD_KEY)?;
    key.decrypt_padded_vec_mut::<Pkcs7>(sealed).map_err(|_| "invalid padding on input")
}

fn seal_cbc<C: BlockEncryptMut + BlockCipher + cbc::cipher::KeyInit>(
    secret: &[u8],
    vector: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let key = cbc::Encryptor::<C>::new_from_slices(secret, vector).map_err(|_| BAD_KEY)?;
    Ok(key.encrypt_padded_vec_mut::<Pkcs7>(plain))
}
