//! Attach: one stream is one session.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};

use super::{convert, verify::messages};
use crate::{
    domain::{
        error::{Error, Result},
        key::Digest,
    },
    proto::{self, attach_request, attach_response},
    service::{
        Services,
        attach::{Attached, KeyName, Messages, ReportedUse, ToClient, VerifyRights},
    },
    transport::{deadline::deadline, status},
};

/// Renewals, look-ups and reports of one session that wait for the database. While there are this many, no further
/// message is read.
const MAX_PENDING: usize = 256;
/// How long a session whose connection is to end waits for its client to stop. The grants of clients that do not stop
/// in time stay counted.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// The messages of one session to its client.
pub(crate) struct AttachMessages {
    service: Arc<Services>,
    messages: Messages,
    /// Why the session has ended.
    end: Arc<Mutex<Option<Error>>>,
    /// Ends the session when the client has disconnected.
    _gone: DropGuard,
}

impl AttachMessages {
    /// Serves a session until its client stops or disconnects, or until `closing` is cancelled.
    pub(crate) fn serve(
        service: &Arc<Services>,
        (attached, messages): (Attached, Messages),
        inbound: Streaming<proto::AttachRequest>,
        closing: CancellationToken,
    ) -> Self {
        let (gone, end) = (CancellationToken::new(), Arc::<Mutex<Option<Error>>>::default());
        tokio::spawn({
            let (gone, end) = (gone.clone(), Arc::clone(&end));
            async move {
                let attached = Arc::new(attached);
                let ended = gone.run_until_cancelled(read(&attached, inbound, closing)).await;
                *end.lock() = ended.and_then(std::result::Result::err);
                // This ends the session, and with it the queue of its messages.
                drop(attached);
            }
        });
        Self { service: Arc::clone(service), messages, end, _gone: gone.drop_guard() }
    }

    fn message(&self, message: ToClient) -> proto::AttachResponse {
        use attach_response::Message;
        let message = match message {
            ToClient::Grant { number, length } => {
                Message::Grant(proto::AttachGrant { number, length: Some(convert::duration(length)) })
            }
            ToClient::Key { id, digest, key, watched_verdict, life } => {
                let response = |verdict| messages::response(&self.service.verify.answer(&verdict));
                let rights = key.as_ref().and_then(|verdict| self.service.attach.rights_of(verdict));
                Message::Key(proto::AttachKey {
                    id,
                    rights: rights.map(attach_rights),
                    digest: digest.0.to_vec(),
                    key: key.map(response),
                    life: life.map(convert::duration),
                    verdict: watched_verdict.map(response),
                })
            }
            ToClient::Invalidate { number, digest } => {
                Message::Invalidate(proto::AttachInvalidate { number, digest: digest.0.to_vec() })
            }
            ToClient::Clear { number } => Message::Clear(proto::AttachClear { number }),
            ToClient::Drain => Message::Going(proto::AttachGoing {}),
            ToClient::End { number } => Message::End(proto::AttachEnd { number }),
        };
        proto::AttachResponse { message: Some(message) }
    }
}

impl Stream for AttachMessages {
    type Item = std::result::Result<proto::AttachResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(self.messages.poll(cx));
        Poll::Ready(match message {
            Some(message) => Some(Ok(self.message(message))),
            None => self.end.lock().take().map(|error| Err(status::grpc(&error))),
        })
    }
}

/// Handles the messages of a client until the session is over.
async fn read(
    attached: &Arc<Attached>,
    mut inbound: Streaming<proto::AttachRequest>,
    closing: CancellationToken,
) -> Result<()> {
    let mut pending = FuturesUnordered::new();
    let drained = async {
        closing.cancelled().await;
        attached.drain();
        sleep(DRAIN_TIMEOUT).await;
    };
    tokio::pin!(drained);
    loop {
        let message = tokio::select! {
            () = &mut drained => return Err(Error::unavailable("the connection is to end")),
            Some(done) = pending.next(), if !pending.is_empty() => {
                let done: Result<()> = done;
                done?;
                continue;
            }
            message = inbound.message(), if pending.len() < MAX_PENDING => message,
        };
        // An error is the client's own, such as a message that is too large, or its connection's.
        let Ok(Some(message)) = message else { return Ok(()) };
        match message.message {
            Some(attach_request::Message::Acknowledge(done)) => attached.acknowledge(done.number)?,
            Some(attach_request::Message::Stopped(_)) => {
                attached.stopped();
                return Ok(());
            }
            Some(other) => pending.push(handle(Arc::clone(attached), other)),
            None => return Err(Error::invalid("message", "is required")),
        }
    }
}

/// Handles a message that may have to wait.
async fn handle(attached: Arc<Attached>, message: attach_request::Message) -> Result<()> {
    let deadline: Instant = deadline(None);
    match message {
        attach_request::Message::Renew(renew) => attached.renew(renew.number, deadline).await,
        attach_request::Message::LookUp(look_up) => {
            attached.look_up(look_up.id, key_name(&look_up)?, look_up.watch, deadline).await
        }
        attach_request::Message::Uses(uses) => {
            let uses: Result<Vec<_>> = uses.uses.iter().map(reported_use).collect();
            attached.uses(&uses?, deadline).await
        }
        attach_request::Message::Acknowledge(_) | attach_request::Message::Stopped(_) => Ok(()),
    }
}

fn key_name(look_up: &proto::AttachLookUp) -> Result<KeyName<'_>> {
    if look_up.digest.is_empty() {
        return Ok(KeyName::Secret(&look_up.secret));
    }
    if !look_up.secret.is_empty() {
        return Err(Error::invalid("look_up.digest", "must be empty in a look-up with a secret"));
    }
    let digest = <[u8; 32]>::try_from(&*look_up.digest);
    digest
        .map(|digest| KeyName::Digest(Digest(digest)))
        .map_err(|_| Error::invalid("look_up.digest", "must be 32 bytes"))
}

fn attach_rights(rights: VerifyRights) -> proto::AttachRights {
    match rights {
        VerifyRights::All => proto::AttachRights { all_keyspaces: true, keyspaces: Vec::new() },
        VerifyRights::Keyspaces(keyspaces) => proto::AttachRights { all_keyspaces: false, keyspaces },
    }
}

fn reported_use(reported: &proto::AttachUse) -> Result<ReportedUse> {
    let digest = <[u8; 32]>::try_from(&*reported.digest);
    let digest = digest.map_err(|_| Error::invalid("uses.digest", "must be 32 bytes"))?;
    let age = reported.age.unwrap_or_default();
    let age = age.seconds.saturating_mul(1_000_000).saturating_add(i64::from(age.nanos) / 1_000);
    Ok(ReportedUse { digest: Digest(digest), count: reported.count, age })
}
