//! A single Verify that the fast path could not answer.

use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap};

use super::super::{
    api::GrpcApi,
    convert,
    metadata::{self, Credential},
};
use crate::{
    domain::access,
    proto,
    service::verify::{Outcome, Waiting},
    transport::peer::Peer,
};

/// Verifies the secret of `message` for the caller that `metadata` and `peer` identify. `pending` is the state of a check
/// that the fast path began: its caller is authenticated already.
///
/// # Errors
///
/// The status of a call that has no verdict.
pub(crate) async fn verify(
    api: &GrpcApi,
    metadata: &MetadataMap,
    peer: Option<&Peer>,
    message: &proto::VerifyRequest,
    pending: Option<Waiting>,
) -> Result<Outcome, Status> {
    let arrived = Instant::now();
    let outcome = async {
        let deadline = metadata::deadline(metadata, arrived);
        let check = convert::check(message);
        if let Some(pending) = pending {
            return api.service.verify_waiting(pending, &check, deadline).await;
        }
        match Credential::of(metadata, peer)? {
            Credential::Secret(secret) => api.service.verify_for(secret, &check, deadline).await,
            Credential::Certificate(caller) => {
                let allowed_keyspaces = access::may_verify(caller)?;
                api.service.verify(&check.within(allowed_keyspaces.as_deref()), deadline).await
            }
        }
    }
    .await;
    outcome.map_err(|error| api.verify_error("verify", peer, arrived, error))
}
