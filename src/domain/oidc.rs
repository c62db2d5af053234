//! Session tokens: which issuers are believed for what, and what a token's claims say. Whether a token is its issuer's
//! at all is not decided here but by `crate::session`.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use url::{Host, Url};

use super::{
    clock::{Micros, SECOND},
    error::{Error, ErrorKind},
    session::{OrgMembership, Role, SessionCaller},
    validation::MAX_BINDING_LEN,
};

/// How far an issuer's clock may be from ours.
pub const LEEWAY: Micros = 60 * SECOND;
/// Characters in a subject, as OpenID Connect bounds it.
const SUBJECT: usize = 255;

/// A signature algorithm. Symmetric ones are not among them: who could check such a token could make one.
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
    /// Every algorithm, by the name that tokens give it.
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

    /// The algorithm of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

/// An issuer whose tokens are sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its identifier, compared byte by byte with `iss`; an absolute URL.
    pub issuer: String,
    /// A token must name one of these in `aud`.
    pub audiences: Vec<String>,
    /// A token must be signed with one of these.
    pub algorithms: Vec<Algorithm>,
    /// Names of the keyspaces that it speaks for.
    pub keyspaces: Arc<[String]>,
    /// The claim with the organizations: its name, or a path with dots.
    pub organizations: String,
    /// The claim with the role; none where the organizations' claim has the roles too.
    pub role: Option<String>,
    /// The cookie that may hold a token; none if none may.
    pub cookie: Option<String>,
    /// What its subjects begin with, so that they are no other issuer's.
    pub subject_prefix: String,
    /// How old its keys may get.
    pub refresh: Duration,
    /// Whether it may be asked without TLS, though it is not on this machine.
    pub allow_http: bool,
}

impl Issuer {
    /// Whether its keys may be fetched from there: by TLS, or from this machine.
    pub fn may_fetch(&self, url: &Url) -> bool {
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        url.scheme() == "https" || (url.scheme() == "http" && (here || self.allow_http))
    }

    /// Whether a token says that it is of this issuer and for us.
    pub fn is_meant(&self, claims: &Map<String, Value>) -> bool {
        let ours = |audience: &Value| audience.as_str().is_some_and(|named| self.audiences.iter().any(|a| a == named));
        let audience = match claims.get("aud") {
            Some(Value::Array(several)) => several.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        audience && claims.get("iss").and_then(Value::as_str) == Some(&self.issuer)
    }

    /// The caller that a token of this issuer stands for at `now`.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED for a token that is past its time, before it, or of nobody.
    pub fn caller(&self, claims: &Map<String, Value>, now: Micros) -> Result<SessionCaller, Error> {
        let time = |name: &str| claims.get(name).map(|value| time(value).ok_or_else(malformed)).transpose();
        let expiry = time("exp")?.ok_or_else(malformed)?;
        if now >= expiry.saturating_add(LEEWAY) {
            return Err(Error::new(ErrorKind::Unauthenticated, "EXPIRED", BAD));
        }
        if time("nbf")?.is_some_and(|start| now.saturating_add(LEEWAY) < start) {
            return Err(malformed());
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if !(1..=SUBJECT).contains(&subject.chars().count()) || subject.contains(char::is_control) {
            return Err(malformed());
        }
        Ok(SessionCaller {
            actor: format!("user:{}{subject}", self.subject_prefix),
            keyspaces: Arc::clone(&self.keyspaces),
            organizations: self.memberships(claims),
        })
    }

    fn memberships(&self, claims: &Map<String, Value>) -> Vec<OrgMembership> {
        let role = self.role.as_deref().and_then(|path| claim(claims, path));
        // A role that is not known gives nothing.
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
            // What no key can be bound to is no organization; and an empty name would be every key without one.
            let good = (1..=MAX_BINDING_LEN).contains(&organization.chars().count())
                && !organization.contains(char::is_control);
            if good && !memberships.iter().any(|known| known.organization == organization) {
                memberships.push(OrgMembership { organization: organization.to_owned(), role });
            }
        }
        memberships
    }
}

/// The public sentence is that of any bad credential.
const BAD: &str = "Invalid or expired API key";

/// A token that is no good and never was.
pub fn malformed() -> Error {
    Error::new(ErrorKind::Unauthenticated, "MALFORMED", BAD)
}

/// A claim by its name, or by a path of names with dots between them. Names may hold dots themselves, as URLs do: the
/// longest name that is there leads.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| match claims.get(&path[..dot]) {
        Some(Value::Object(inner)) => claim(inner, &path[dot + 1..]),
        _ => None,
    })
}

/// The role in an organization that a claim gives: one role, the strongest of several, or one for each organization.
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

/// A NumericDate: seconds since the epoch, perhaps with a fraction.
#[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates, which is what a far time needs")]
fn time(value: &Value) -> Option<Micros> {
    if let Some(seconds) = value.as_i64() {
        return Some(seconds.saturating_mul(SECOND));
    }
    value.as_f64().map(|seconds| (seconds * 1e6) as Micros)
}

#[cfg(test)]
mod tests;
