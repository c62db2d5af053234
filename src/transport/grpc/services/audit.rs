//! `keyward.v1.AuditService`.

use tonic::{Request, Response, Status};

use crate::{
    domain::{
        error::{Error, Result},
        event::Event,
        key::Binding,
    },
    proto::{self, audit_service_server::AuditService, list_deliveries_request::Subject},
    service::audit::{Delivery, DeliveryState, DeliverySubject, ListEvents},
    transport::grpc::{api::GrpcApi, convert},
};

#[tonic::async_trait]
impl AuditService for GrpcApi {
    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> std::result::Result<Response<proto::ListEventsResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("list_events", &metadata, &extensions, async |caller, context, _| {
            let page = self.service.audit.list_events(caller, list_events(message)?, context).await?;
            Ok(proto::ListEventsResponse {
                events: page.events.into_iter().map(event).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
        .await
    }

    async fn list_deliveries(
        &self,
        request: Request<proto::ListDeliveriesRequest>,
    ) -> std::result::Result<Response<proto::ListDeliveriesResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("list_deliveries", &metadata, &extensions, async |caller, context, _| {
            let subject = match message.subject {
                Some(Subject::EventId(id)) => DeliverySubject::Event(id),
                Some(Subject::KeyId(id)) => DeliverySubject::Key(id),
                None => return Err(Error::invalid("event_id", "or key_id must be given")),
            };
            let size = convert::page_size(message.page_size);
            let page = self.service.audit.list_deliveries(caller, &subject, size, &message.page_token, context).await?;
            Ok(proto::ListDeliveriesResponse {
                deliveries: page.deliveries.into_iter().map(delivery).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
        .await
    }

    async fn redeliver(
        &self,
        request: Request<proto::RedeliverRequest>,
    ) -> std::result::Result<Response<proto::RedeliverResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.manage("redeliver", &metadata, &extensions, async |caller, context, record| {
            let delivery = self.service.audit.redeliver(caller, &message.event_id, context).await?;
            record.key = delivery.key.to_string();
            Ok(proto::RedeliverResponse { delivery: Some(self::delivery(delivery)) })
        })
        .await
    }
}

fn list_events(message: proto::ListEventsRequest) -> Result<ListEvents> {
    let time =
        |field, at: Option<prost_types::Timestamp>| at.map(|at| convert::time(field, at.seconds, at.nanos)).transpose();
    Ok(ListEvents {
        keyspace: message.keyspace,
        binding: Binding {
            organization: message.organization,
            instance: message.instance,
            environment: message.environment,
        },
        key: message.key_id,
        kind: message.r#type,
        actor: message.actor,
        start: time("start_time", message.start_time)?,
        end: time("end_time", message.end_time)?,
        page_size: convert::page_size(message.page_size),
        page_token: message.page_token,
    })
}

fn event(event: Event) -> proto::Event {
    let at = event.id.at();
    proto::Event {
        id: event.id.to_string(),
        r#type: event.kind.name().to_owned(),
        create_time: Some(convert::timestamp(at)),
        actor: event.actor,
        key: event.key.map(|key| convert::key(key, at)),
        details: event.details.into_iter().collect(),
    }
}

fn delivery(delivery: Delivery) -> proto::Delivery {
    let state = match delivery.state {
        DeliveryState::Pending => proto::DeliveryState::Pending,
        DeliveryState::Delivered => proto::DeliveryState::Delivered,
        DeliveryState::Failed => proto::DeliveryState::Failed,
    };
    proto::Delivery {
        event_id: delivery.event.to_string(),
        key_id: delivery.key.to_string(),
        host: delivery.host,
        state: state.into(),
        attempts: delivery.attempts,
        next_attempt_time: (delivery.state == DeliveryState::Pending)
            .then(|| convert::timestamp(delivery.next_attempt_at)),
        last_attempt_time: delivery.attempted_at.map(convert::timestamp),
        settle_time: delivery.settled_at.map(convert::timestamp),
        last_status: delivery.last_status.and_then(|status| i32::try_from(status).ok()).unwrap_or(0),
        last_error: delivery.last_error,
        last_response: delivery.last_response,
    }
}
