//! Sessions of the dashboard: ids, lifetimes, and the tokens of forms.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    clock::{Entropy, Micros, SECOND},
    key::Digest,
    master_keys::MasterKeys,
    session::OrgMembership,
};

/// Length of the truncated HMACs in ids and tokens.
const MAC_BYTES: usize = 16;
/// How long the sign-in at an issuer may take.
pub const SIGN_IN_TIMEOUT: Micros = 600 * SECOND;
/// Shortest time between two updates of a session's last use.
pub const TOUCH_INTERVAL: Micros = 60 * SECOND;

/// How long a session of the dashboard lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLifetimes {
    /// Timeout after the last request.
    pub idle: Micros,
    /// Maximum lifetime after the sign-in.
    pub absolute: Micros,
}

impl Default for SessionLifetimes {
    fn default() -> Self {
        Self { idle: 8 * 3_600 * SECOND, absolute: 7 * 86_400 * SECOND }
    }
}

impl SessionLifetimes {
    /// When a session that is used at `now` ends if it is not used again.
    pub fn idle_at(self, now: Micros, ends_at: Micros) -> Micros {
        now.saturating_add(self.idle).min(ends_at)
    }
}

/// The id of a session in its cookie: 256 random bits. Only its digest is stored.
pub struct SessionSecret(Zeroizing<[u8; 32]>);

impl SessionSecret {
    /// A new one.
    pub fn new(entropy: &dyn Entropy) -> Self {
        let mut id = Zeroizing::new([0; 32]);
        entropy.fill(&mut id[..]);
        Self(id)
    }

    /// The id of the session's row.
    pub fn row(&self) -> SessionId {
        SessionId(Sha256::digest(&self.0[..]).into())
    }

    /// The cookie's value. It ends in a keyed checksum, so that a forged one is refused without a look-up.
    pub fn cookie(&self, master_keys: &MasterKeys) -> Zeroizing<String> {
        let mac = master_keys.dashboard_mac(&[b"cookie", &self.0[..]]);
        let bytes = Zeroizing::new([&self.0[..], &mac[..MAC_BYTES]].concat());
        Zeroizing::new(BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a cookie's value; `None` if this installation did not issue it.
    pub fn of_cookie(text: &str, master_keys: &MasterKeys) -> Option<Self> {
        if text.len() != BASE64URL_NOPAD.encode_len(32 + MAC_BYTES) {
            return None;
        }
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(text.as_bytes()).ok()?);
        let (id, mac) = bytes.split_first_chunk::<32>()?;
        let parts: [&[u8]; 2] = [b"cookie", id];
        let issued = master_keys.verify_dashboard_mac(&parts, |own| own[..MAC_BYTES].ct_eq(mac).into());
        issued.then(|| Self(Zeroizing::new(*id)))
    }
}

/// The id of a session's row: the digest of its [`SessionSecret`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub [u8; 32]);

impl SessionId {
    /// The id as text, for forms that end another session. It gives no access.
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Option<Self> {
        BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// The token that each form of this session carries: a page of another origin cannot read it.
    pub fn form_token(&self, master_keys: &MasterKeys) -> String {
        form_token(master_keys, &self.0)
    }

    /// Whether a form carries this session's token.
    pub fn has_form_token(&self, token: &str, master_keys: &MasterKeys) -> bool {
        is_form_token(master_keys, &self.0, token)
    }
}

/// The token of a form that belongs to `subject`: a session, or the cookie of the sign-in form.
pub fn form_token(master_keys: &MasterKeys, subject: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&master_keys.dashboard_mac(&[b"form", subject])[..MAC_BYTES])
}

/// Whether this is the token of a form that belongs to `subject`.
pub fn is_form_token(master_keys: &MasterKeys, subject: &[u8], token: &str) -> bool {
    let Ok(mac) = BASE64URL_NOPAD.decode(token.as_bytes()) else { return false };
    let parts: [&[u8]; 2] = [b"form", subject];
    master_keys.verify_dashboard_mac(&parts, |own| own[..MAC_BYTES].ct_eq(&mac).into())
}

/// The owner of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOwner {
    /// The holder of the credential with this digest. Its verdict is evaluated on each request.
    Credential(Digest),
    /// A person of an issuer.
    Person(Person),
}

/// A person, as the last token describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The issuer, as the configuration names it.
    pub issuer: String,
    /// The dashboard's client id at the issuer.
    pub client: String,
    /// The person's organizations.
    pub organizations: Vec<OrgMembership>,
    /// When the token expires.
    pub token_expires_at: Micros,
    /// The sealed refresh token; empty if the issuer gave none.
    pub refresh_token: Vec<u8>,
}

/// A session of the dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardSession {
    /// The id of its row.
    pub id: SessionId,
    /// Who signed in, in the form that `created_by` stores.
    pub actor: String,
    /// The owner, from whom it has its rights.
    pub owner: SessionOwner,
    /// When it began.
    pub created_at: Micros,
    /// When it was last used, within [`TOUCH_INTERVAL`].
    pub last_seen_at: Micros,
    /// When it ends if it is not used again.
    pub idle_at: Micros,
    /// When it ends even if it is used.
    pub ends_at: Micros,
}

impl DashboardSession {
    /// Whether it has not ended.
    pub fn is_live(&self, now: Micros) -> bool {
        now < self.idle_at && now < self.ends_at
    }
}

/// The page to show after a sign-in: `text` if it is a path of the dashboard, and the first page otherwise. Anything else
/// would let a link to the sign-in lead to another site.
pub fn return_path(text: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~?&=%:@!$'()*+,".contains(&byte);
    let below = text.strip_prefix("/dashboard").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let path = text.split('?').next().unwrap_or_default();
    let local = below && text.len() <= 1_024 && text.bytes().all(plain) && !path.contains("//") && !path.contains("..");
    if local && !path.starts_with("/dashboard/sign-") { text } else { "/dashboard" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{clock::SystemEntropy, master_keys::MasterKey};

    fn keys(byte: u8) -> MasterKeys {
        MasterKeys::derive(&MasterKey::new([byte; 32]))
    }

    #[test]
    fn a_cookie_is_read_by_the_installation_that_issued_it_alone() {
        let secret = SessionSecret::new(&SystemEntropy);
        let cookie = secret.cookie(&keys(1));
        assert!(SessionSecret::of_cookie(&cookie, &keys(1)).is_some_and(|read| read.row() == secret.row()));
        assert!(SessionSecret::of_cookie(&cookie, &keys(2)).is_none());
        for bad in ["", "x", &cookie[1..], &format!("{}A", *cookie), &cookie.replace(&cookie[..1], "-"), "é"] {
            let read = SessionSecret::of_cookie(bad, &keys(1));
            assert!(read.is_none_or(|_| bad == cookie.as_str()), "{bad}");
        }
    }

    #[test]
    fn a_form_token_is_its_sessions_own() {
        let (one, other) = (SessionId([1; 32]), SessionId([2; 32]));
        let token = one.form_token(&keys(1));
        assert!(one.has_form_token(&token, &keys(1)));
        assert!(!other.has_form_token(&token, &keys(1)));
        assert!(!one.has_form_token(&token, &keys(2)));
        for bad in ["", "AAAA", &token[1..], &format!("{token}A")] {
            assert!(!one.has_form_token(bad, &keys(1)), "{bad}");
        }
    }

    #[test]
    fn only_a_path_of_the_dashboard_is_returned_to() {
        for good in [
            "/dashboard",
            "/dashboard?a=b",
            "/dashboard/overview",
            "/dashboard/settings/api-keys?status=active&q=a%20b&page=A-_z",
        ] {
            assert_eq!(return_path(good), good);
        }
        for bad in [
            "",
            "/",
            "/dashboardx",
            "//evil.example",
            "/dashboard//evil.example",
            "/\\evil.example",
            "/dashboard/\\evil.example",
            "https://evil.example/dashboard",
            "https:/dashboard",
            "/dashboard/../../x",
            "/dashboard/\r\nset-cookie: a=b",
            "/dashboard/<script>",
            "/dashboard/sign-in",
            "/dashboard/sign-out",
            "javascript:alert(1)",
            "/dashboard/\u{202e}",
        ] {
            assert_eq!(return_path(bad), "/dashboard", "{bad}");
        }
    }
}
