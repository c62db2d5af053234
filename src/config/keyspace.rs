//! `[[keyspace]]` tables.

use super::reader::Section;
use crate::domain::{
    clock::Micros,
    keyspace::{CredentialHeader, Keyspace, Prefixes, RESERVED_KEYSPACE, RequiredBinding},
    rate_limit::{MAX_LIMIT, RateLimit},
    secret::{Encoding, MAX_PREFIX_LEN, MAX_SECRET_LEN},
    validation::MAX_LIFETIME,
};

/// Random bits that a secret needs beyond what is shown of it.
const HIDDEN_BITS: usize = 96;
/// Bounds of the sizes of a secret: below is never safe, above is never needed.
const BYTES: std::ops::RangeInclusive<i64> = 16..=128;
const LENGTH: std::ops::RangeInclusive<i64> = 23..=192;

/// What could be read of one keyspace. One with a problem still takes part in the checks across keyspaces.
pub struct Draft {
    /// Its name.
    pub name: Option<String>,
    prefixes: Option<Prefixes>,
    keyspace: Option<Keyspace>,
}

impl Draft {
    /// The keyspace, if it has what it needs.
    pub fn keyspace(self) -> Option<Keyspace> {
        self.keyspace
    }

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
            section.problem("name", format_args!("two keyspaces are named \"{name}\""));
        }
        for other in std::iter::once(&reserved).chain(&drafts[..at]) {
            clashes(section, own, other);
        }
    }
    drafts
}

fn clashes(section: &Section<'_>, own: &Draft, other: &Draft) {
    let (Some(prefixes), Some(others)) = (&own.prefixes, &other.prefixes) else { return };
    let name = |draft: &Draft| draft.name.clone().unwrap_or_else(|| "(unnamed)".to_owned());
    for (_, prefix) in prefixes.iter() {
        for (_, taken) in others.iter().filter(|(_, taken)| prefix.starts_with(taken) || taken.starts_with(prefix)) {
            section.problem(
                "prefix",
                format_args!(
                    "the keyspaces \"{}\" and \"{}\" share a secret prefix (\"{taken}\", \"{prefix}\")",
                    name(other),
                    name(own)
                ),
            );
        }
    }
}

fn draft(section: &Section<'_>) -> Draft {
    let (name, prefixes) = (name(section), prefixes(section));
    let keyspace = keyspace(section, name.clone(), prefixes.clone());
    Draft { name, prefixes, keyspace }
}

fn keyspace(section: &Section<'_>, name: Option<String>, prefixes: Option<Prefixes>) -> Option<Keyspace> {
    let encoding = encoding(section);
    if let (Some(prefixes), Some(encoding)) = (&prefixes, encoding) {
        hidden_bits(section, prefixes, encoding);
    }
    let credential = credential(section);
    let scopes = scopes(section, "scopes");
    let admin_scope = section.text("admin_scope").map(|found| found.value);
    let default_scopes = scopes_of_a_new_key(section, scopes.as_deref(), admin_scope.as_deref());
    if let (Some(scope), Some(scopes)) = (&admin_scope, &scopes)
        && !scopes.contains(scope)
    {
        section.problem("admin_scope", format_args!("\"{scope}\" is not in scopes"));
    }
    let require = require(section);
    let public_create = section.flag("public_create").unwrap_or(false);
    if public_create && require != RequiredBinding::default() {
        section.problem("public_create", "cannot go with require: nobody may choose a binding");
    }
    if public_create && admin_scope.as_ref().is_some_and(|scope| default_scopes.contains(scope)) {
        section.problem("public_create", "would make everybody an admin: admin_scope is in default_scopes");
    }
    let default_ttl = default_ttl(section);
    let rate_limit = rate_limit(section, "rate_limit");
    let self_service = section.flag("self_service").unwrap_or(false);
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
        public_create,
        self_service,
    })
}

fn name(section: &Section<'_>) -> Option<String> {
    let Some(found) = section.text("name") else {
        section.problem("", "name is missing");
        return None;
    };
    let good = (1..=64).contains(&found.value.len())
        && found.value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if !good {
        section.problem("name", "must be 1 to 64 characters of [A-Za-z0-9._-]");
        return None;
    }
    if found.value == RESERVED_KEYSPACE {
        section.problem("name", "\"keyward\" is reserved and cannot be configured");
    }
    Some(found.value)
}

fn prefixes(section: &Section<'_>) -> Option<Prefixes> {
    let prefixes = match section.is_table("prefix") {
        None => {
            section.problem("", "prefix is missing");
            return None;
        }
        Some(false) => Prefixes::One(section.text("prefix")?.value),
        Some(true) => Prefixes::ByEnvironment(section.section("prefix").pairs()),
    };
    let mut good = true;
    let mut seen: Vec<&str> = Vec::new();
    for (environment, prefix) in prefixes.iter() {
        let fine = (1..=MAX_PREFIX_LEN).contains(&prefix.len())
            && prefix.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        if !fine {
            section.problem("prefix", "must be 1 to 32 characters of [A-Za-z0-9._-]");
            good = false;
        } else if prefix == "key_" {
            section.problem("prefix", "\"key_\" is what key ids begin with");
            good = false;
        } else if seen.iter().any(|other| other.starts_with(prefix) || prefix.starts_with(other)) {
            section.problem("prefix", "one prefix of the table begins with another");
            good = false;
        }
        if prefixes != Prefixes::One(prefix.to_owned()) && !(1..=128).contains(&environment.chars().count()) {
            section.problem("prefix", "each environment must be 1 to 128 characters");
            good = false;
        }
        seen.push(prefix);
    }
    if seen.is_empty() {
        section.problem("prefix", "must name at least one environment");
        good = false;
    }
    good.then(|| prefixes.clone())
}

fn encoding(section: &Section<'_>) -> Option<Encoding> {
    if section.is_table("secret").is_none() {
        section.problem("", "secret is missing");
        return None;
    }
    let secret = section.section("secret");
    let size = |value: i64| usize::try_from(value).unwrap_or_default();
    let Some(encoding) = secret.text("encoding") else {
        secret.problem("", "encoding is missing: \"base64url\" or \"alphanumeric\"");
        return None;
    };
    match encoding.value.as_str() {
        "base64url" => {
            let bytes = secret.number("bytes", BYTES);
            if secret.is_table("bytes").is_none() {
                secret.problem("", "bytes is missing");
            }
            Some(Encoding::Base64Url { bytes: size(bytes?) })
        }
        "alphanumeric" => {
            let length = secret.number("length", LENGTH);
            if secret.is_table("length").is_none() {
                secret.problem("", "length is missing");
            }
            Some(Encoding::Alphanumeric { length: size(length?) })
        }
        _ => {
            secret.problem("encoding", "must be \"base64url\" or \"alphanumeric\"");
            None
        }
    }
}

fn hidden_bits(section: &Section<'_>, prefixes: &Prefixes, encoding: Encoding) {
    for (_, prefix) in prefixes.iter() {
        let bits = encoding.hidden_bits(prefix);
        if bits < HIDDEN_BITS {
            let what = format!("leaves {bits} random bits beyond the shown prefix; {HIDDEN_BITS} are needed");
            section.problem("secret", what);
            break;
        }
        if prefix.len() + encoding.chars() > MAX_SECRET_LEN {
            section.problem("secret", format_args!("makes secrets longer than {MAX_SECRET_LEN} characters"));
            break;
        }
    }
}

fn credential(section: &Section<'_>) -> CredentialHeader {
    match section.text("credential").map(|found| found.value).as_deref() {
        None | Some("bearer") => CredentialHeader::Bearer,
        Some("x-api-key") => CredentialHeader::XApiKey,
        Some("any") => CredentialHeader::Any,
        Some(_) => {
            section.problem("credential", "must be \"bearer\", \"x-api-key\" or \"any\"");
            CredentialHeader::Bearer
        }
    }
}

fn scopes(section: &Section<'_>, name: &'static str) -> Option<Vec<String>> {
    let scopes = section.texts(name)?;
    let mut violations = crate::domain::validation::Violations::default();
    violations.scopes(name, &scopes);
    if let Err(error) = violations.finish() {
        section.problem(name, &error.fields[0].description);
    }
    Some(scopes)
}

/// Where `default_scopes` is absent: every scope but the admin's, so that nobody becomes an admin by leaving it out.
fn scopes_of_a_new_key(section: &Section<'_>, all: Option<&[String]>, admin: Option<&str>) -> Vec<String> {
    let Some(defaults) = scopes(section, "default_scopes") else {
        return all.unwrap_or_default().iter().filter(|scope| Some(scope.as_str()) != admin).cloned().collect();
    };
    for scope in &defaults {
        if all.is_some_and(|all| !all.contains(scope)) {
            section.problem("default_scopes", format_args!("\"{scope}\" is not in scopes"));
        }
    }
    defaults
}

fn require(section: &Section<'_>) -> RequiredBinding {
    let mut require = RequiredBinding::default();
    for part in section.texts("require").unwrap_or_default() {
        match part.as_str() {
            "organization" => require.organization = true,
            "instance" => require.instance = true,
            "environment" => require.environment = true,
            _ => section.problem("require", "may hold \"organization\", \"instance\" and \"environment\""),
        }
    }
    require
}

fn default_ttl(section: &Section<'_>) -> Option<std::time::Duration> {
    let found = section.duration("default_ttl")?;
    let micros = Micros::try_from(found.value.as_micros()).unwrap_or(Micros::MAX);
    if found.value.is_zero() || micros > MAX_LIFETIME {
        section.problem("default_ttl", "must be more than nothing and at most 10 years");
        return None;
    }
    Some(found.value)
}

/// A table `{ limit, window }`.
pub fn rate_limit(section: &Section<'_>, name: &'static str) -> Option<RateLimit> {
    section.is_table(name)?;
    let table = section.section(name);
    let limit = table.number("limit", 1..=i64::from(MAX_LIMIT));
    let window = table.duration("window");
    for field in ["limit", "window"] {
        if table.is_table(field).is_none() {
            table.problem("", format_args!("{field} is missing"));
        }
    }
    let window = Micros::try_from(window?.value.as_micros()).unwrap_or(Micros::MAX);
    let read = RateLimit { limit: limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(0), window };
    if !read.has_valid_window() {
        table.problem("window", "must be 1s to 366d, in whole milliseconds");
        return None;
    }
    limit.map(|_| read)
}
