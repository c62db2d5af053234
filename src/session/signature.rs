//! Verifies the signature of a token.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{
    provider::{KeyError, Provider},
    token::Token,
};
use crate::domain::{
    error::{Error, Result},
    oidc::{Issuer, malformed},
};

/// Verifies a token by the keys of its issuer.
///
/// # Errors
///
/// UNAUTHENTICATED with reason MALFORMED; UNAVAILABLE if the issuer's keys cannot be fetched.
pub async fn verify(rules: &Issuer, provider: &Arc<Provider>, token: &Token<'_>, deadline: Instant) -> Result<()> {
    if !rules.algorithms.contains(&token.algorithm) {
        return Err(malformed());
    }
    let verified = timeout_at(deadline, provider.verify(token)).await;
    verified.unwrap_or(Err(KeyError::Unreachable)).map_err(|error| match error {
        KeyError::Unverified => malformed(),
        KeyError::Unreachable => Error::unavailable(format!("no keys of {}", rules.issuer)),
    })
}
