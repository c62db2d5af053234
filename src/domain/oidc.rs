//! OpenID Connect session tokens: which issuers are trusted for what, and the caller of a token's claims. Signatures
//! are verified by the `session` module.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{
    clock::{Micros, SECOND, micros},
    error::Error,
    session::{OrgMembership, Role, SessionCaller},
    text::same,
    validation::{MAX_BINDING_LEN, MAX_NAME_LEN},
};

/// Maximum difference between an issuer's clock and this one.
pub const LEEWAY: Micros = 60 * SECOND;
/// Maximum number of characters in a subject (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT_LEN: usize = 255;

/// A signature algorithm. Symmetric ones are not supported: the key that verifies such a token can also forge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, with its name in tokens.
    pub const ALL: [(&str, Self); 9] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// The algorithm with a name. RFC 9864 has a new name for Ed25519.
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// The name in tokens.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

/// A trusted issuer, whose tokens are accepted as sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Issuer identifier: an absolute URL, compared byte by byte with `iss`.
    pub issuer: String,
    /// Accepted audiences: `aud` must contain one of them.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Names of the keyspaces whose keys its users may manage.
    pub keyspaces: Arc<[String]>,
    /// The claim with the organizations: a name, or a path separated by dots.
    pub organizations: String,
    /// The claim with the role; `None` if the claim with the organizations contains the roles.
    pub role: Option<String>,
    /// The cookie that may hold a token; `None` if tokens in cookies are not accepted.
    pub cookie: Option<String>,
    /// Prefix added to its subjects, so that they differ from those of other issuers.
    pub subject_prefix: String,
    /// Maximum age of its public keys before they are fetched again.
    pub refresh: Duration,
    /// Whether its public keys may be fetched without TLS from another machine.
    pub allow_http: bool,
    /// How people sign in to the dashboard; `None` if this issuer is not for the dashboard.
    pub dashboard: Option<DashboardClient>,
    /// How people sign in from a command line; `None` if they cannot.
    pub cli: Option<CliClient>,
    /// Hosts other than its own that may serve its public keys.
    pub jwks_hosts: Vec<String>,
    /// The longest life of a token that is accepted.
    pub max_token_life: Duration,
}

/// The dashboard as a client of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardClient {
    /// Its id. The audience of its ID tokens.
    pub client_id: String,
    /// Its secret; `None` for a public client.
    pub client_secret: Option<ClientSecret>,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// Where the issuer's own session ends; `None` if the dashboard ends only its own.
    pub logout_url: Option<Url>,
    /// Parameters of that URL. `{client_id}` and `{return_to}` stand for the client's id and the sign-in page.
    pub logout_params: Vec<(String, String)>,
}

/// The secret of a client. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(Zeroizing<String>);

impl ClientSecret {
    /// A secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the issuer.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}

impl DashboardClient {
    /// The page that ends the issuer's own session; `return_to` is the sign-in page.
    pub fn logout(&self, return_to: &str) -> Option<Url> {
        let mut url = self.logout_url.clone()?;
        for (name, value) in &self.logout_params {
            let value = value.replace("{client_id}", &self.client_id).replace("{return_to}", return_to);
            url.query_pairs_mut().append_pair(name, &value);
        }
        Some(url)
    }
}

/// The public client that command lines sign in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliClient {
    /// `client_id`. It is one of the issuer's audiences.
    pub client_id: String,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// Ports of the loopback redirect that the issuer accepts; empty if it accepts any.
    pub ports: Vec<u16>,
}

impl Issuer {
    /// Whether its public keys may be fetched from a URL: with TLS, or from this machine.
    pub fn may_fetch(&self, url: &Url) -> bool {
        let is_local = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        url.scheme() == "https" || (url.scheme() == "http" && (is_local || self.allow_http))
    }

    /// Whether its public keys may be at a URL: on its own host, or on one that is named.
    pub fn may_have_keys_at(&self, url: &Url) -> bool {
        let own = Url::parse(&self.issuer).ok();
        let own = own.as_ref().and_then(Url::host_str);
        url.host_str().is_some_and(|host| {
            Some(host) == own || self.jwks_hosts.iter().any(|named| named.eq_ignore_ascii_case(host))
        })
    }

    /// Whether a token claims to be from this issuer and for this service. One that is for several audiences and names the
    /// client that it was given to (`azp`) must name this service or a client of its own: otherwise any of the others could
    /// use it here.
    pub fn matches(&self, claims: &Map<String, Value>) -> bool {
        let accepted =
            |audience: &Value| audience.as_str().is_some_and(|named| self.audiences.iter().any(|a| a == named));
        let audience = match claims.get("aud") {
            Some(Value::Array(several)) => {
                several.iter().any(accepted)
                    && (several.len() == 1
                        || claims.get("azp").is_none_or(|azp| accepted(azp) || self.is_own_client(azp)))
            }
            Some(one) => accepted(one),
            None => false,
        };
        audience && claims.get("iss").and_then(Value::as_str) == Some(&self.issuer)
    }

    /// Whether the command line or the dashboard signs people in as this client.
    fn is_own_client(&self, client: &Value) -> bool {
        let own =
            [self.cli.as_ref().map(|cli| &cli.client_id), self.dashboard.as_ref().map(|client| &client.client_id)];
        own.into_iter().flatten().any(|own| client.as_str() == Some(own))
    }

    /// The caller of a token of this issuer at `now`.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED if the token has expired, is not valid yet, or has no usable subject.
    pub fn caller(&self, claims: &Map<String, Value>, now: Micros) -> Result<SessionCaller, Error> {
        let time = |name: &str| claims.get(name).map(|value| time(value).ok_or_else(malformed)).transpose();
        let expiry = time("exp")?.ok_or_else(malformed)?;
        if now >= expiry.saturating_add(LEEWAY) {
            return Err(Error::invalid_credential("EXPIRED"));
        }
        // Without `iat`, its lifetime counts from now.
        let life = expiry.saturating_sub(time("iat")?.unwrap_or(now).min(now));
        if life > micros(self.max_token_life).saturating_add(LEEWAY) {
            let why = "the token is valid for longer than max_token_life of its issuer allows";
            return Err(Error { internal: Some(why.to_owned()), ..malformed() });
        }
        if time("nbf")?.is_some_and(|start| now.saturating_add(LEEWAY) < start) {
            return Err(malformed());
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if !(1..=MAX_SUBJECT_LEN).contains(&subject.chars().count()) || subject.contains(char::is_control) {
            return Err(malformed());
        }
        Ok(SessionCaller {
            actor: format!("user:{}{subject}", self.subject_prefix),
            keyspaces: Arc::clone(&self.keyspaces),
            organizations: self.memberships(claims),
            name: display_name(claims),
            expires_at: Some(expiry),
        })
    }

    /// When a token expires, for a claim set that [`Self::caller`] accepts.
    pub(crate) fn expiry(claims: &Map<String, Value>) -> Micros {
        claims.get("exp").and_then(time).unwrap_or_default()
    }

    /// The same issuer for the ID tokens of the dashboard's client.
    pub(crate) fn for_dashboard(&self, client: &DashboardClient) -> Self {
        Self { audiences: vec![client.client_id.clone()], ..self.clone() }
    }

    fn memberships(&self, claims: &Map<String, Value>) -> Vec<OrgMembership> {
        let role = self.role.as_deref().and_then(|path| claim(claims, path));
        // An unknown role grants nothing.
        let role_in = |organization: &str| role_of(role, organization).unwrap_or(Role::Member);
        let named: Vec<(&str, Role)> = match claim(claims, &self.organizations) {
            Some(Value::String(one)) => vec![(one, role_in(one))],
            Some(Value::Array(several)) => {
                several.iter().filter_map(Value::as_str).map(|one| (one, role_in(one))).collect()
            }
            Some(Value::Object(roles)) => roles
                .iter()
                .map(|(one, role)| (one.as_str(), role_of(Some(role), one).unwrap_or(Role::Member)))
                .collect(),
            _ => Vec::new(),
        };
        let mut memberships: Vec<OrgMembership> = Vec::new();
        for (organization, role) in named {
            // Skip names that no key can be bound to. An empty name would match every key without an organization.
            let valid = (1..=MAX_BINDING_LEN).contains(&organization.chars().count())
                && !organization.contains(char::is_control);
            if valid && !memberships.iter().any(|known| same(&known.organization, organization)) {
                memberships.push(OrgMembership { organization: organization.to_owned(), role });
            }
        }
        memberships
    }
}

/// A display name for a person, from the first of these claims that is usable. It is not authenticated as an identity,
/// and only shown.
fn display_name(claims: &Map<String, Value>) -> Option<String> {
    let usable = |name: &&str| (1..=MAX_NAME_LEN).contains(&name.chars().count()) && !name.contains(char::is_control);
    let named = |claim: &&str| claims.get(*claim).and_then(Value::as_str).filter(usable).map(str::to_owned);
    ["email", "preferred_username", "name", "cognito:username"].iter().find_map(named)
}

/// The error for a token that is invalid, whatever the time.
pub fn malformed() -> Error {
    Error::invalid_credential("MALFORMED")
}

/// A claim by its name, or by a path of names separated by dots. Names may contain dots themselves, as URLs do; the
/// longest name that exists is tried first.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| match claims.get(&path[..dot]) {
        Some(Value::Object(inner)) => claim(inner, &path[dot + 1..]),
        _ => None,
    })
}

/// The role in an organization according to a claim: a single role, the strongest of several, or a role for each
/// organization.
fn role_of(value: Option<&Value>, organization: &str) -> Option<Role> {
    match value? {
        Value::String(name) => Role::named(name),
        Value::Array(names) => names.iter().filter_map(|name| Role::named(name.as_str()?)).max(),
        Value::Object(roles) => match roles.get(organization)? {
            Value::Object(_) => None,
            role => role_of(Some(role), organization),
        },
        _ => None,
    }
}

/// A NumericDate (RFC 7519): seconds since the Unix epoch, possibly with a fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from a float saturates, which is right for times that are out of range"
)]
fn time(value: &Value) -> Option<Micros> {
    if let Some(seconds) = value.as_i64() {
        return Some(seconds.saturating_mul(SECOND));
    }
    value.as_f64().map(|seconds| (seconds * 1e6) as Micros)
}

#[cfg(test)]
mod tests;
