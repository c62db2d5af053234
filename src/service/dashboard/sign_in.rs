//! Signing in at an issuer. The state that the callback needs is in a sealed cookie, so that sign-ins in progress take
//! no memory here, however many an anonymous client starts.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{DashboardSessions, NewSession};
use crate::{
    domain::{
        caller::Caller,
        clock::Micros,
        dashboard::{Person, SIGN_IN_TIMEOUT, SessionId, SessionOwner, SessionSecret, return_path},
        error::{Error, ErrorKind, Result},
    },
    service::context::CallContext,
    session::{CodeFlowError, SignInResponse, SignInStart},
};

/// A sign-in that was started.
pub struct StartedSignIn {
    /// Where to send the browser.
    pub url: String,
    /// The value of the cookie that the browser has to send with the callback.
    pub cookie: String,
}

/// The parameters of the issuer's redirect.
#[derive(Debug, Clone, Default)]
pub struct Callback {
    /// `code`.
    pub code: String,
    /// `state`.
    pub state: String,
    /// `iss`; empty if absent.
    pub issuer: String,
    /// `error`; empty if absent.
    pub error: String,
}

/// A sign-in that ended with a session.
pub struct FinishedSignIn {
    /// The session.
    pub new: NewSession,
    /// The page to show.
    pub return_to: String,
}

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
struct Pending {
    issuer: String,
    client: String,
    redirect_uri: String,
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    ends_at: Micros,
}

/// The context that the cookie is sealed for.
const CONTEXT: &[&[u8]] = &[b"sign-in"];

impl DashboardSessions {
    /// Begins a sign-in at an issuer. `redirect_uri` is the callback's absolute URL.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an issuer at which nobody signs in; UNAVAILABLE while it is unreachable.
    pub async fn begin_sign_in(
        &self,
        issuer: &str,
        client: &str,
        redirect_uri: String,
        return_to: &str,
        context: CallContext<'_>,
    ) -> Result<StartedSignIn> {
        let flow = self.flow(issuer, client);
        let flow = flow.ok_or_else(|| Error::new(ErrorKind::NotFound, "NOT_FOUND", "Nobody signs in there"))?;
        let random = || {
            let mut bytes = [0; 32];
            self.entropy.fill(&mut bytes);
            BASE64URL_NOPAD.encode(&bytes)
        };
        let pending = Pending {
            issuer: issuer.to_owned(),
            client: client.to_owned(),
            redirect_uri,
            state: random(),
            nonce: random(),
            verifier: random(),
            return_to: return_path(return_to).to_owned(),
            ends_at: self.clock.wall().saturating_add(SIGN_IN_TIMEOUT),
        };
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(pending.verifier.as_bytes()));
        let start = SignInStart {
            redirect_uri: &pending.redirect_uri,
            state: &pending.state,
            nonce: &pending.nonce,
            challenge: &challenge,
        };
        let url = flow.start(start, context.deadline).await.ok_or_else(|| unreachable(issuer, "no endpoints"))?;
        let text = serde_json::to_vec(&pending).map_err(|error| Error::internal(error.to_string()))?;
        let cookie = BASE64URL_NOPAD.encode(&self.master_keys.seal(CONTEXT, &text, &*self.entropy));
        Ok(StartedSignIn { url: url.into(), cookie })
    }

    /// Ends a sign-in at an issuer with a session. `cookie` is [`StartedSignIn::cookie`].
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED, with a sentence for the person; UNAVAILABLE while the issuer is unreachable.
    pub async fn finish_sign_in(
        &self,
        cookie: &str,
        callback: &Callback,
        context: CallContext<'_>,
    ) -> Result<FinishedSignIn> {
        let pending = self.pending(cookie).ok_or_else(|| {
            Error::forbidden("This sign-in took longer than ten minutes, or is over already. Please start again.")
        })?;
        if !bool::from(pending.state.as_bytes().ct_eq(callback.state.as_bytes())) {
            return Err(Error::forbidden("This answer belongs to another sign-in. Please start again."));
        }
        let flow = self.flow(&pending.issuer, &pending.client);
        let flow = flow.ok_or_else(|| Error::forbidden("Nobody signs in there any more."))?;
        if !callback.error.is_empty() {
            // Anybody can send this text, so repeat it only if it looks like an error code.
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            let is_plain_code = callback.error.len() <= 64 && callback.error.bytes().all(plain);
            let code = if is_plain_code { &callback.error } else { "an unknown error" };
            return Err(Error::forbidden(format!("The login did not succeed ({code}). Please try again.")));
        }
        let response = SignInResponse {
            code: &callback.code,
            issuer: &callback.issuer,
            redirect_uri: &pending.redirect_uri,
            verifier: &pending.verifier,
            nonce: &pending.nonce,
        };
        let signed_in = flow.finish(response, context.deadline).await.map_err(|error| match error {
            CodeFlowError::Unavailable(why) => unreachable(&pending.issuer, &why),
            CodeFlowError::Refused(why) => Error {
                internal: Some(why),
                ..Error::forbidden("The answer of the login could not be used. Please start again.")
            },
        })?;
        let secret = SessionSecret::new(&*self.entropy);
        let person = Person {
            issuer: pending.issuer,
            client: pending.client,
            organizations: signed_in.caller.organizations.clone(),
            token_expires_at: signed_in.expires_at,
            refresh_token: self.seal_refresh_token(&secret.row(), &signed_in.refresh_token),
        };
        let owner = SessionOwner::Person(person);
        let new = self.begin_as(secret, signed_in.caller.actor.clone(), owner, context).await?;
        let caller = Caller::Session(Arc::new(signed_in.caller));
        self.trail.record_sign_in(&caller, "oidc", context.client);
        Ok(FinishedSignIn { new, return_to: pending.return_to })
    }

    /// Encrypts a refresh token for its session's row; empty if there is none.
    pub(super) fn seal_refresh_token(&self, row: &SessionId, token: &str) -> Vec<u8> {
        if token.is_empty() {
            return Vec::new();
        }
        self.master_keys.seal(&[b"refresh", &row.0], token.as_bytes(), &*self.entropy)
    }

    fn pending(&self, cookie: &str) -> Option<Pending> {
        let sealed = BASE64URL_NOPAD.decode(cookie.as_bytes()).ok()?;
        let pending: Pending = serde_json::from_slice(&self.master_keys.open(CONTEXT, &sealed)?).ok()?;
        (self.clock.wall() < pending.ends_at).then_some(pending)
    }
}

fn unreachable(issuer: &str, why: &str) -> Error {
    let message = "The login cannot be reached right now. Signing in with a key works.";
    Error { message: message.into(), ..Error::unavailable(format!("{issuer}: {why}")) }
}
