//! The installation key and what is derived from it.

use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{key::KeyId, webhook};

/// 32 random bytes that belong to one installation.
pub type MasterKey = Zeroizing<[u8; 32]>;

/// The master keys of an installation as their subkeys: the first one makes, each one verifies.
pub struct MasterKeys {
    first: Subkeys,
    others: Vec<Subkeys>,
}

/// What derives from one master key, each subkey for one purpose.
struct Subkeys {
    checksum: Zeroizing<[u8; 32]>,
    webhook: Zeroizing<[u8; 32]>,
    page: Zeroizing<[u8; 32]>,
    /// The key's place among those that this installation has ever made with; none if it never has.
    epoch: Option<i64>,
}

impl MasterKeys {
    /// An installation that has only ever had this key.
    pub fn derive(master: &MasterKey) -> Self {
        Self { first: Subkeys::derive(master, &[fingerprint(master)]), others: Vec::new() }
    }

    /// The installation of a list of keys. `epochs` are the fingerprints of the keys that have ever made, oldest first.
    pub fn new(first: &MasterKey, others: &[MasterKey], epochs: &[String]) -> Self {
        let derive = |key: &MasterKey| Subkeys::derive(key, epochs);
        Self { first: derive(first), others: others.iter().map(derive).collect() }
    }

    fn each(&self) -> impl Iterator<Item = &Subkeys> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// HMAC over a new secret's prefix and body.
    pub fn checksum(&self, prefix: &str, body: &[u8]) -> [u8; 32] {
        self.first.checksum(prefix, body)
    }

    /// Whether one of the keys makes a checksum of this prefix and body that `fits`.
    pub fn checks(&self, prefix: &str, body: &[u8], fits: impl Fn(&[u8; 32]) -> bool) -> bool {
        self.each().any(|keys| fits(&keys.checksum(prefix, body)))
    }

    /// The signing secret of a key's webhook (`whsec_…`), which stays the same for as long as its version does, whatever
    /// key is first. None if it derives from a master key that is no longer listed.
    pub fn webhook_secret(&self, id: KeyId, version: i64) -> Option<Zeroizing<String>> {
        let secret = self.webhook_key(id, version)?;
        Some(Zeroizing::new(format!("whsec_{}", data_encoding::BASE64.encode(&*secret))))
    }

    /// Signs a delivery of a key's webhook with its secret of a version, as Standard Webhooks has it: `v1,` and the
    /// HMAC-SHA256 of `id.timestamp.body` in base64. `timestamp` is in unix seconds. None as for the secret itself.
    pub fn webhook_signature(&self, key: KeyId, version: i64, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let secret = self.webhook_key(key, version)?;
        let signed = mac(&secret, &[id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body]);
        Some(format!("v1,{}", data_encoding::BASE64.encode(&signed)))
    }

    fn webhook_key(&self, id: KeyId, version: i64) -> Option<Zeroizing<[u8; 32]>> {
        let keys = self.each().find(|keys| keys.epoch == Some(webhook::epoch(version)))?;
        Some(Zeroizing::new(mac(&keys.webhook, &[id.0.as_bytes(), &version.to_be_bytes()])))
    }

    /// The version after this one (0: none yet), under the key that makes now. No version comes twice for one key.
    pub fn next_webhook_version(&self, version: i64) -> i64 {
        webhook::version(self.first.epoch.unwrap_or(0), webhook::count(version) + 1)
    }

    /// HMAC over a new page token's filters and position. Each part is preceded by its length.
    pub fn page(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.first.page, &[&framed(parts)])
    }

    /// Whether one of the keys makes an HMAC of these filters and this position that `fits`.
    pub fn checks_page(&self, parts: &[&[u8]], fits: impl Fn(&[u8; 32]) -> bool) -> bool {
        let framed = framed(parts);
        self.each().any(|keys| fits(&mac(&keys.page, &[&framed])))
    }
}

impl Subkeys {
    /// Derives every subkey by HKDF-SHA256.
    fn derive(master: &MasterKey, epochs: &[String]) -> Self {
        let own = fingerprint(master);
        let place = epochs.iter().position(|epoch| *epoch == own);
        Self {
            checksum: subkey(master, "checksum/1"),
            webhook: subkey(master, "webhook/1"),
            page: subkey(master, "page/1"),
            epoch: place.and_then(|place| i64::try_from(place).ok()),
        }
    }

    fn checksum(&self, prefix: &str, body: &[u8]) -> [u8; 32] {
        mac(&self.checksum, &[prefix.as_bytes(), body])
    }
}

/// Names a key without giving anything of it: kept in the settings, so that a start with another key is refused.
pub fn fingerprint(master: &MasterKey) -> String {
    BASE64URL_NOPAD.encode(&subkey(master, "fingerprint/1")[..16])
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::new();
    for part in parts {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn master(byte: u8) -> MasterKey {
        MasterKey::new([byte; 32])
    }

    fn master_keys(keys: &[u8], epochs: &[u8]) -> MasterKeys {
        let keys: Vec<MasterKey> = keys.iter().map(|byte| master(*byte)).collect();
        let epochs: Vec<String> = epochs.iter().map(|byte| fingerprint(&master(*byte))).collect();
        MasterKeys::new(&keys[0], &keys[1..], &epochs)
    }

    #[test]
    fn a_webhook_secret_outlives_a_change_of_the_first_key_and_ends_with_its_own() {
        let id = KeyId(Uuid::from_u128(7));
        let alone = MasterKeys::derive(&master(1));
        let version = alone.next_webhook_version(0);
        assert_eq!(version, 1);
        let secret = alone.webhook_secret(id, version).unwrap();
        assert_eq!(master_keys(&[2, 1], &[1]).webhook_secret(id, version).unwrap(), secret);
        let moved = master_keys(&[2, 1], &[1, 2]);
        assert_eq!(moved.webhook_secret(id, version).unwrap(), secret);
        let next = moved.next_webhook_version(version);
        let rotated = moved.webhook_secret(id, next).unwrap();
        assert!(next > version && rotated != secret);
        let dropped = master_keys(&[2], &[1, 2]);
        assert_eq!(dropped.webhook_secret(id, version), None);
        assert_eq!(dropped.webhook_secret(id, next).unwrap(), rotated);
        // Back to the old one: still no version twice.
        assert_eq!(master_keys(&[1, 2], &[1, 2]).next_webhook_version(next), 3);
    }

    #[test]
    fn a_delivery_is_signed_as_the_public_library_signs_it() {
        let master_keys = MasterKeys::derive(&master(3));
        for (id, body) in [(1, "{}"), (u128::MAX, "{\"type\":\"key.created\",\"é\":\".\"}")] {
            let id = KeyId(Uuid::from_u128(id));
            let secret = master_keys.webhook_secret(id, 1).unwrap();
            let theirs = standardwebhooks::Webhook::new(&secret).unwrap();
            let theirs = theirs.sign("evt_1", 1_700_000_000, body.as_bytes()).unwrap();
            let ours = master_keys.webhook_signature(id, 1, "evt_1", 1_700_000_000, body.as_bytes());
            assert_eq!(ours, Some(theirs));
            assert_ne!(ours, master_keys.webhook_signature(id, 2, "evt_1", 1_700_000_000, body.as_bytes()));
        }
    }
}
