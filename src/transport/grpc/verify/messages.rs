//! The messages of Verify. [`decode`] and [`check`] read a `VerifyRequest`. [`frame`] and [`response`] render an answer:
//! the first as bytes, straight from the cached key, for a single Verify; the second as a message, for a stream and for
//! calls that tonic handles. A test compares the two.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::super::{codec, convert};
use crate::{
    domain::{
        rate_limit::RateState,
        verdict::{Assertions, VerdictCode},
    },
    proto,
    service::verify::{Answer, AnswerKey, Check},
};

/// Initial capacity for a message. Most responses fit; for others the buffer grows.
const MESSAGE_CAPACITY: usize = 256;

/// Numbers of the fields of `VerifyResponse`.
mod field {
    pub const CODE: u32 = 1;
    pub const MESSAGE: u32 = 2;
    pub const KEY_ID: u32 = 3;
    pub const KEYSPACE: u32 = 4;
    pub const ORGANIZATION: u32 = 5;
    pub const INSTANCE: u32 = 6;
    pub const ENVIRONMENT: u32 = 7;
    pub const NAME: u32 = 8;
    pub const SCOPES: u32 = 9;
    pub const CREATE_TIME: u32 = 10;
    pub const EXPIRE_TIME: u32 = 11;
    pub const METADATA: u32 = 12;
    pub const RATE_LIMIT: u32 = 13;
    /// Of each entry of the map.
    pub const PAIR_KEY: u32 = 1;
    pub const PAIR_VALUE: u32 = 2;
}

/// Decodes a body that holds exactly one request and is not compressed. Any other body is left to tonic, which refuses what
/// is invalid.
pub(crate) fn decode(body: &[u8]) -> Option<proto::VerifyRequest> {
    proto::VerifyRequest::decode(codec::plain_message(body)?).ok()
}

/// The check that a Verify requests.
pub(crate) fn check(message: &proto::VerifyRequest) -> Check<'_> {
    Check {
        secret: &message.secret,
        keyspace: &message.keyspace,
        asserted: Assertions {
            environment: &message.environment,
            organization: &message.organization,
            instance: &message.instance,
            scopes: &message.required_scopes,
            forbidden: false,
        },
        host_environment: "",
        cost: Some(message.cost.unwrap_or(1)),
    }
}

/// The code of a verdict.
fn code(code: VerdictCode) -> proto::Code {
    match code {
        VerdictCode::Valid => proto::Code::Valid,
        VerdictCode::Malformed => proto::Code::Malformed,
        VerdictCode::NotFound => proto::Code::NotFound,
        VerdictCode::Revoked => proto::Code::Revoked,
        VerdictCode::Expired => proto::Code::Expired,
        VerdictCode::WrongEnvironment => proto::Code::WrongEnvironment,
        VerdictCode::WrongOrganization => proto::Code::WrongOrganization,
        VerdictCode::WrongInstance => proto::Code::WrongInstance,
        VerdictCode::InsufficientScope => proto::Code::InsufficientScope,
        VerdictCode::RateLimited => proto::Code::RateLimited,
    }
}

/// The answer as a message.
pub fn response(answer: &Answer<'_>) -> proto::VerifyResponse {
    let mut response = proto::VerifyResponse {
        code: code(answer.code).into(),
        message: answer.message.to_string(),
        rate_limit: answer.rate.map(rate_limit),
        ..proto::VerifyResponse::default()
    };
    if let Some(key) = &answer.key {
        response.key_id = key.id.text();
        key.keyspace.clone_into(&mut response.keyspace);
        key.organization.clone_into(&mut response.organization);
        key.instance.clone_into(&mut response.instance);
        key.environment.clone_into(&mut response.environment);
        key.name.clone_into(&mut response.name);
        response.scopes = key.scopes().map(str::to_owned).collect();
        response.create_time = Some(convert::timestamp(key.created_at));
        response.expire_time = key.expires_at.map(convert::timestamp);
        response.metadata = key.metadata().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    }
    response
}

/// The answer as one gRPC message with its prefix.
pub fn frame(answer: &Answer<'_>) -> Bytes {
    codec::frame_with(MESSAGE_CAPACITY, |out| write(answer, out))
}

fn write(answer: &Answer<'_>, out: &mut BytesMut) {
    encode_key(field::CODE, WireType::Varint, out);
    encode_varint(code(answer.code) as u64, out);
    text(field::MESSAGE, &answer.message, out);
    if let Some(key) = &answer.key {
        write_key(key, out);
    }
    if let Some(rate) = answer.rate {
        nested(field::RATE_LIMIT, &rate_limit(rate), out);
    }
}

fn write_key(key: &AnswerKey<'_>, out: &mut BytesMut) {
    bytes(field::KEY_ID, &key.id.ascii(), out);
    text(field::KEYSPACE, key.keyspace, out);
    text(field::ORGANIZATION, key.organization, out);
    text(field::INSTANCE, key.instance, out);
    text(field::ENVIRONMENT, key.environment, out);
    text(field::NAME, key.name, out);
    for scope in key.scopes() {
        bytes(field::SCOPES, scope.as_bytes(), out);
    }
    nested(field::CREATE_TIME, &convert::timestamp(key.created_at), out);
    if let Some(at) = key.expires_at {
        nested(field::EXPIRE_TIME, &convert::timestamp(at), out);
    }
    for (name, value) in key.metadata() {
        let length = text_length(field::PAIR_KEY, name) + text_length(field::PAIR_VALUE, value);
        encode_key(field::METADATA, WireType::LengthDelimited, out);
        encode_varint(length as u64, out);
        text(field::PAIR_KEY, name, out);
        text(field::PAIR_VALUE, value, out);
    }
}

/// A string field. Protobuf leaves an empty one out.
fn text(field: u32, value: &str, out: &mut BytesMut) {
    if !value.is_empty() {
        bytes(field, value.as_bytes(), out);
    }
}

fn text_length(field: u32, value: &str) -> usize {
    if value.is_empty() { 0 } else { key_len(field) + encoded_len_varint(value.len() as u64) + value.len() }
}

fn bytes(field: u32, value: &[u8], out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.put_slice(value);
}

fn nested(field: u32, value: &impl prost::Message, out: &mut BytesMut) {
    prost::encoding::message::encode(field, value, out);
}

/// The state of a rate limit.
fn rate_limit(state: RateState) -> proto::RateLimitState {
    proto::RateLimitState {
        limit: state.limit,
        remaining: state.remaining,
        reset_time: Some(convert::timestamp(state.reset_at)),
        retry_after: state.retry_after.map(convert::duration),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{
            key::{Binding, KeyFacts, KeyId},
            keyspace::Registry,
        },
        service::verify::{CachedKey, Verdict, test_facts as facts},
    };

    prop_compose! {
        fn entries()(
            id: u128, organization in ".{0,8}", instance in ".{0,3}", environment in "[a-z]{0,200}", name in ".{0,40}",
            scopes in prop::collection::vec("[a-z:.]{1,64}", 0..6),
            metadata in prop::collection::btree_map("[^\0]{0,10}", "[^\0]{0,200}", 0..5),
            created_at in 0..=i64::MAX, expires_at in prop::option::of(0..i64::MAX), configured: bool,
        ) -> Arc<CachedKey> {
            let binding = Binding { organization, instance, environment };
            let blank = facts(binding, name, scopes, metadata);
            let facts = KeyFacts { id: KeyId(Uuid::from_u128(id)), created_at, expires_at, ..blank };
            Arc::new(CachedKey::new(&facts, configured.then_some(0)))
        }
    }

    fn registry() -> Registry {
        Registry::new(Vec::new())
    }

    prop_compose! {
        fn rates()(limit: u32, remaining: u32, reset_at in 0..i64::MAX, retry_after in prop::option::of(0..i64::MAX)) -> RateState {
            RateState { limit, remaining, reset_at, retry_after }
        }
    }

    proptest! {
        #[test]
        fn the_frame_holds_the_same_message(
            code in prop::sample::select(VerdictCode::ALL.to_vec()), entry in prop::option::of(entries()),
            rate in prop::option::of(rates()), missing in prop::option::of("[a-z:.]{1,64}"),
        ) {
            let registry = registry();
            let verdict = Verdict { code, key: entry, rate, missing_scope: missing.map(String::into_boxed_str) };
            let answer = Answer::new(&verdict, &registry);
            let frame = frame(&answer);
            prop_assert_eq!(frame[0], 0);
            prop_assert_eq!(u32::from_be_bytes(frame[1..codec::PREFIX_BYTES].try_into().unwrap()) as usize, frame.len() - codec::PREFIX_BYTES);
            let decoded = proto::VerifyResponse::decode(&frame[codec::PREFIX_BYTES..]).unwrap();
            prop_assert_eq!(decoded, response(&answer));
        }
    }
}
