//! The tokens of an environment's session.

use std::{fs::TryLockError, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::{
    environment::Environment,
    failure::{Failure, Result},
    text::now,
};

const TOKENS_FILE: &str = "tokens.json";
/// A token that expires within this many seconds is refreshed before it is used.
const REFRESH_BEFORE: i64 = 60;
/// How long a process waits for another one that refreshes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_INTERVAL: Duration = Duration::from_millis(25);

/// A session as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// The service that it is for. It is never sent anywhere else.
    pub url: String,
    /// Where the person signed in.
    pub issuer: String,
    /// The client that the person signed in with.
    pub client_id: String,
    /// The token that is sent to the service.
    pub id_token: String,
    /// The refresh token, if the issuer issued one.
    pub refresh_token: Option<String>,
    /// When the ID token was received, by this machine's clock.
    pub received_at: i64,
    /// Its lifetime in seconds from then on, by the issuer's clock, so that a wrong clock of this machine has no
    /// effect.
    pub lifetime: i64,
}

impl Tokens {
    /// Whether the ID token can be used for a while. A clock that was set back makes it stale.
    pub fn is_fresh(&self) -> bool {
        let margin = REFRESH_BEFORE.min(self.lifetime / 4);
        (self.received_at..self.received_at + self.lifetime - margin).contains(&now())
    }
}

/// The claims of a token. Its signature is checked by the service; here it came from the issuer itself.
pub fn claims(token: &str) -> Option<Map<String, Value>> {
    let payload = token.split('.').nth(1)?;
    let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Environment {
    /// The stored session; none if nobody is signed in.
    ///
    /// # Errors
    ///
    /// The file is damaged or cannot be trusted.
    pub fn tokens(&self) -> Result<Option<Tokens>> {
        let folder = self.folder()?;
        let Some(read) = folder.read(TOKENS_FILE)? else { return Ok(None) };
        if let Some(warning) = read.warning {
            self.screen.warn(warning);
        }
        serde_json::from_str(&read.text).map(Some).map_err(|_| {
            Failure::not_signed_in(format_args!("{} is damaged", folder.path().join(TOKENS_FILE).display()))
                .hint(self.sign_in_hint())
        })
    }

    /// Replaces the session.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be written.
    pub fn write_tokens(&self, tokens: &Tokens) -> Result {
        self.folder()?.write(TOKENS_FILE, &serde_json::to_string(tokens).unwrap_or_default())
    }

    /// Deletes the session.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be deleted.
    pub fn delete_tokens(&self) -> Result {
        self.folder()?.delete(TOKENS_FILE)
    }

    /// Waits for the lock that a process holds while it changes the session. Dropping the file releases it.
    ///
    /// # Errors
    ///
    /// Another process holds the lock for longer than [`LOCK_TIMEOUT`].
    pub async fn lock(&self) -> Result<std::fs::File> {
        let file = self.folder()?.lock_file()?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => sleep(LOCK_INTERVAL).await,
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::new("another process is signing in or refreshing"));
                }
                Err(TryLockError::Error(error)) => return Err(Failure::new(format_args!("the lock: {error}"))),
            }
        }
    }

    /// What to do without a session.
    pub fn sign_in_hint(&self) -> String {
        format!("Sign in again: {} login{}", self.product.name, self.flag())
    }
}
