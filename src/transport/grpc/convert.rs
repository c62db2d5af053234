//! Converts messages to the application's types and back.

use prost_types::{Duration, Timestamp};

use crate::{
    domain::{
        clock::{Micros, SECOND},
        error::{Error, Result},
        key::{Binding, KeyRecord, KeyStatus},
        rate_limit::RateLimit,
    },
    proto::{self, create_request},
    service::keys::{
        create::{CreateKey, Created, Expiry},
        list::{ListKeys, Page},
    },
};

/// The key to create.
pub(crate) fn create(message: proto::CreateRequest) -> Result<CreateKey> {
    let expiry = match message.expiry {
        None => Expiry::Default,
        Some(create_request::Expiry::ExpireTime(at)) => Expiry::At(time("expire_time", at.seconds, at.nanos)?),
        Some(create_request::Expiry::Ttl(ttl)) => Expiry::In(micros_of_duration("ttl", ttl.seconds, ttl.nanos)?),
    };
    let rate_limit = message.rate_limit.map(own_limit).transpose()?;
    Ok(CreateKey {
        rate_limit,
        keyspace: message.keyspace,
        binding: binding(message.organization, message.instance, message.environment),
        name: message.name,
        // In a message an empty list and an absent one are the same.
        scopes: Some(message.scopes).filter(|scopes| !scopes.is_empty()),
        expiry,
        webhook_url: message.webhook_url,
        metadata: message.metadata.into_iter().collect(),
        keyspaces: message.keyspaces,
    })
}

/// A key's own rate limit. An absent limit or window is read as zero, which validation refuses.
fn own_limit(message: proto::RateLimit) -> Result<RateLimit> {
    let window = message.window.unwrap_or_default();
    Ok(RateLimit {
        limit: message.limit,
        window: micros_of_duration("rate_limit.window", window.seconds, window.nanos)?,
    })
}

fn binding(organization: String, instance: String, environment: String) -> Binding {
    Binding { organization, instance, environment }
}

/// A timestamp. Its nanoseconds count forwards, also before the epoch.
pub(crate) fn time(field: &'static str, seconds: i64, nanos: i32) -> Result<Micros> {
    micros(field, seconds, nanos, (0..=999_999_999).contains(&nanos))
}

/// A duration. Its nanoseconds have the sign of its seconds.
fn micros_of_duration(field: &'static str, seconds: i64, nanos: i32) -> Result<Micros> {
    let agrees = seconds == 0 || nanos == 0 || (nanos < 0) == (seconds < 0);
    micros(field, seconds, nanos, agrees && (-999_999_999..=999_999_999).contains(&nanos))
}

/// Fractions of a microsecond are dropped. A value that overflows saturates: validation refuses it.
fn micros(field: &'static str, seconds: i64, nanos: i32, well_formed: bool) -> Result<Micros> {
    if !well_formed {
        return Err(Error::invalid(field, "is not a well-formed time"));
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(i64::from(nanos) / 1_000))
}

/// A time as a message.
pub(crate) fn timestamp(at: Micros) -> Timestamp {
    Timestamp { seconds: at.div_euclid(SECOND), nanos: nanos(at) }
}

fn nanos(at: Micros) -> i32 {
    i32::try_from(at.rem_euclid(SECOND) * 1_000).unwrap_or(0)
}

/// A duration as a message. It is not negative.
pub(crate) fn duration(length: Micros) -> Duration {
    Duration { seconds: length / SECOND, nanos: nanos(length) }
}

/// A key that was created.
pub(crate) fn created(created: Created, now: Micros) -> proto::CreateResponse {
    proto::CreateResponse {
        secret: created.secret.expose().to_owned(),
        webhook_secret: created.webhook_secret.map(|secret| secret.to_string()).unwrap_or_default(),
        key: Some(key(created.key, now)),
    }
}

/// A key's record.
pub(crate) fn key(key: KeyRecord, now: Micros) -> proto::Key {
    let status = match key.status(now) {
        KeyStatus::Active => proto::KeyStatus::Active,
        KeyStatus::Revoked => proto::KeyStatus::Revoked,
        KeyStatus::Expired => proto::KeyStatus::Expired,
    };
    proto::Key {
        id: key.id.to_string(),
        keyspace: key.keyspace,
        organization: key.binding.organization,
        instance: key.binding.instance,
        environment: key.binding.environment,
        name: key.name,
        prefix: key.prefix,
        scopes: key.scopes,
        status: status.into(),
        create_time: Some(timestamp(key.created_at)),
        expire_time: key.expires_at.map(timestamp),
        revoke_time: key.revoked_at.map(timestamp),
        revoke_reason: key.revoke_reason,
        last_used_time: key.last_used_at.map(timestamp),
        created_by: key.created_by,
        revoked_by: key.revoked_by,
        webhook_url: key.webhook_url,
        metadata: key.metadata.into_iter().collect(),
        rate_limit: key.rate_limit.map(|own| proto::RateLimit { limit: own.limit, window: Some(duration(own.window)) }),
        keyspaces: key.keyspaces,
    }
}

/// Which keys to list.
pub(crate) fn list(message: proto::ListRequest) -> Result<ListKeys> {
    let status = match proto::KeyStatus::try_from(message.status) {
        Ok(proto::KeyStatus::Unspecified) => None,
        Ok(proto::KeyStatus::Active) => Some(KeyStatus::Active),
        Ok(proto::KeyStatus::Revoked) => Some(KeyStatus::Revoked),
        Ok(proto::KeyStatus::Expired) => Some(KeyStatus::Expired),
        Err(_) => return Err(Error::invalid("status", "is not a status")),
    };
    Ok(ListKeys {
        created_before: None,
        keyspace: message.keyspace,
        binding: binding(message.organization, message.instance, message.environment),
        status,
        created_by: message.created_by,
        page_size: page_size(message.page_size),
        page_token: message.page_token,
    })
}

/// A negative size is read as one that is too large: validation then reports it together with all other problems.
pub(crate) fn page_size(requested: i32) -> u32 {
    u32::try_from(requested).unwrap_or(u32::MAX)
}

/// A page of keys.
pub(crate) fn page(page: Page, now: Micros) -> proto::ListResponse {
    proto::ListResponse {
        keys: page.keys.into_iter().map(|record| key(record, now)).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }
}

/// An error inside a message.
pub(crate) fn status(error: &Error) -> tonic_types::pb::Status {
    let status = crate::transport::status::grpc(error);
    // tonic keeps the details as an encoded Status message.
    prost::Message::decode(status.details()).unwrap_or_default()
}
