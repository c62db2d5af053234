//! `keyward.v1.KeyService`.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use crate::{
    domain::{access, error::Error, secret::Secret},
    proto::{self, key_service_server::KeyService},
    service::{attach::AttachCaller, keys::webhook::WebhookPatch},
    transport::{
        deadline,
        grpc::{
            api::GrpcApi,
            attach::AttachMessages,
            convert,
            metadata::{self, Credential},
            verify::{
                messages,
                stream::{StreamCaller, VerdictStream},
                unary,
            },
        },
    },
};

/// Metadata of an Attach: a fingerprint of the rules by which gateways' requests are decided, apart from keys.
const GATEWAY_RULES: &str = "keyward-gateway-rules";

#[tonic::async_trait]
impl KeyService for GrpcApi {
    async fn create(&self, request: Request<proto::CreateRequest>) -> Result<Response<proto::CreateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("create", &metadata, &extensions, async |caller, context, record| {
            let created = self.service.keys.create(caller, convert::create(message)?, context).await?;
            record.key = created.key.id.to_string();
            Ok(convert::created(created, self.service.now()))
        })
        .await
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("list", &metadata, &extensions, async |caller, context, _| {
            let page = self.service.keys.list(caller, convert::list(message)?, context).await?;
            Ok(convert::page(page, self.service.now()))
        })
        .await
    }

    async fn revoke(&self, request: Request<proto::RevokeRequest>) -> Result<Response<proto::RevokeResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let proto::RevokeRequest { id, reason } = message;
        self.manage_key("revoke", Some(&id), &metadata, &extensions, async |caller, context, record| {
            let key = self.service.keys.revoke(caller, &id, reason, context).await?.key;
            record.key = key.id.to_string();
            Ok(proto::RevokeResponse { key: Some(convert::key(key, self.service.now())) })
        })
        .await
    }

    /// A Verify that the fast path did not take, such as a compressed one.
    async fn verify(&self, request: Request<proto::VerifyRequest>) -> Result<Response<proto::VerifyResponse>, Status> {
        let peer = metadata::peer(request.extensions());
        let outcome = unary::verify(self, request.metadata(), peer, (request.get_ref(), Instant::now()), None).await?;
        Ok(Response::new(messages::response(&self.service.verify.answer(&outcome))))
    }

    type VerifyStreamStream = VerdictStream;

    async fn verify_stream(
        &self,
        request: Request<Streaming<proto::VerifyStreamRequest>>,
    ) -> Result<Response<VerdictStream>, Status> {
        let arrived = Instant::now();
        let peer = metadata::peer(request.extensions());
        let caller = async {
            Ok(match Credential::of(request.metadata().as_ref(), peer)? {
                Credential::Secret(secret) => {
                    self.service.auth.authorize_verify(secret, deadline::deadline(None)).await?;
                    StreamCaller::Secret(Arc::new(Secret::new(secret.to_owned())))
                }
                Credential::Certificate(caller) => StreamCaller::Certificate(access::may_verify(caller)?),
            })
        };
        let caller = caller.await.map_err(|error: Error| self.verify_error("verify_stream", peer, arrived, error))?;
        let closing = peer.map_or_else(CancellationToken::new, |peer| peer.closing.clone());
        Ok(Response::new(VerdictStream::new(Arc::clone(&self.service), caller, request.into_inner(), closing)))
    }

    type AttachStream = AttachMessages;

    async fn attach(
        &self,
        request: Request<Streaming<proto::AttachRequest>>,
    ) -> Result<Response<AttachMessages>, Status> {
        let arrived = Instant::now();
        let peer = metadata::peer(request.extensions());
        let session = async {
            let caller = match Credential::of(request.metadata().as_ref(), peer)? {
                Credential::Secret(secret) => AttachCaller::Secret(Arc::new(Secret::new(secret.to_owned()))),
                Credential::Certificate(caller) => {
                    AttachCaller::Certificate(caller.actor(), access::may_verify(caller)?)
                }
            };
            self.service.attach.open(caller, deadline::deadline(None)).await
        };
        let session = session.await.map_err(|error: Error| self.verify_error("attach", peer, arrived, error))?;
        let closing = peer.map_or_else(CancellationToken::new, |peer| peer.closing.clone());
        let messages = AttachMessages::serve(&self.service, session, request.into_inner(), closing);
        let mut response = Response::new(messages);
        // A client that answers gateways from its memory compares this with its own.
        if let Ok(rules) = MetadataValue::try_from(self.service.gateways.config_fingerprint()) {
            response.metadata_mut().insert(GATEWAY_RULES, rules);
        }
        Ok(response)
    }

    async fn update_webhook(
        &self,
        request: Request<proto::UpdateWebhookRequest>,
    ) -> Result<Response<proto::UpdateWebhookResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("update_webhook", &metadata, &extensions, async |caller, context, record| {
            let patch = WebhookPatch { url: message.webhook_url, rotate_secret: message.rotate_secret };
            let updated = self.service.keys.update_webhook(caller, &message.id, patch, context).await?;
            record.key = updated.key.id.to_string();
            Ok(proto::UpdateWebhookResponse {
                webhook_secret: updated.webhook_secret.map(|secret| secret.to_string()).unwrap_or_default(),
                key: Some(convert::key(updated.key, self.service.now())),
            })
        })
        .await
    }
}
