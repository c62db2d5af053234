//! The format of a keyspace's secrets: `prefix` and `secret`.

use super::{
    super::section::Section,
    settings::{BYTES, ENCODING, LENGTH, PREFIX, SECRET},
};
use crate::domain::{
    keyspace::Prefixes,
    secret::{Encoding, MAX_PREFIX_LEN, MAX_SECRET_LEN},
};

/// Random bits that a secret needs beyond its displayed prefix.
const MIN_HIDDEN_BITS: usize = 96;

/// Reads `prefix`: one for all keys, or one for each environment.
pub fn prefixes(section: &Section<'_>) -> Option<Prefixes> {
    if !section.has(PREFIX.name) {
        section.problem("", "prefix is missing");
        return None;
    }
    let prefixes = if section.has_table(&PREFIX) {
        Prefixes::ByEnvironment(section.pairs(&PREFIX))
    } else {
        Prefixes::One(section.text(&PREFIX)?)
    };
    let mut is_valid = true;
    let mut problem = |what: &str| {
        section.problem(PREFIX.name, what);
        is_valid = false;
    };
    let mut seen: Vec<&str> = Vec::new();
    for (environment, prefix) in prefixes.iter() {
        let well_formed = (1..=MAX_PREFIX_LEN).contains(&prefix.len())
            && prefix.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        if !well_formed {
            problem("must be 1 to 32 characters of [A-Za-z0-9._-]");
        } else if prefix == "key_" {
            problem("\"key_\" is what key ids begin with");
        } else if seen.iter().any(|other| other.starts_with(prefix) || prefix.starts_with(other)) {
            problem("one prefix of the table begins with another");
        }
        if matches!(prefixes, Prefixes::ByEnvironment(_)) && !(1..=128).contains(&environment.chars().count()) {
            problem("each environment must be 1 to 128 characters");
        }
        seen.push(prefix);
    }
    if seen.is_empty() {
        problem("must name at least one environment");
    }
    is_valid.then(|| prefixes.clone())
}

/// Reads `secret`.
pub fn encoding(section: &Section<'_>) -> Option<Encoding> {
    if !section.has(SECRET.name) {
        section.problem("", "secret is missing");
        return None;
    }
    section.inline(&SECRET, |secret| {
        let Some(encoding) = secret.text(&ENCODING) else {
            secret.problem("", "encoding is missing: \"base64url\" or \"alphanumeric\"");
            return None;
        };
        match encoding.as_str() {
            "base64url" => {
                let bytes = secret.number(&BYTES, 16..=128);
                if !secret.has(BYTES.name) {
                    secret.problem("", "bytes is missing");
                }
                Some(Encoding::Base64Url { bytes: bytes? })
            }
            "alphanumeric" => {
                let length = secret.number(&LENGTH, 23..=192);
                if !secret.has(LENGTH.name) {
                    secret.problem("", "length is missing");
                }
                Some(Encoding::Alphanumeric { length: length? })
            }
            _ => {
                secret.problem(ENCODING.name, "must be \"base64url\" or \"alphanumeric\"");
                None
            }
        }
    })
}

/// A secret must be too long to guess and short enough for the bound that Verify checks before anything else.
pub fn check_size(section: &Section<'_>, prefixes: &Prefixes, encoding: Encoding) {
    for (_, prefix) in prefixes.iter() {
        let bits = encoding.hidden_bits(prefix);
        if bits < MIN_HIDDEN_BITS {
            let what = format!("leaves {bits} random bits beyond the shown prefix; {MIN_HIDDEN_BITS} are needed");
            section.problem(SECRET.name, what);
            break;
        }
        if prefix.len() + encoding.chars() > MAX_SECRET_LEN {
            section.problem(SECRET.name, format_args!("makes secrets longer than {MAX_SECRET_LEN} characters"));
            break;
        }
    }
}
