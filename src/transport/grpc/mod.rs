//! gRPC: `keyward.v1.KeyService`. Handlers hold no logic: they convert, call the service and convert back.

mod audit;
pub mod codec;
mod connection;
pub mod convert;
mod encode;
mod exchange;
mod http2;
mod pace;
mod recall;
pub mod server;
pub mod starting;
mod stream;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    bearer::bearer,
    call_log::{self, CallRecord},
    deadline,
    peer::Peer,
    status,
};
use crate::{
    domain::{
        access,
        caller::Caller,
        error::{Error, ErrorKind, Result},
        secret::Secret,
    },
    limiter::Subject,
    proto::{self, key_service_server::KeyService},
    service::{
        Context, Service,
        authenticate::Admission,
        keys::Hook,
        verify::{Outcome, Waiting},
    },
};

/// The largest message that is taken.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// The service behind `keyward.v1.KeyService`.
#[derive(Clone)]
pub struct Grpc {
    service: Arc<Service>,
}

impl Grpc {
    /// Serves these use cases.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Authenticates a management call, makes it, and writes its line.
    async fn manage<T>(
        &self,
        call: &'static str,
        metadata: &MetadataMap,
        extensions: &Extensions,
        act: impl AsyncFnOnce(&Caller, Context<'_>, &mut CallRecord<'_>) -> Result<T>,
    ) -> std::result::Result<Response<T>, Status> {
        self.manage_key(call, None, metadata, extensions, act).await
    }

    /// The same for a call that revokes a key: its own holder may repeat that.
    async fn manage_key<T>(
        &self,
        call: &'static str,
        revokes: Option<&str>,
        metadata: &MetadataMap,
        extensions: &Extensions,
        act: impl AsyncFnOnce(&Caller, Context<'_>, &mut CallRecord<'_>) -> Result<T>,
    ) -> std::result::Result<Response<T>, Status> {
        let start = Instant::now();
        let context = Context { deadline: deadline(metadata, start), host_environment: "", client: None };
        let peer = peer(extensions);
        let client = peer.map(|peer| peer.address);
        let mut line = CallRecord { transport: "grpc", client, ..CallRecord::default() };
        let result = async {
            let caller = match presented(metadata, peer)? {
                Presented::Secret(secret) => match revokes {
                    Some(id) => self.service.authenticate_to_revoke(secret, id, Admission::Free, context).await?.caller,
                    None => self.service.authenticate_any(secret, Admission::Free, context).await?.caller,
                },
                Presented::Certificate(caller) => caller.clone(),
            };
            line.caller = caller.kind();
            line.actor = caller.actor();
            act(&caller, context, &mut line).await
        }
        .await;
        let result = result.map_err(|error| self.refused(client, error));
        call_log::record(&self.service, call, &line, result.as_ref().err(), start.elapsed());
        result.map(Response::new).map_err(|error| status::grpc(&error))
    }

    /// What a client at this address hears of an error.
    fn refused(&self, peer: Option<IpAddr>, error: Error) -> Error {
        match peer {
            Some(peer) => self.service.refused(Subject::address(peer), error),
            None => error,
        }
    }

    /// The verdict that a lone check asks for, or what its client hears instead. `waiting` is where it stopped that was
    /// begun already.
    async fn check(
        &self,
        metadata: &MetadataMap,
        peer: Option<&Peer>,
        message: &proto::VerifyRequest,
        waiting: Option<Waiting>,
    ) -> std::result::Result<Outcome, Status> {
        let arrived = Instant::now();
        let outcome = async {
            let deadline = deadline(metadata, arrived);
            let check = convert::check(message);
            if let Some(waiting) = waiting {
                return self.service.verify_waiting(waiting, &check, deadline).await;
            }
            match presented(metadata, peer)? {
                Presented::Secret(secret) => self.service.verify_for(secret, &check, deadline).await,
                Presented::Certificate(caller) => {
                    let allowed_keyspaces = access::may_verify(caller)?;
                    self.service.verify(&check.within(allowed_keyspaces.as_deref()), deadline).await
                }
            }
        }
        .await;
        outcome.map_err(|error| self.unchecked("verify", peer, arrived, error))
    }

    /// What a client hears of a check that was not made. A caller that may not check leaves a line, though checks do not.
    fn unchecked(&self, call: &'static str, peer: Option<&Peer>, arrived: Instant, error: Error) -> Status {
        let error = self.refused(peer.map(|peer| peer.address), error);
        if matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::ResourceExhausted)
        {
            // Only the key whose secret it has is known of who was refused.
            let line = CallRecord { transport: "grpc", client: peer.map(|peer| peer.address), ..CallRecord::default() };
            call_log::record(&self.service, call, &line, Some(&error), arrived.elapsed());
        }
        status::grpc(&error)
    }
}

/// What tells who the caller is.
enum Presented<'a> {
    /// A secret, yet to be verified.
    Secret(&'a str),
    /// A certificate, whose holder the handshake has verified.
    Certificate(&'a Caller),
}

/// Whoever is at the other end.
fn peer(extensions: &Extensions) -> Option<&Peer> {
    extensions.get::<Arc<Peer>>().map(|peer| &**peer)
}

/// What tells who the caller is: a secret goes before a certificate. gRPC has no anonymous caller.
fn presented<'a>(metadata: &'a MetadataMap, peer: Option<&'a Peer>) -> Result<Presented<'a>> {
    let certified = peer.map(|peer| peer.certified(metadata.as_ref())).transpose()?.flatten();
    match certified {
        Some(caller) => Ok(Presented::Certificate(caller)),
        None => Ok(Presented::Secret(credential(metadata.as_ref())?)),
    }
}

/// The secret that was sent.
fn credential(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Err(Error::missing_credential()) };
    if values.next().is_some() {
        return Err(Error::invalid("authorization", "must be given once"));
    }
    match value.to_str() {
        Ok(text) => bearer(text).ok_or_else(Error::missing_credential),
        Err(_) => Err(Error::new(ErrorKind::Unauthenticated, "MALFORMED", "Invalid or expired API key")),
    }
}

fn deadline(metadata: &MetadataMap, arrived: Instant) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    deadline::deadline_after(arrived, timeout)
}

/// A `grpc-timeout` value: up to 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[tonic::async_trait]
impl KeyService for Grpc {
    async fn create(
        &self,
        request: Request<proto::CreateRequest>,
    ) -> std::result::Result<Response<proto::CreateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("create", &metadata, &extensions, async |caller, context, line| {
            let created = self.service.create(caller, convert::create(message)?, context).await?;
            line.key = created.key.id.to_string();
            Ok(convert::created(created, self.service.now()))
        })
        .await
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> std::result::Result<Response<proto::ListResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("list", &metadata, &extensions, async |caller, context, _| {
            let page = self.service.list(caller, convert::list(message)?, context).await?;
            Ok(convert::page(page, self.service.now()))
        })
        .await
    }

    async fn revoke(
        &self,
        request: Request<proto::RevokeRequest>,
    ) -> std::result::Result<Response<proto::RevokeResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let proto::RevokeRequest { id, reason } = message;
        self.manage_key("revoke", Some(&id), &metadata, &extensions, async |caller, context, line| {
            let key = self.service.revoke(caller, &id, reason, context).await?;
            line.key = key.id.to_string();
            Ok(proto::RevokeResponse { key: Some(convert::key(key, self.service.now())) })
        })
        .await
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> std::result::Result<Response<proto::VerifyResponse>, Status> {
        let outcome = self.check(request.metadata(), peer(request.extensions()), request.get_ref(), None).await?;
        Ok(Response::new(convert::verdict(&outcome, &self.service.registry)))
    }

    type VerifyStreamStream = stream::Verdicts;

    async fn verify_stream(
        &self,
        request: Request<Streaming<proto::VerifyStreamRequest>>,
    ) -> std::result::Result<Response<stream::Verdicts>, Status> {
        let arrived = Instant::now();
        let peer = peer(request.extensions());
        let asker = async {
            Ok(match presented(request.metadata(), peer)? {
                Presented::Secret(secret) => {
                    self.service.authenticate_verifier(secret, deadline::deadline(None)).await?;
                    stream::Asker::Secret(Arc::new(Secret::new(secret.to_owned())))
                }
                Presented::Certificate(caller) => stream::Asker::Certificate(access::may_verify(caller)?),
            })
        };
        let refused = |error: Error| self.unchecked("verify_stream", peer, arrived, error);
        let asker = asker.await.map_err(refused)?;
        let leaving = peer.map_or_else(CancellationToken::new, |peer| peer.closing.clone());
        Ok(Response::new(stream::Verdicts::new(Arc::clone(&self.service), asker, request.into_inner(), leaving)))
    }

    async fn update_webhook(
        &self,
        request: Request<proto::UpdateWebhookRequest>,
    ) -> std::result::Result<Response<proto::UpdateWebhookResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("update_webhook", &metadata, &extensions, async |caller, context, line| {
            let hook = Hook { url: message.webhook_url, rotate_secret: message.rotate_secret };
            let hooked = self.service.update_webhook(caller, &message.id, hook, context).await?;
            line.key = hooked.key.id.to_string();
            Ok(proto::UpdateWebhookResponse {
                webhook_secret: hooked.webhook_secret.map(|secret| secret.to_string()).unwrap_or_default(),
                key: Some(convert::key(hooked.key, self.service.now())),
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "5", "5s", "123456789S", "-5S", "5 S", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
