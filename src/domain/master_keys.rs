//! The master keys of an installation, and the subkeys derived from them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{clock::Entropy, key::KeyId, webhook};

/// One master key: 32 random bytes.
pub type MasterKey = Zeroizing<[u8; 32]>;

/// The subkeys of all master keys of an installation. The first master key signs; all of them verify.
pub struct MasterKeys {
    first: Subkeys,
    others: Vec<Subkeys>,
}

/// The subkeys of one master key, each for one purpose.
struct Subkeys {
    checksum: Zeroizing<[u8; 32]>,
    webhook: Zeroizing<[u8; 32]>,
    page: Zeroizing<[u8; 32]>,
    /// Authenticates ids of sessions and tokens of forms, which the dashboard issues.
    dashboard: Zeroizing<[u8; 32]>,
    /// Encrypts refresh tokens, which the dashboard stores, and the state of a sign-in.
    sealing: Zeroizing<[u8; 32]>,
    /// Position of the master key among all that this installation has ever signed with; `None` if it has never signed.
    epoch: Option<i64>,
}

impl MasterKeys {
    /// The keys of an installation that has only ever had this master key.
    pub fn derive(master: &MasterKey) -> Self {
        Self { first: Subkeys::derive(master, &[fingerprint(master)]), others: Vec::new() }
    }

    /// The keys of an installation. `epochs` are the fingerprints of all master keys that have ever signed, oldest first.
    pub fn new(first: &MasterKey, others: &[MasterKey], epochs: &[String]) -> Self {
        let derive = |key: &MasterKey| Subkeys::derive(key, epochs);
        Self { first: derive(first), others: others.iter().map(derive).collect() }
    }

    fn each(&self) -> impl Iterator<Item = &Subkeys> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// HMAC over the prefix and the body of a new secret.
    pub fn checksum(&self, prefix: &str, body: &[u8]) -> [u8; 32] {
        self.first.checksum(prefix, body)
    }

    /// Whether `matches` accepts the HMAC over this prefix and body under one of the master keys.
    pub(crate) fn verify_checksum(&self, prefix: &str, body: &[u8], matches: impl Fn(&[u8; 32]) -> bool) -> bool {
        self.each().any(|keys| matches(&keys.checksum(prefix, body)))
    }

    /// The signing secret of a key's webhook (`whsec_…`). It depends on the key and the version only, not on which master
    /// key is first. `None` if it derives from a master key that is no longer configured.
    pub fn webhook_secret(&self, id: KeyId, version: i64) -> Option<Zeroizing<String>> {
        let secret = self.webhook_key(id, version)?;
        Some(Zeroizing::new(format!("whsec_{}", data_encoding::BASE64.encode(&*secret))))
    }

    /// Signs a delivery of a key's webhook with the secret of a version, as Standard Webhooks specifies: `v1,` and the
    /// HMAC-SHA256 of `id.timestamp.body` in base64. `timestamp` is in Unix seconds. `None` if there is no such secret.
    pub(crate) fn webhook_signature(
        &self,
        key: KeyId,
        version: i64,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> Option<String> {
        let secret = self.webhook_key(key, version)?;
        let signed = mac(&secret, &[id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body]);
        Some(format!("v1,{}", data_encoding::BASE64.encode(&signed)))
    }

    fn webhook_key(&self, id: KeyId, version: i64) -> Option<Zeroizing<[u8; 32]>> {
        let keys = self.each().find(|keys| keys.epoch == Some(webhook::epoch(version)))?;
        Some(Zeroizing::new(mac(&keys.webhook, &[id.0.as_bytes(), &version.to_be_bytes()])))
    }

    /// The version after this one (0: no version yet), under the first master key. No version repeats for one key.
    pub(crate) fn next_webhook_version(&self, version: i64) -> i64 {
        webhook::version(self.first.epoch.unwrap_or(0), webhook::count(version) + 1)
    }

    /// HMAC over the filters and the position of a new page token. Each part is preceded by its length.
    pub(crate) fn page_mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.first.page, &[&framed(parts)])
    }

    /// Whether `matches` accepts the HMAC over these filters and this position under one of the master keys.
    pub(crate) fn verify_page_mac(&self, parts: &[&[u8]], matches: impl Fn(&[u8; 32]) -> bool) -> bool {
        let framed = framed(parts);
        self.each().any(|keys| matches(&mac(&keys.page, &[&framed])))
    }

    /// HMAC over parts of an id or a token that the dashboard issues.
    pub(crate) fn dashboard_mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.first.dashboard, &[&framed(parts)])
    }

    /// Whether `matches` accepts the HMAC over these parts under one of the master keys.
    pub(crate) fn verify_dashboard_mac(&self, parts: &[&[u8]], matches: impl Fn(&[u8; 32]) -> bool) -> bool {
        let framed = framed(parts);
        self.each().any(|keys| matches(&mac(&keys.dashboard, &[&framed])))
    }

    /// Encrypts a text with AES-256-GCM under a random nonce. Only the same `context` opens it again, so that a sealed
    /// text cannot be moved to another row or purpose.
    #[expect(clippy::expect_used, reason = "it fails only for a text of many gigabytes")]
    pub(crate) fn seal(&self, context: &[&[u8]], text: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = text.to_vec();
        aead(&self.first.sealing)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(framed(context)), &mut sealed)
            .expect("the text is short");
        [&nonce[..], &sealed].concat()
    }

    /// Decrypts what [`Self::seal`] made under one of the master keys; `None` if it was changed, or is of another context.
    pub(crate) fn open(&self, context: &[&[u8]], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let context = framed(context);
        self.each().find_map(|keys| {
            let mut text = Zeroizing::new(sealed.to_vec());
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = aead(&keys.sealing).open_in_place(nonce, Aad::from(&context), &mut text).ok()?.len();
            text.truncate(opened);
            Some(text)
        })
    }
}

impl Subkeys {
    /// Derives every subkey by HKDF-SHA256.
    fn derive(master: &MasterKey, epochs: &[String]) -> Self {
        let own = fingerprint(master);
        let position = epochs.iter().position(|epoch| *epoch == own);
        Self {
            checksum: subkey(master, "checksum/1"),
            webhook: subkey(master, "webhook/1"),
            page: subkey(master, "page/1"),
            dashboard: subkey(master, "dashboard/1"),
            sealing: subkey(master, "sealing/1"),
            epoch: position.and_then(|position| i64::try_from(position).ok()),
        }
    }

    fn checksum(&self, prefix: &str, body: &[u8]) -> [u8; 32] {
        mac(&self.checksum, &[prefix.as_bytes(), body])
    }
}

/// Identifies a master key without revealing it. Stored in the settings, so that a start with another key is refused.
pub fn fingerprint(master: &MasterKey) -> String {
    BASE64URL_NOPAD.encode(&subkey(master, "fingerprint/1")[..16])
}

/// Joins parts, each preceded by its length, so that no two lists of parts give the same bytes.
fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::new();
    for part in parts {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
}

#[expect(clippy::expect_used, reason = "it fails only for a length that is too large, and this one is constant")]
fn subkey(master: &MasterKey, label: &str) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0_u8; 32]);
    Hkdf::<Sha256>::new(None, &master[..])
        .expand(label.as_bytes(), &mut out[..])
        .expect("HKDF-SHA256 can derive 32 bytes");
    out
}

#[expect(clippy::expect_used, reason = "it fails only for a key of another length")]
fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 has keys of 32 bytes"))
}

#[expect(clippy::expect_used, reason = "it fails for no key")]
fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::clock::SystemEntropy;

    fn master(byte: u8) -> MasterKey {
        MasterKey::new([byte; 32])
    }

    fn master_keys(keys: &[u8], epochs: &[u8]) -> MasterKeys {
        let keys: Vec<MasterKey> = keys.iter().map(|byte| master(*byte)).collect();
        let epochs: Vec<String> = epochs.iter().map(|byte| fingerprint(&master(*byte))).collect();
        MasterKeys::new(&keys[0], &keys[1..], &epochs)
    }

    #[test]
    fn a_webhook_secret_stays_when_the_first_key_changes_and_goes_when_its_own_key_is_removed() {
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
        // After a return to the old master key, no version repeats either.
        assert_eq!(master_keys(&[1, 2], &[1, 2]).next_webhook_version(next), 3);
    }

    #[test]
    fn a_sealed_text_opens_only_in_its_context_and_under_a_configured_key() {
        let keys = master_keys(&[1], &[1]);
        let sealed = keys.seal(&[b"refresh", b"row"], b"token", &SystemEntropy);
        assert_eq!(keys.open(&[b"refresh", b"row"], &sealed).unwrap().as_slice(), b"token");
        assert!(!sealed.windows(5).any(|part| part == b"token"));
        assert_ne!(sealed, keys.seal(&[b"refresh", b"row"], b"token", &SystemEntropy), "each has a nonce of its own");
        assert_eq!(master_keys(&[2, 1], &[1, 2]).open(&[b"refresh", b"row"], &sealed).unwrap().as_slice(), b"token");
        assert!(master_keys(&[2], &[1, 2]).open(&[b"refresh", b"row"], &sealed).is_none());
        for context in [&[&b"refresh"[..], b"other"][..], &[b"refreshrow"], &[b"row", b"refresh"], &[]] {
            assert!(keys.open(context, &sealed).is_none());
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(&[b"refresh", b"row"], &changed).is_none(), "byte {at}");
            assert!(keys.open(&[b"refresh", b"row"], &sealed[..at]).is_none(), "{at} bytes");
        }
    }

    #[test]
    fn signatures_equal_those_of_the_standard_webhooks_library() {
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
