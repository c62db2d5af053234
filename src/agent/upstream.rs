//! Calls to replicas, with the credential and within the deadline of the caller.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use http::uri::PathAndQuery;
use keyward_client::{Client, Connection};
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status, Streaming, client::Grpc};
use tonic_prost::ProstCodec;

use super::caller::Caller;
use crate::{domain::error::Error, transport::status};

/// A call that fails this shortly before its deadline counts as late: the timer of the client's own library may fire
/// a moment before the one here.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The replicas.
pub(super) struct Upstream {
    /// Calls with the agent's own credential.
    own: Client,
    /// Calls of other callers, on whose connection a call was authenticated before.
    authenticated: Client,
    /// Calls of all others. A replica closes a connection on which too many credentials are refused in a
    /// row: that must not be one that other callers wait for.
    unauthenticated: Client,
}

/// A message of a call.
pub(super) trait GrpcMessage: Message + Default + Clone + Send + Sync + 'static {}

impl<M: Message + Default + Clone + Send + Sync + 'static> GrpcMessage for M {}

impl Upstream {
    pub(super) fn new(own: Client, authenticated: Client, unauthenticated: Client) -> Self {
        Self { own, authenticated, unauthenticated }
    }

    fn client(&self, caller: Caller<'_>, authenticated: bool) -> &Client {
        match caller {
            Caller::Own => &self.own,
            Caller::Secret(_) if authenticated => &self.authenticated,
            Caller::Secret(_) => &self.unauthenticated,
        }
    }

    /// Makes a call of one message. `authenticated`: the caller was authenticated before on its connection.
    ///
    /// # Errors
    ///
    /// The replica's own status, as it is; UNAVAILABLE if none can be reached; DEADLINE_EXCEEDED.
    pub(super) async fn unary<M: GrpcMessage, R: GrpcMessage>(
        &self,
        path: &'static str,
        (caller, authenticated): (Caller<'_>, bool),
        message: &M,
        deadline: Instant,
    ) -> Result<R, Status> {
        let client = self.client(caller, authenticated);
        let mut last = None;
        // A replica may end a connection at any time, such as one of callers that are not authenticated: the call is
        // then made on a new one.
        for _ in 0..client.addresses().max(2) {
            let connection = client.connection();
            let mut grpc = Grpc::new(connection.service());
            let mut request = Request::new(message.clone());
            caller.authorize(&mut request).map_err(|error| status::grpc(&error))?;
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let call = async {
                grpc.ready().await.map_err(|error| unreachable(error.into()))?;
                grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
            };
            match attempt(&connection, deadline, call).await {
                Attempt::Answered(response) => return Ok(response.into_inner()),
                Attempt::Refused(status) => return Err(status),
                Attempt::Failed(status) => last = Some(status),
            }
        }
        Err(last.unwrap_or_else(|| status::grpc(&Error::unavailable("no address"))))
    }

    /// Opens a stream of messages to a replica, and one back.
    ///
    /// # Errors
    ///
    /// Those of [`Self::unary`].
    pub(super) async fn stream<M: GrpcMessage, R: GrpcMessage>(
        &self,
        path: &'static str,
        (caller, authenticated): (Caller<'_>, bool),
        messages: impl Stream<Item = M> + Send + 'static,
        deadline: Instant,
    ) -> Result<Streaming<R>, Status> {
        let connection = self.client(caller, authenticated).connection();
        let mut grpc = Grpc::new(connection.service());
        let mut request = Request::new(messages);
        caller.authorize(&mut request).map_err(|error| status::grpc(&error))?;
        let call = async {
            grpc.ready().await.map_err(|error| unreachable(error.into()))?;
            grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
        };
        match attempt(&connection, deadline, call).await {
            Attempt::Answered(response) => Ok(response.into_inner()),
            Attempt::Refused(status) | Attempt::Failed(status) => Err(status),
        }
    }
}

enum Attempt<T> {
    Answered(Response<T>),
    /// A replica answered with this status, or the deadline passed.
    Refused(Status),
    /// Another address may answer.
    Failed(Status),
}

async fn attempt<T>(
    connection: &Connection,
    deadline: Instant,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Attempt<T> {
    let too_late = || Attempt::Refused(status::grpc(&Error::deadline_exceeded()));
    match timeout_at(deadline, call).await {
        Err(_) => too_late(),
        Ok(Ok(response)) => Attempt::Answered(response),
        Ok(Err(_)) if Instant::now() + TIMER_SLACK >= deadline => too_late(),
        Ok(Err(status)) if connection.note_failure(&status) => Attempt::Failed(relayed(&status)),
        Ok(Err(status)) => Attempt::Refused(relayed(&status)),
    }
}

/// The status of a call that could not be sent.
fn unreachable(error: Box<dyn std::error::Error + Send + Sync>) -> Status {
    let mut status = Status::unavailable("the replica cannot be reached");
    status.set_source(Arc::from(error));
    status
}

/// The status that the caller gets: a replica's own is passed on unchanged, and the error of a connection is replaced,
/// because it names hosts.
pub(super) fn relayed(status: &Status) -> Status {
    if std::error::Error::source(status).is_some() {
        return status::grpc(&Error::unavailable(status.message().to_owned()));
    }
    Status::with_details(status.code(), status.message(), status.details().to_vec().into())
}

/// Whether a replica has refused the caller's credential.
pub(super) fn refuses_credential(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
}
