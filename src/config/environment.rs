//! Settings of the environment alone: secrets, logging, and the name of the file.

use zeroize::Zeroizing;

use super::{layers::Layers, setting::Setting, weak_text};
use crate::domain::{
    master_keys::{MasterKey, fingerprint},
    secret::Secret,
};

/// The settings.
pub const SETTINGS: &[Setting] = &[CONFIG, ROOT_KEY, MASTER_KEY, LOG, LOG_FORMAT];

/// The file.
pub const CONFIG: Setting =
    Setting::unset("", "no file", "", "The TOML file.").variable("KEYWARD_CONFIG").flag("--config");

const ROOT_KEY: Setting = Setting::unset(
    "",
    "the first start creates a root key",
    "",
    "The root credential: 32 or more characters, never stored (see [the root key and the installation \
     key](#the-root-key-and-the-installation-key)).",
)
.variable("KEYWARD_ROOT_KEY");

const MASTER_KEY: Setting = Setting::unset(
    "",
    "the first start creates one in the database",
    "",
    "The installation key: 32 bytes in base64. Or several keys separated by commas: the first one signs, all of them \
     verify.",
)
.variable("KEYWARD_MASTER_KEY");

/// Read by [`crate::telemetry::Logging`].
const LOG: Setting =
    Setting::new("", "\"info\"", "A tracing filter, such as `info,keyward::replica=debug`.").variable("KEYWARD_LOG");

/// Read by [`crate::telemetry::Logging`].
const LOG_FORMAT: Setting =
    Setting::new("", "\"text\"", "Format of the log: `text` or `json`.").variable("KEYWARD_LOG_FORMAT");

/// A rotation needs two keys at a time.
const MAX_MASTER_KEYS: usize = 8;

/// Reads the root credential. One that no HTTP header can carry is refused: otherwise the service would start, and the
/// credential would never be accepted.
pub fn root_key(layers: &Layers<'_>) -> Option<Secret> {
    layers.variable(&ROOT_KEY, |text| {
        if text.chars().count() < 32 {
            return Err("must be 32 or more characters".to_owned());
        }
        if text.trim().len() != text.len() {
            return Err("must not begin or end with white space, such as a line's end".to_owned());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must be visible ASCII characters: a header carries no others".to_owned());
        }
        if let Some(weakness) = weak_text::weakness(text) {
            return Err(format!("{weakness}, and can be guessed: make one with `openssl rand -base64 32`"));
        }
        Ok(Secret::new(text.to_owned()))
    })
}

/// Reads the installation keys; none where the database holds the key.
pub fn master_keys(layers: &Layers<'_>) -> Vec<MasterKey> {
    layers.variable(&MASTER_KEY, parse_master_keys).unwrap_or_default()
}

fn parse_master_keys(text: &str) -> Result<Vec<MasterKey>, String> {
    let keys: Option<Vec<MasterKey>> = text.split(',').map(parse_master_key).collect();
    let keys = keys.ok_or("must be 32 bytes in base64 (openssl rand -base64 32), or several, separated by commas")?;
    if keys.len() > MAX_MASTER_KEYS {
        return Err(format!("must be at most {MAX_MASTER_KEYS} keys, separated by commas"));
    }
    // Compared by their fingerprints: the keys themselves are only ever compared in constant time.
    let fingerprints: Vec<String> = keys.iter().map(fingerprint).collect();
    if fingerprints.iter().enumerate().any(|(at, fingerprint)| fingerprints[..at].contains(fingerprint)) {
        return Err("must not hold a key twice".to_owned());
    }
    Ok(keys)
}

fn parse_master_key(text: &str) -> Option<MasterKey> {
    let bytes = Zeroizing::new(data_encoding::BASE64.decode(text.trim().as_bytes()).ok()?);
    let mut key = MasterKey::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}
