//! The service's REST API, with the credential of the environment.

use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{
    environment::Environment,
    failure::{Failure, Result},
    http::{Call, Http, Repeat, Reply},
    session,
    text::escape,
};

/// What authenticates a request.
enum Credential {
    /// A key, and whether it is sent in `X-API-Key`. The program tries the other header if the service refuses the
    /// first.
    Key { key: String, own_header: bool },
    /// The ID token of a session, and whether it was refreshed for this command.
    Session { token: String, refreshed: bool },
}

/// The REST API.
pub struct Api<'a> {
    environment: &'a Environment,
    pub http: Http,
    base: Url,
    credential: Credential,
}

/// A refusal of the service.
pub struct Refusal {
    pub status: StatusCode,
    /// The machine-readable code, such as `revocation_pending`.
    pub code: String,
    /// The sentence.
    pub message: String,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let message = escape(&refusal.message);
        match refusal.status {
            StatusCode::UNAUTHORIZED => Self::not_signed_in(message),
            _ => Self::new(message),
        }
    }
}

/// The client of a command.
///
/// # Errors
///
/// The system's certificates cannot be read.
pub fn http(environment: &Environment) -> Result<Http> {
    let agent = format!("{}-cli/{}", environment.product.name, env!("CARGO_PKG_VERSION"));
    Http::new(&agent, environment.timeout())
}

impl<'a> Api<'a> {
    /// The API with the key of the environment, or else with the stored session.
    ///
    /// # Errors
    ///
    /// There is neither.
    pub async fn connect(environment: &'a Environment) -> Result<Self> {
        let (http, base) = (http(environment)?, environment.url()?);
        let credential = match environment.api_key() {
            Some(key) => Credential::Key { key, own_header: false },
            None => {
                Credential::Session { token: session::id_token(environment, &http, &base).await?, refreshed: false }
            }
        };
        Ok(Self { environment, http, base, credential })
    }

    /// The API with a token that is not stored yet.
    pub fn with_token(environment: &'a Environment, http: Http, base: Url, token: &str) -> Self {
        Self { environment, http, base, credential: Credential::Session { token: token.to_owned(), refreshed: true } }
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// The refusal, or no response.
    pub async fn get(&mut self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        self.call(Method::GET, path, query, None, Repeat::Safe).await?.map_err(|refusal| self.explain(refusal))
    }

    /// Changes something in a way that must not happen twice.
    ///
    /// # Errors
    ///
    /// The refusal, or no response.
    pub async fn change(
        &mut self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Value> {
        let answer = self.call(method, path, query, Some(body), Repeat::OnlyIfRefused).await?;
        answer.map_err(|refusal| self.explain(refusal))
    }

    /// Sends a request and reads the answer; the inner error is a refusal.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub async fn call(
        &mut self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
        repeat: Repeat,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let filled: Vec<_> = query.iter().filter(|(_, value)| !value.is_empty()).collect();
        if !filled.is_empty() {
            url.query_pairs_mut().extend_pairs(filled.iter().map(|(name, value)| (name, value)));
        }
        let body = body.map(|body| ("application/json", body.to_string()));
        loop {
            let call =
                Call { method: method.clone(), url: url.clone(), headers: self.headers()?, body: body.clone(), repeat };
            let reply = self.http.send(&call).await?;
            if reply.status.is_success() {
                let value = serde_json::from_slice(&reply.body);
                return value.map(Ok).map_err(|_| self.no_service(reply.status));
            }
            let refusal = self.refusal(&reply)?;
            if !self.other_credential(&refusal).await? {
                return Ok(Err(refusal));
            }
        }
    }

    /// Whether to repeat the request with another form of the credential. This is safe, because a request that fails
    /// authentication has no effect.
    async fn other_credential(&mut self, refusal: &Refusal) -> Result<bool> {
        match &mut self.credential {
            Credential::Key { own_header, .. } if refusal.code == "missing_credential" && !*own_header => {
                *own_header = true;
                Ok(true)
            }
            Credential::Session { token, refreshed } if refusal.code == "expired" && !*refreshed => {
                *token = session::refresh(self.environment, &self.http, Some(token)).await?;
                *refreshed = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A refusal with what the person can do about it.
    pub fn explain(&self, refusal: Refusal) -> Failure {
        let product = &self.environment.product;
        let unnamed = refusal.status == StatusCode::BAD_REQUEST && refusal.message.starts_with("orgId: must be named");
        let unauthenticated = refusal.status == StatusCode::UNAUTHORIZED;
        let failure = Failure::from(refusal);
        match &self.credential {
            _ if unnamed => failure.hint(format_args!("Choose one with: {} orgs select, or give --org.", product.name)),
            Credential::Key { .. } if unauthenticated => {
                failure.hint(format_args!("The key is that of {}.", product.variable("API_KEY")))
            }
            Credential::Session { .. } if unauthenticated => failure.hint(self.environment.sign_in_hint()),
            _ => failure,
        }
    }

    fn headers(&self) -> Result<HeaderMap> {
        let (name, value) = match &self.credential {
            Credential::Key { key, own_header: true } => (HeaderName::from_static("x-api-key"), key.clone()),
            Credential::Key { key, .. } => (AUTHORIZATION, format!("Bearer {key}")),
            Credential::Session { token, .. } => (AUTHORIZATION, format!("Bearer {token}")),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| Failure::not_signed_in("the credential has characters that no credential has"))?;
        value.set_sensitive(true);
        Ok(HeaderMap::from_iter([(name, value)]))
    }

    fn refusal(&self, reply: &Reply) -> Result<Refusal> {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        match (body["code"].as_str(), body["message"].as_str()) {
            (Some(code), Some(message)) => {
                let again = reply.retry_after.filter(|_| reply.status == StatusCode::TOO_MANY_REQUESTS);
                let again = again.map(|wait| format!("; try again in {} s", wait.as_secs())).unwrap_or_default();
                Ok(Refusal { status: reply.status, code: code.to_owned(), message: format!("{message}{again}") })
            }
            _ => Err(self.no_service(reply.status)),
        }
    }

    fn no_service(&self, status: StatusCode) -> Failure {
        Failure::new(format_args!(
            "{} is no {} service: it answers {status}",
            self.base,
            self.environment.product.title()
        ))
    }
}
