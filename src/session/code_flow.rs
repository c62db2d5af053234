//! Signing in at an issuer: the authorization code flow of OpenID Connect with PKCE (RFC 7636).

use std::sync::Arc;

use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::{Url, form_urlencoded};

use super::{provider::Provider, signature::verify, token::Token};
use crate::domain::{
    clock::{Clock, Micros},
    error::ErrorKind,
    oidc::{DashboardClient, Issuer},
    session::{OrgMembership, SessionCaller},
};

/// Requests to the token endpoint at once. Anybody who began a sign-in can cause one.
const MAX_REQUESTS: usize = 16;
/// Longest refresh token that is kept.
const MAX_REFRESH_TOKEN_LEN: usize = 8 << 10;

/// The code flow at one issuer.
pub struct CodeFlow {
    /// The issuer, with the client's id as the audience of its tokens.
    rules: Issuer,
    client: DashboardClient,
    provider: Arc<Provider>,
    clock: Arc<dyn Clock>,
    requests: Semaphore,
}

/// The parameters of the redirect to the issuer.
#[derive(Debug, Clone, Copy)]
pub struct SignInStart<'a> {
    /// The redirect URI, to which the issuer sends the browser.
    pub redirect_uri: &'a str,
    /// Returned in the callback, so that a callback of another sign-in is refused.
    pub state: &'a str,
    /// Returned in the token, so that a token of another sign-in is refused.
    pub nonce: &'a str,
    /// The PKCE challenge: SHA-256 of the verifier.
    pub challenge: &'a str,
}

/// The parameters of the callback.
#[derive(Debug, Clone, Copy)]
pub struct SignInResponse<'a> {
    /// The code.
    pub code: &'a str,
    /// The issuer that the response names; empty if it names none.
    pub issuer: &'a str,
    /// [`SignInStart::redirect_uri`].
    pub redirect_uri: &'a str,
    /// The PKCE verifier.
    pub verifier: &'a str,
    /// [`SignInStart::nonce`].
    pub nonce: &'a str,
}

/// A person who signed in, from the claims of the issuer's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The person.
    pub caller: SessionCaller,
    /// When the token expires.
    pub expires_at: Micros,
    /// The refresh token; empty if the issuer gave none.
    pub refresh_token: String,
}

/// Why a code or a refresh token did not become a session. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeFlowError {
    /// The issuer is unreachable, or does not answer as it should. A retry may succeed.
    Unavailable(String),
    /// The issuer refused, or its token is invalid.
    Refused(String),
}

impl CodeFlow {
    pub(super) fn new(
        rules: &Issuer,
        client: DashboardClient,
        provider: &Arc<Provider>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let (provider, clock) = (Arc::clone(provider), Arc::clone(clock));
        Self { rules: rules.for_dashboard(&client), client, provider, clock, requests: Semaphore::new(MAX_REQUESTS) }
    }

    /// The issuer's identifier.
    pub fn issuer(&self) -> &str {
        &self.rules.issuer
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        &self.client.client_id
    }

    /// The session of a person of this issuer.
    pub fn caller(&self, actor: String, organizations: Vec<OrgMembership>) -> SessionCaller {
        let keyspaces = Arc::clone(&self.rules.keyspaces);
        SessionCaller { actor, keyspaces, organizations, name: None, expires_at: None }
    }

    /// The page that ends the issuer's own session; `None` if the configuration names none.
    pub fn logout(&self, return_to: &str) -> Option<Url> {
        self.client.logout(return_to)
    }

    /// Where to send the browser; `None` while the issuer is unreachable.
    pub async fn start(&self, start: SignInStart<'_>, deadline: Instant) -> Option<Url> {
        let endpoints = timeout_at(deadline, self.provider.endpoints()).await.ok()??;
        let mut url = endpoints.authorization.clone();
        let scope = self.client.scopes.join(" ");
        let parameters = [
            ("response_type", "code"),
            ("client_id", &self.client.client_id),
            ("redirect_uri", start.redirect_uri),
            ("scope", &scope),
            ("state", start.state),
            ("nonce", start.nonce),
            ("code_challenge", start.challenge),
            ("code_challenge_method", "S256"),
        ];
        url.query_pairs_mut().extend_pairs(parameters);
        if self.client.scopes.iter().any(|scope| scope == "offline_access") {
            // OpenID Connect Core 1.0, section 11: otherwise the scope is ignored.
            url.query_pairs_mut().append_pair("prompt", "consent");
        }
        Some(url)
    }

    /// Exchanges a code.
    ///
    /// # Errors
    ///
    /// Why there is no session.
    pub async fn finish(&self, response: SignInResponse<'_>, deadline: Instant) -> Result<SignedIn, CodeFlowError> {
        let endpoints = timeout_at(deadline, self.provider.endpoints()).await.ok().flatten();
        let endpoints = endpoints.ok_or_else(|| CodeFlowError::Unavailable("no endpoints".to_owned()))?;
        let named = if response.issuer.is_empty() { !endpoints.names_issuer } else { response.issuer == self.issuer() };
        if !named {
            return Err(CodeFlowError::Refused("the response is of another issuer".to_owned()));
        }
        let form = [
            ("grant_type", "authorization_code"),
            ("code", response.code),
            ("redirect_uri", response.redirect_uri),
            ("code_verifier", response.verifier),
        ];
        self.exchange(&form, Some(response.nonce), deadline).await
    }

    /// Exchanges a refresh token.
    ///
    /// # Errors
    ///
    /// Why the session ends, or cannot be refreshed now.
    pub async fn refresh(&self, token: &str, deadline: Instant) -> Result<SignedIn, CodeFlowError> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let mut signed_in = self.exchange(&form, None, deadline).await?;
        if signed_in.refresh_token.is_empty() {
            // RFC 6749, section 6: without a new one the old one stays valid.
            token.clone_into(&mut signed_in.refresh_token);
        }
        Ok(signed_in)
    }

    async fn exchange(
        &self,
        grant: &[(&str, &str)],
        nonce: Option<&str>,
        deadline: Instant,
    ) -> Result<SignedIn, CodeFlowError> {
        let unavailable = |why: &str| CodeFlowError::Unavailable(why.to_owned());
        let answer = timeout_at(deadline, self.post(grant)).await.map_err(|_| unavailable("no answer in time"))??;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        if !text("error").is_empty() {
            let why = format!("{}: {}", text("error").escape_debug(), text("error_description").escape_debug());
            let temporary = matches!(text("error"), "server_error" | "temporarily_unavailable");
            return Err(if temporary { CodeFlowError::Unavailable(why) } else { CodeFlowError::Refused(why) });
        }
        let refused = |why: &str| CodeFlowError::Refused(why.to_owned());
        let token = Token::parse(text("id_token")).ok_or_else(|| refused("there is no ID token that can be read"))?;
        if !self.rules.matches(&token.claims) {
            return Err(refused("the ID token is of another issuer or for another client"));
        }
        if nonce.is_some_and(|nonce| token.claims.get("nonce").and_then(Value::as_str) != Some(nonce)) {
            return Err(refused("the ID token is of another sign-in"));
        }
        let good = async {
            verify(&self.rules, &self.provider, &token, deadline).await?;
            self.rules.caller(&token.claims, self.clock.wall())
        };
        let caller = good.await.map_err(|error| match error.kind {
            ErrorKind::Unauthenticated => CodeFlowError::Refused(error.to_string()),
            _ => CodeFlowError::Unavailable(error.to_string()),
        })?;
        let refresh_token = Some(text("refresh_token")).filter(|token| token.len() <= MAX_REFRESH_TOKEN_LEN);
        Ok(SignedIn {
            caller,
            expires_at: Issuer::expiry(&token.claims),
            refresh_token: refresh_token.unwrap_or_default().to_owned(),
        })
    }

    async fn post(&self, grant: &[(&str, &str)]) -> Result<Value, CodeFlowError> {
        let endpoints = self.provider.endpoints().await;
        let endpoints = endpoints.ok_or_else(|| CodeFlowError::Unavailable("no endpoints".to_owned()))?;
        let (form, header) = self.form(grant, endpoints.secret_in_form);
        let _request = self.requests.acquire().await.map_err(|_| CodeFlowError::Unavailable("stopping".to_owned()))?;
        self.provider.post_form(&endpoints.token, form, header).await.map_err(CodeFlowError::Unavailable)
    }

    /// The form of a grant, with the client in it; or id and secret for the `Authorization` header.
    fn form(&self, grant: &[(&str, &str)], secret_in_form: bool) -> (String, Option<(&str, &str)>) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(grant);
        let id = self.client_id();
        let header = match &self.client.client_secret {
            Some(secret) if !secret_in_form => Some((id, secret.expose())),
            Some(secret) => {
                form.extend_pairs([("client_id", id), ("client_secret", secret.expose())]);
                None
            }
            None => {
                form.append_pair("client_id", id);
                None
            }
        };
        (form.finish(), header)
    }
}
