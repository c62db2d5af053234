//! gRPC: `keyward.v1.KeyService`. Handlers hold no logic: they convert, call the service and convert back.

mod connection;
pub mod convert;
pub mod server;
mod stream;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    calls::{self, Line, bearer},
    status,
};
use crate::{
    domain::{
        caller::Caller,
        error::{Error, Kind, Result},
    },
    proto::{self, key_service_server::KeyService},
    service::{Context, Service, authenticate::Admission, keys::Hook},
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
        act: impl AsyncFnOnce(&Caller, Context<'_>, &mut Line<'_>) -> Result<T>,
    ) -> std::result::Result<Response<T>, Status> {
        let start = Instant::now();
        let context = Context { deadline: deadline(metadata, start), host_environment: "", client: None };
        let mut line = Line { transport: "grpc", ..Line::default() };
        let result = async {
            let credential = credential(metadata)?;
            let caller = self.service.authenticate(credential, Admission::Free, context).await?.caller;
            line.caller = caller.kind();
            line.actor = caller.actor();
            act(&caller, context, &mut line).await
        }
        .await;
        calls::record(&self.service, call, &line, result.as_ref().err(), start.elapsed());
        result.map(Response::new).map_err(|error| status::grpc(&error))
    }
}

/// The caller's credential. gRPC has no anonymous caller.
fn credential(metadata: &MetadataMap) -> Result<&str> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else { return Err(Error::missing_credential()) };
    if values.next().is_some() {
        return Err(Error::invalid("authorization", "must be given once"));
    }
    match value.to_str() {
        Ok(text) => bearer(text).ok_or_else(Error::missing_credential),
        Err(_) => Err(Error::new(Kind::Unauthenticated, "MALFORMED", "Invalid or expired API key")),
    }
}

fn deadline(metadata: &MetadataMap, arrived: Instant) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    calls::deadline_after(arrived, timeout)
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
        let (metadata, _, message) = request.into_parts();
        self.manage("create", &metadata, async |caller, context, line| {
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
        let (metadata, _, message) = request.into_parts();
        self.manage("list", &metadata, async |caller, context, _| {
            let page = self.service.list(caller, convert::list(message)?, context).await?;
            Ok(convert::page(page, self.service.now()))
        })
        .await
    }

    async fn revoke(
        &self,
        request: Request<proto::RevokeRequest>,
    ) -> std::result::Result<Response<proto::RevokeResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.manage("revoke", &metadata, async |caller, context, line| {
            let key = self.service.revoke(caller, &message.id, message.reason, context).await?;
            line.key = key.id.to_string();
            Ok(proto::RevokeResponse { key: Some(convert::key(key, self.service.now())) })
        })
        .await
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> std::result::Result<Response<proto::VerifyResponse>, Status> {
        let outcome = async {
            let arrived = Instant::now();
            let deadline = || deadline(request.metadata(), arrived);
            self.service.verify_for(credential(request.metadata())?, &convert::check(request.get_ref()), deadline).await
        }
        .await;
        match outcome {
            Ok(outcome) => Ok(Response::new(convert::verdict(&outcome, &self.service.registry))),
            Err(error) => Err(status::grpc(&error)),
        }
    }

    type VerifyStreamStream = stream::Verdicts;

    async fn verify_stream(
        &self,
        request: Request<Streaming<proto::VerifyStreamRequest>>,
    ) -> std::result::Result<Response<stream::Verdicts>, Status> {
        let credential = credential(request.metadata()).map_err(|error| status::grpc(&error))?;
        let deadline = calls::deadline(None);
        let admitted = self.service.authenticate_verifier(credential, deadline).await;
        admitted.map_err(|error| status::grpc(&error))?;
        let credential = Arc::new(crate::domain::secret::Secret::new(credential.to_owned()));
        Ok(Response::new(stream::Verdicts::new(Arc::clone(&self.service), credential, request.into_inner())))
    }

    async fn update_webhook(
        &self,
        request: Request<proto::UpdateWebhookRequest>,
    ) -> std::result::Result<Response<proto::UpdateWebhookResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.manage("update_webhook", &metadata, async |caller, context, line| {
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
