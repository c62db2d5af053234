//! `[[keyspace]]`: the rules of one product's keys.

mod routes;
mod secret_format;
pub mod settings;

use std::time::Duration;

use self::settings::{
    ADMIN_SCOPE, CREATE_LIMIT, CREDENTIAL, DEFAULT_SCOPES, DEFAULT_TTL, MAX_KEYS, NAME, PREFIX, PUBLIC_CREATE,
    RATE_LIMIT, REQUIRE, SCOPES, SELF_SERVICE,
};
use super::{limit, section::Section, setting::Setting};
use crate::domain::{
    clock::Micros,
    keyspace::{CredentialHeader, Keyspace, Prefixes, RESERVED_KEYSPACE, RequiredBinding},
    validation::{MAX_LIFETIME, Violations},
};

/// What could be read of one keyspace. A keyspace with a problem is still compared with the others.
pub struct Draft {
    /// The name, if it can be read.
    pub name: Option<String>,
    prefixes: Option<Prefixes>,
    /// The keyspace, if it has no problem.
    pub keyspace: Option<Keyspace>,
}

impl Draft {
    fn reserved() -> Self {
        let reserved = Keyspace::reserved();
        Self { name: Some(reserved.name), prefixes: Some(reserved.prefixes), keyspace: None }
    }
}

/// Reads every keyspace.
pub fn read(sections: &[Section<'_>]) -> Vec<Draft> {
    let drafts: Vec<Draft> = sections.iter().map(draft).collect();
    let reserved = Draft::reserved();
    for (at, (section, own)) in sections.iter().zip(&drafts).enumerate() {
        if let Some(name) = own.name.as_ref().filter(|name| drafts[..at].iter().any(|d| d.name.as_ref() == Some(name)))
        {
            section.problem(NAME.name, format_args!("two keyspaces are named \"{name}\""));
        }
        for other in std::iter::once(&reserved).chain(&drafts[..at]) {
            check_prefixes(section, own, other);
        }
    }
    drafts
}

/// The keyspace of a secret must follow from its prefix alone.
fn check_prefixes(section: &Section<'_>, own: &Draft, other: &Draft) {
    let (Some(prefixes), Some(others)) = (&own.prefixes, &other.prefixes) else { return };
    let name = |draft: &Draft| draft.name.clone().unwrap_or_else(|| "(unnamed)".to_owned());
    for (_, prefix) in prefixes.iter() {
        for (_, other_prefix) in others
            .iter()
            .filter(|(_, other_prefix)| prefix.starts_with(other_prefix) || other_prefix.starts_with(prefix))
        {
            section.problem(
                PREFIX.name,
                format_args!(
                    "the keyspaces \"{}\" and \"{}\" share a secret prefix (\"{other_prefix}\", \"{prefix}\")",
                    name(other),
                    name(own)
                ),
            );
        }
    }
}

fn draft(section: &Section<'_>) -> Draft {
    let (name, prefixes) = (name(section), secret_format::prefixes(section));
    let keyspace = keyspace(section, name.clone(), prefixes.clone());
    Draft { name, prefixes, keyspace }
}

fn keyspace(section: &Section<'_>, name: Option<String>, prefixes: Option<Prefixes>) -> Option<Keyspace> {
    let encoding = secret_format::encoding(section);
    if let (Some(prefixes), Some(encoding)) = (&prefixes, encoding) {
        secret_format::check_size(section, prefixes, encoding);
    }
    let credential = credential(section);
    let scopes = scopes(section, &SCOPES);
    let admin_scope = section.text(&ADMIN_SCOPE);
    let default_scopes = default_scopes(section, scopes.as_deref(), admin_scope.as_deref());
    if let (Some(scope), Some(scopes)) = (&admin_scope, &scopes)
        && !scopes.contains(scope)
    {
        section.problem(ADMIN_SCOPE.name, format_args!("\"{scope}\" is not in scopes"));
    }
    let require = require(section);
    let public_create = section.boolean(&PUBLIC_CREATE) == Some(true);
    if public_create && require != RequiredBinding::default() {
        section.problem(PUBLIC_CREATE.name, "cannot go with require: nobody may choose a binding");
    }
    if admin_scope.as_ref().is_some_and(|scope| default_scopes.contains(scope)) {
        let what = "must not hold the admin_scope: a creator that names no scopes would make an admin key";
        section.problem(DEFAULT_SCOPES.name, what);
    }
    let default_ttl = default_ttl(section);
    let rate_limit = limit::read(section, &RATE_LIMIT);
    let max_keys = section.number(&MAX_KEYS, 1..=1_000_000);
    let create_limit = limit::read(section, &CREATE_LIMIT);
    let self_service = section.boolean(&SELF_SERVICE) == Some(true);
    let gateway = routes::read(section, scopes.as_deref());
    Some(Keyspace {
        name: name?,
        prefixes: prefixes?,
        encoding: encoding?,
        credential,
        scopes,
        default_scopes,
        admin_scope,
        require,
        default_ttl,
        rate_limit,
        max_keys,
        create_limit,
        public_create,
        self_service,
        gateway,
    })
}

fn name(section: &Section<'_>) -> Option<String> {
    let Some(name) = section.text(&NAME) else {
        section.problem("", "name is missing");
        return None;
    };
    let is_valid = (1..=64).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if !is_valid {
        section.problem(NAME.name, "must be 1 to 64 characters of [A-Za-z0-9._-]");
        return None;
    }
    if name == RESERVED_KEYSPACE {
        section.problem(NAME.name, "\"keyward\" is reserved and cannot be configured");
    }
    Some(name)
}

fn credential(section: &Section<'_>) -> CredentialHeader {
    match section.text(&CREDENTIAL).as_deref() {
        None | Some("bearer") => CredentialHeader::Bearer,
        Some("x-api-key") => CredentialHeader::XApiKey,
        Some("any") => CredentialHeader::Any,
        Some(_) => {
            section.problem(CREDENTIAL.name, "must be \"bearer\", \"x-api-key\" or \"any\"");
            CredentialHeader::Bearer
        }
    }
}

fn scopes(section: &Section<'_>, setting: &Setting) -> Option<Vec<String>> {
    let scopes = section.texts(setting)?;
    let mut violations = Violations::default();
    violations.scopes(setting.name, &scopes);
    if let Err(error) = violations.finish() {
        section.problem(setting.name, &error.fields[0].description);
    }
    Some(scopes)
}

/// Where `default_scopes` is absent: every scope but the admin scope, so that a creator that names no scopes does not
/// make an admin key.
fn default_scopes(section: &Section<'_>, all: Option<&[String]>, admin: Option<&str>) -> Vec<String> {
    let Some(defaults) = scopes(section, &DEFAULT_SCOPES) else {
        return all.unwrap_or_default().iter().filter(|scope| Some(scope.as_str()) != admin).cloned().collect();
    };
    for scope in &defaults {
        if all.is_some_and(|all| !all.contains(scope)) {
            section.problem(DEFAULT_SCOPES.name, format_args!("\"{scope}\" is not in scopes"));
        }
    }
    defaults
}

fn require(section: &Section<'_>) -> RequiredBinding {
    let mut require = RequiredBinding::default();
    for part in section.texts(&REQUIRE).unwrap_or_default() {
        match part.as_str() {
            "organization" => require.organization = true,
            "instance" => require.instance = true,
            "environment" => require.environment = true,
            _ => section.problem(REQUIRE.name, "may hold \"organization\", \"instance\" and \"environment\""),
        }
    }
    require
}

fn default_ttl(section: &Section<'_>) -> Option<Duration> {
    let ttl = section.duration(&DEFAULT_TTL)?;
    let micros = Micros::try_from(ttl.as_micros()).unwrap_or(Micros::MAX);
    if ttl.is_zero() || micros > MAX_LIFETIME {
        section.problem(DEFAULT_TTL.name, "must be more than nothing and at most 10 years");
        return None;
    }
    Some(ttl)
}
