//! The application behind the gRPC services, and what every call has in common: authentication, the log line, and the
//! status of an error.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Extensions, Response, Status, metadata::MetadataMap};

use super::metadata::{self, Credential};
use crate::{
    domain::{
        caller::Caller,
        error::{Error, ErrorKind, Result},
    },
    service::{CallContext, Services, authenticate::AuthMode},
    transport::{
        call_log::{self, CallRecord},
        peer::Peer,
        status,
    },
};

/// Calls that are logged only if their caller is refused.
const VERIFY_CALLS: [&str; 4] = ["verify", "verify_stream", "attach", "check"];

/// Implements every gRPC service of Keyward. Handlers hold no logic: they convert, call the application and convert back.
#[derive(Clone)]
pub(crate) struct GrpcApi {
    pub(crate) service: Arc<Services>,
}

impl GrpcApi {
    /// Serves the use cases of `service`.
    pub(crate) fn new(service: Arc<Services>) -> Self {
        Self { service }
    }

    /// Authenticates a management call, runs it, and writes its log line.
    pub(crate) async fn manage<T>(
        &self,
        call: &'static str,
        metadata: &MetadataMap,
        extensions: &Extensions,
        act: impl AsyncFnOnce(&Caller, CallContext<'_>, &mut CallRecord<'_>) -> Result<T>,
    ) -> std::result::Result<Response<T>, Status> {
        self.manage_key(call, None, metadata, extensions, act).await
    }

    /// Like [`Self::manage`]. `revoked_key` is the id of the key that the call revokes, if it revokes one: the key itself
    /// may repeat its own revocation although it is revoked already.
    pub(crate) async fn manage_key<T>(
        &self,
        call: &'static str,
        revoked_key: Option<&str>,
        metadata: &MetadataMap,
        extensions: &Extensions,
        act: impl AsyncFnOnce(&Caller, CallContext<'_>, &mut CallRecord<'_>) -> Result<T>,
    ) -> std::result::Result<Response<T>, Status> {
        let start = Instant::now();
        let context =
            CallContext { deadline: metadata::deadline(metadata.as_ref(), start), host_environment: "", client: None };
        let peer = metadata::peer(extensions);
        let client = peer.map(|peer| peer.address);
        let mut record = CallRecord { transport: "grpc", client, ..CallRecord::default() };
        let result = async {
            let caller = match Credential::of(metadata.as_ref(), peer)? {
                Credential::Secret(secret) => match revoked_key {
                    Some(id) => {
                        self.service
                            .auth
                            .authenticate_to_revoke(secret, id, AuthMode::WithoutLimit, context)
                            .await?
                            .caller
                    }
                    None => self.service.auth.authenticate_any(secret, AuthMode::WithoutLimit, context).await?.caller,
                },
                Credential::Certificate(caller) => caller.clone(),
            };
            record.caller = caller.kind();
            record.actor = caller.actor();
            let done = act(&caller, context, &mut record).await;
            done.inspect_err(|error| self.service.trail.record_denial(&caller, call, error))
        }
        .await;
        let result = result.map_err(|error| self.count_failure(peer, error));
        call_log::record(&self.service, call, &record, result.as_ref().err(), start.elapsed());
        result.map(Response::new).map_err(|error| status::grpc(&error))
    }

    /// The status of a Verify or VerifyStream call that has no verdict. Verify calls are not logged, except those of a
    /// caller that was refused.
    pub(crate) fn verify_error(
        &self,
        call: &'static str,
        peer: Option<&Peer>,
        arrived: Instant,
        error: Error,
    ) -> Status {
        status::grpc(&self.note_verify_error(call, peer, arrived, error))
    }

    /// Counts and logs a call that is refused before its message was read. Returns the error that the client sees.
    pub(crate) fn refuse(&self, call: &'static str, peer: &Peer, arrived: Instant, error: Error) -> Error {
        if VERIFY_CALLS.contains(&call) {
            return self.note_verify_error(call, Some(peer), arrived, error);
        }
        let error = self.count_failure(Some(peer), error);
        let record = CallRecord { transport: "grpc", client: Some(peer.address), ..CallRecord::default() };
        call_log::record(&self.service, call, &record, Some(&error), arrived.elapsed());
        error
    }

    fn note_verify_error(&self, call: &'static str, peer: Option<&Peer>, arrived: Instant, error: Error) -> Error {
        let error = self.count_failure(peer, error);
        if matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::ResourceExhausted)
        {
            // The caller's name is unknown here; the log line has only the id of the key whose secret was presented.
            let client = peer.map(|peer| peer.address);
            let record = CallRecord { transport: "grpc", client, ..CallRecord::default() };
            call_log::record(&self.service, call, &record, Some(&error), arrived.elapsed());
        }
        error
    }

    /// Counts a failed authentication against the client's address and its connection, and returns the error that the
    /// client sees.
    fn count_failure(&self, peer: Option<&Peer>, error: Error) -> Error {
        let Some(peer) = peer else { return error };
        if error.refuses_credential() {
            peer.refused();
        }
        self.service.auth.note_failure(peer.address, error)
    }
}
