//! One request and its answer: credential, caller, headers and the log line.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, request::Parts};
use http_body_util::Full;
use tokio::time::Instant;

use super::{
    client_ip,
    credential::{self, Presented},
    csrf,
    response::{RestError, RestResponse},
};
use crate::{
    config::Http,
    domain::{
        caller::{Caller, KeyCaller},
        clock::{Entropy, Micros},
        error::{Error, Result},
        key::KeyId,
        rate_limit::RateState,
    },
    service::{
        CallContext, Services,
        authenticate::{AuthMode, Authenticated},
    },
    transport::{
        call_log::{self, CallRecord},
        deadline,
        peer::Peer,
    },
};

/// Names a request.
pub const REQUEST_ID: &str = "x-request-id";

/// One request on its way to an answer.
pub struct RequestContext<'a> {
    /// The use cases.
    pub service: &'a Arc<Services>,
    /// The shim's settings.
    pub http: &'a Http,
    /// The request without its body.
    pub parts: &'a Parts,
    peer: &'a Peer,
    /// What the service hears of the call.
    pub context: CallContext<'a>,
    /// Id of the key that the call is about, for the log.
    pub key: String,
    address: IpAddr,
    call: &'static str,
    sessions: bool,
    revokes: Option<&'a str>,
    caller: Option<Caller>,
    rate: Option<RateState>,
    request_id: String,
    start: Instant,
}

impl<'a> RequestContext<'a> {
    /// A request of a client.
    pub fn new(service: &'a Arc<Services>, http: &'a Http, parts: &'a Parts, peer: &'a Peer) -> Self {
        let client = client_ip::client_ip(peer.address, &parts.headers, &http.trusted_proxies);
        Self {
            service,
            http,
            parts,
            peer,
            context: CallContext {
                deadline: deadline::deadline(None),
                host_environment: &http.environment,
                client: Some(client),
            },
            key: String::new(),
            address: client,
            call: "",
            sessions: false,
            revokes: None,
            caller: None,
            rate: None,
            request_id: request_id(&*service.entropy, &parts.headers),
            start: Instant::now(),
        }
    }

    /// Lets sessions be callers, which no route does that does not say so.
    pub fn take_sessions(&mut self, sessions: bool) {
        self.sessions = sessions;
    }

    /// Lets the holder of the key that the call revokes repeat it.
    pub fn revoking(&mut self, id: &'a str) -> &mut Self {
        self.revokes = Some(id);
        self
    }

    /// Names the call, for the log.
    pub fn named(&mut self, call: &'static str) -> &mut Self {
        self.call = call;
        self
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> Micros {
        self.service.now()
    }

    /// The caller; nobody if there is no credential.
    pub async fn caller(&mut self, mode: AuthMode) -> Result<Caller> {
        let deadline = self.context.deadline;
        let proved = match credential::find(&self.parts.headers, self.service, self.sessions)? {
            None => {
                let certified = self.peer.certified(&self.parts.headers)?;
                Ok(Authenticated { caller: certified.cloned().unwrap_or(Caller::Anonymous), rate: None })
            }
            Some(Presented::Secret(secret)) => match self.revokes {
                Some(id) => self.service.auth.authenticate_to_revoke(&secret, id, mode, self.context).await,
                None => self.service.auth.authenticate(&secret, mode, self.context).await,
            },
            Some(Presented::Token(token)) => self.service.auth.authenticate_session(&token, None, deadline).await,
            Some(Presented::Cookie(name, token)) => {
                csrf::check(self.parts, self.peer.secure)?;
                self.service.auth.authenticate_session(&token, Some(name), deadline).await
            }
        };
        match proved {
            Ok(Authenticated { caller, rate }) => {
                self.rate = rate;
                self.caller = Some(caller.clone());
                Ok(caller)
            }
            Err(error) => {
                self.rate = error.rate;
                Err(error)
            }
        }
    }

    /// The caller, who must have a credential.
    pub async fn known_caller(&mut self) -> Result<Caller> {
        match self.caller(AuthMode::SpendLimit).await? {
            Caller::Anonymous => Err(Error::missing_credential()),
            caller => Ok(caller),
        }
    }

    /// The id of the key that makes the call: every key may read its own record.
    pub async fn own_id(&mut self) -> Result<KeyId> {
        let caller = self.known_caller().await?;
        let id = caller.key_id().ok_or_else(|| Error::forbidden("This caller is no key and has no record"))?;
        self.key = id.to_string();
        Ok(id)
    }

    /// The caller, who must be a product's key.
    pub async fn key_caller(&mut self, mode: AuthMode) -> Result<Arc<KeyCaller>> {
        match self.caller(mode).await? {
            Caller::Key(key) => {
                self.key = key.id.to_string();
                Ok(key)
            }
            Caller::Anonymous => Err(Error::missing_credential()),
            Caller::Session(_) => Err(Error::forbidden("A session is no key")),
            Caller::Operator { .. } | Caller::Service { .. } => {
                Err(Error::forbidden("Keys of operators and services cannot change themselves"))
            }
        }
    }

    /// Turns the result into a response, and writes the call's line.
    pub fn finish(self, result: std::result::Result<RestResponse, RestError>) -> Response<Full<Bytes>> {
        let result = result.map_err(|fault| match fault {
            RestError::Error(error) => RestError::Error(self.service.auth.note_failure(self.address, error)),
            other => other,
        });
        let error = result.as_ref().err().map(|fault| fault.error().into_owned());
        // Of two limits the one that refused is told.
        let rate = error.as_ref().and_then(|error| error.rate).or(self.rate);
        let mut response = match result {
            Ok(answer) => answer.into_response(),
            Err(fault) => fault.into_response(),
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::try_from(&self.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(rate) = rate {
            // Rounded up: at the moment that is told, remaining has grown.
            let reset = rate.reset_at.saturating_add(999).div_euclid(1_000);
            headers.insert("x-ratelimit-limit", HeaderValue::from(rate.limit));
            headers.insert("x-ratelimit-remaining", HeaderValue::from(rate.remaining));
            headers.insert("x-ratelimit-reset", HeaderValue::from(reset));
        }
        // Probes come every few seconds and tell nothing.
        if !self.call.is_empty() {
            let caller = self.caller.as_ref();
            let line = CallRecord {
                transport: "rest",
                caller: caller.map(Caller::kind).unwrap_or_default(),
                actor: caller.map(Caller::actor).unwrap_or_default(),
                key: self.key,
                client: Some(self.address),
                request: &self.request_id,
            };
            call_log::record(self.service, self.call, &line, error.as_ref(), self.start.elapsed());
        }
        response
    }
}

/// The incoming id where it is safe to repeat, or a new one.
pub fn request_id(entropy: &dyn Entropy, headers: &HeaderMap) -> String {
    let safe = |text: &&str| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':'))
    };
    let incoming = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(safe);
    incoming.map_or_else(
        || {
            let mut random = [0; 15];
            entropy.fill(&mut random);
            format!("req_{}", data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase())
        },
        str::to_owned,
    )
}
