//! `[[session.issuer]]` tables.

use std::{sync::Arc, time::Duration};

use url::Url;

use super::reader::Section;
use crate::domain::{
    keyspace::RESERVED_KEYSPACE,
    oidc::{Algorithm, Issuer},
};

/// How old an issuer's keys may get, where nothing is said.
const REFRESH: Duration = Duration::from_mins(15);
/// Characters of a subject's prefix; [`crate::domain::validation::MAX_ACTOR_LEN`] counts on it.
const PREFIX: usize = 64;

/// Reads every issuer.
pub fn read(section: &Section<'_>, keyspaces: &[&str]) -> Vec<Issuer> {
    let sections = section.sections("issuer");
    let mut issuers: Vec<(usize, Issuer)> = Vec::new();
    for (place, section) in sections.iter().enumerate() {
        let Some(issuer) = issuer(section, keyspaces) else { continue };
        for (at, other) in &issuers {
            compare(section, &issuer, *at, other);
        }
        issuers.push((place, issuer));
    }
    issuers.into_iter().map(|(_, issuer)| issuer).collect()
}

/// Two issuers must be told apart, and so must their subjects.
fn compare(section: &Section<'_>, own: &Issuer, at: usize, other: &Issuer) {
    if own.issuer == other.issuer {
        if let Some(audience) = own.audiences.iter().find(|audience| other.audiences.contains(audience)) {
            section
                .problem("audience", format_args!("\"{audience}\" of this issuer is session.issuer[{at}]'s already"));
        }
        return;
    }
    let begins = |a: &Issuer, b: &Issuer| a.subject_prefix.starts_with(&b.subject_prefix);
    if let Some(shared) = own.keyspaces.iter().find(|name| other.keyspaces.contains(name))
        && (begins(own, other) || begins(other, own))
    {
        let what = format_args!(
            "\"{shared}\" is session.issuer[{at}]'s too, and a subject of the one could be taken for the other's: \
             give each a subject_prefix, of which neither begins with the other"
        );
        section.problem("keyspaces", what);
    }
}

fn issuer(section: &Section<'_>, configured: &[&str]) -> Option<Issuer> {
    for name in ["issuer", "audience", "keyspaces", "claims"] {
        if section.is_table(name).is_none() {
            section.problem("", format_args!("{name} is missing"));
        }
    }
    let issuer = section.text("issuer").map(|found| found.value);
    let audiences = section.one_or_more("audience");
    if audiences.as_ref().is_some_and(|audiences| audiences.is_empty() || audiences.iter().any(String::is_empty)) {
        section.problem("audience", "must name at least one audience, and none that is empty");
    }
    let keyspaces = keyspaces(section, configured);
    let claims = section.section("claims");
    let organizations = claims.text("organizations").map(|found| found.value);
    let role = claims.text("role").map(|found| found.value);
    if section.is_table("claims") == Some(true) && claims.is_table("organizations").is_none() {
        claims.problem("", "organizations is missing");
    }
    let read = Issuer {
        issuer: issuer.unwrap_or_default(),
        audiences: audiences.unwrap_or_default(),
        algorithms: algorithms(section),
        keyspaces: keyspaces.unwrap_or_default(),
        organizations: organizations.unwrap_or_default(),
        role,
        cookie: cookie(section),
        subject_prefix: subject_prefix(section),
        refresh: refresh(section),
        allow_http: section.flag("allow_http").unwrap_or(false),
    };
    // What is missing has been said already; what is there is checked, also against the others.
    if section.is_table("issuer").is_none() || read.issuer.is_empty() {
        return None;
    }
    let good = Url::parse(&read.issuer).ok().filter(|url| {
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        plain && url.password().is_none() && matches!(url.scheme(), "http" | "https") && url.has_host()
    });
    match good {
        None => section.problem("issuer", "must be an https URL with no query, such as https://login.example.com"),
        Some(url) if !read.may_fetch(&url) => {
            section.problem("issuer", "must be https, unless it is on this machine or allow_http = true is set");
        }
        Some(_) => {}
    }
    Some(read)
}

fn keyspaces(section: &Section<'_>, configured: &[&str]) -> Option<Arc<[String]>> {
    let keyspaces = section.texts("keyspaces")?;
    if keyspaces.is_empty() {
        section.problem("keyspaces", "must name at least one keyspace");
    }
    for name in &keyspaces {
        if name == RESERVED_KEYSPACE {
            // Whoever logs in could make a root key.
            section.problem("keyspaces", format_args!("\"{RESERVED_KEYSPACE}\" is not for sessions"));
        } else if !configured.contains(&name.as_str()) {
            section.problem("keyspaces", format_args!("there is no keyspace \"{name}\""));
        }
    }
    Some(keyspaces.into())
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    let Some(names) = section.texts("algorithms") else { return vec![Algorithm::Rs256] };
    if names.is_empty() {
        section.problem("algorithms", "must name at least one algorithm");
    }
    let mut algorithms = Vec::new();
    for name in names {
        if let Some(algorithm) = Algorithm::named(&name) {
            algorithms.push(algorithm);
        } else {
            let known = Algorithm::ALL.map(|(name, _)| name).join(", ");
            section.problem("algorithms", format_args!("\"{name}\" is not one of {known}"));
        }
    }
    algorithms
}

fn cookie(section: &Section<'_>) -> Option<String> {
    let found = section.text("cookie")?;
    let good = (1..=128).contains(&found.value.len())
        && found.value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if !good {
        section.problem("cookie", "must be 1 to 128 characters of [A-Za-z0-9._-]");
    }
    Some(found.value)
}

fn subject_prefix(section: &Section<'_>) -> String {
    let prefix = section.text("subject_prefix").map(|found| found.value).unwrap_or_default();
    let good = prefix.len() <= PREFIX
        && prefix.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':'));
    if !good {
        section.problem("subject_prefix", "must be at most 64 characters of [A-Za-z0-9._:-]");
    }
    prefix
}

fn refresh(section: &Section<'_>) -> Duration {
    let Some(found) = section.duration("refresh") else { return REFRESH };
    if !(Duration::from_secs(1)..=Duration::from_hours(24)).contains(&found.value) {
        section.problem("refresh", "must be a length of time from 1s to 24h");
    }
    found.value
}

#[cfg(test)]
mod tests;
