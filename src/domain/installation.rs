//! The installation key and what is derived from it.

use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key::KeyId;

/// 32 random bytes that belong to one installation.
pub type MasterKey = Zeroizing<[u8; 32]>;

/// The subkeys of an installation, each for one purpose.
pub struct Installation {
    checksum: Zeroizing<[u8; 32]>,
    webhook: Zeroizing<[u8; 32]>,
    page: Zeroizing<[u8; 32]>,
    fingerprint: String,
}

impl Installation {
    /// Derives every subkey by HKDF-SHA256.
    pub fn derive(master: &MasterKey) -> Self {
        Self {
            checksum: subkey(master, "checksum/1"),
            webhook: subkey(master, "webhook/1"),
            page: subkey(master, "page/1"),
            fingerprint: BASE64URL_NOPAD.encode(&subkey(master, "fingerprint/1")[..16]),
        }
    }

    /// Names the key without giving anything of it: kept in the settings, so that a start with another key is refused.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// HMAC over a secret's prefix and body.
    pub fn checksum(&self, prefix: &str, body: &[u8]) -> [u8; 32] {
        mac(&self.checksum, &[prefix.as_bytes(), body])
    }

    /// The signing secret of a key's webhook (`whsec_…`), at a version that rotation counts up.
    pub fn webhook_secret(&self, id: KeyId, version: i64) -> Zeroizing<String> {
        let secret = Zeroizing::new(mac(&self.webhook, &[id.0.as_bytes(), &version.to_be_bytes()]));
        Zeroizing::new(format!("whsec_{}", data_encoding::BASE64.encode(&*secret)))
    }

    /// HMAC over a page's filters and position. Each part is preceded by its length.
    pub fn page(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut framed = Vec::new();
        for part in parts {
            framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            framed.extend_from_slice(part);
        }
        mac(&self.page, &[&framed])
    }
}

fn subkey(master: &MasterKey, label: &str) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0_u8; 32]);
    Hkdf::<Sha256>::new(None, &master[..])
        .expand(label.as_bytes(), &mut out[..])
        .expect("32 bytes are within what HKDF-SHA256 gives");
    out
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
