//! `envoy.service.auth.v3.Authorization`.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    domain::{
        access,
        error::{Error, ErrorKind, Result},
        keyspace::AllowedKeyspaces,
    },
    proto::envoy::service::auth::v3::{CheckRequest, CheckResponse, authorization_server::Authorization},
    transport::{
        grpc::{
            api::GrpcApi,
            ext_authz::{CheckedRequest, respond},
            metadata::{self, Credential},
        },
        peer::Peer,
        request_id::{self, REQUEST_ID},
    },
};

#[tonic::async_trait]
impl Authorization for GrpcApi {
    async fn check(&self, request: Request<CheckRequest>) -> std::result::Result<Response<CheckResponse>, Status> {
        let arrived = Instant::now();
        let peer = metadata::peer(request.extensions());
        let deadline = metadata::deadline(request.metadata().as_ref(), arrived);
        let allowed = authorize(self, request.metadata(), peer, deadline).await;
        let allowed = allowed.map_err(|error| self.verify_error("check", peer, arrived, error))?;
        let checked = CheckedRequest::of(request.get_ref());
        let request_id = request_id::choose(checked.header(REQUEST_ID), &self.service);
        let decision = self.service.gateways.decide(&checked.request(&request_id), allowed.as_deref(), deadline).await;
        Ok(Response::new(respond(&decision, &checked, request_id)))
    }
}

/// The keyspaces whose keys the caller may verify.
///
/// # Errors
///
/// UNAUTHENTICATED for every caller that is no gateway; UNAVAILABLE.
async fn authorize(
    api: &GrpcApi,
    metadata: &MetadataMap,
    peer: Option<&Peer>,
    deadline: Instant,
) -> Result<Option<Arc<AllowedKeyspaces>>> {
    let authorized = match Credential::of(metadata.as_ref(), peer)? {
        Credential::Secret(secret) => api.service.auth.authorize_verify(secret, deadline).await,
        Credential::Certificate(caller) => access::may_verify(caller),
    };
    authorized.map_err(|error| match error.kind {
        ErrorKind::PermissionDenied => Error { kind: ErrorKind::Unauthenticated, ..error },
        _ => error,
    })
}
