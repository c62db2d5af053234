//! A single Verify that the fast path could not answer.

use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap};

use super::{
    super::{
        api::GrpcApi,
        metadata::{self, Credential},
    },
    messages,
};
use crate::{
    domain::access,
    proto,
    service::verify::{PendingVerify, Verdict, VerifyCaller},
    transport::peer::Peer,
};

/// Verifies the secret of `message` for the caller that `metadata` and `peer` identify. `pending` is the state of a check
/// that the fast path began: its caller is authenticated already. The deadline counts from `arrived`.
///
/// # Errors
///
/// The status of a call that has no verdict.
pub(crate) async fn verify(
    api: &GrpcApi,
    metadata: &MetadataMap,
    peer: Option<&Peer>,
    (message, arrived): (&proto::VerifyRequest, Instant),
    pending: Option<PendingVerify>,
) -> Result<Verdict, Status> {
    let verdict = async {
        let deadline = metadata::deadline(metadata.as_ref(), arrived);
        let check = messages::check(message);
        if let Some(pending) = pending {
            return api.service.verify.complete(pending, &check, deadline).await;
        }
        let allowed_keyspaces;
        let caller = match Credential::of(metadata.as_ref(), peer)? {
            Credential::Secret(secret) => VerifyCaller::Credential(secret),
            Credential::Certificate(caller) => {
                allowed_keyspaces = access::may_verify(caller)?;
                VerifyCaller::Authorized(allowed_keyspaces.as_ref())
            }
        };
        api.service.verify.verify(caller, &check, deadline).await
    }
    .await;
    verdict.map_err(|error| api.verify_error("verify", peer, arrived, error))
}
