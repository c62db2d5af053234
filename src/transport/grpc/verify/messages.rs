//! The messages of Verify, each in two forms that tests compare: for a single Verify the bytes themselves, read in place
//! by [`decode`] and written by [`frame`] straight from the cached key; for a stream and for calls that tonic handles,
//! prost's messages, read by [`check`] and made by [`response`].

use bytes::Bytes;

use super::super::{
    codec, convert,
    protobuf::{self, Content, Fields, field_length, put_bytes, put_number, put_start},
};
use crate::{
    domain::{
        rate_limit::RateState,
        validation::MAX_SCOPES,
        verdict::{Assertions, VerdictCode},
    },
    proto,
    service::verify::{Answer, AnswerKey, Check},
};

/// Initial capacity for a message. Most responses fit; for others the buffer grows.
const MESSAGE_CAPACITY: usize = 256;

/// Keys of the fields of `VerifyResponse`.
mod key {
    use super::super::super::protobuf::{delimited, varint};

    pub const CODE: u8 = varint(1);
    pub const MESSAGE: u8 = delimited(2);
    pub const KEY_ID: u8 = delimited(3);
    pub const KEYSPACE: u8 = delimited(4);
    pub const ORGANIZATION: u8 = delimited(5);
    pub const INSTANCE: u8 = delimited(6);
    pub const ENVIRONMENT: u8 = delimited(7);
    pub const NAME: u8 = delimited(8);
    pub const SCOPES: u8 = delimited(9);
    pub const CREATE_TIME: u8 = delimited(10);
    pub const EXPIRE_TIME: u8 = delimited(11);
    pub const METADATA: u8 = delimited(12);
    pub const RATE_LIMIT: u8 = delimited(13);
    /// Of each entry of the map.
    pub const PAIR_KEY: u8 = delimited(1);
    pub const PAIR_VALUE: u8 = delimited(2);
}

/// A `VerifyRequest` whose texts are still in the body: copies would have to be allocated, and zeroed afterwards.
#[derive(Default)]
pub(crate) struct BorrowedRequest<'a> {
    /// Secret, keyspace, organization, instance and environment: the fields 1 to 5.
    texts: [&'a str; TEXTS],
    required_scopes: Vec<String>,
    cost: Option<u32>,
}

const TEXTS: usize = 5;
const REQUIRED_SCOPES: u64 = 6;
const COST: u64 = 7;

/// Decodes a body that holds exactly one request, is not compressed, and has no more scopes than are valid. Any other body
/// is left to tonic, which refuses what is invalid, and only after the credential was judged.
pub(crate) fn decode(body: &[u8]) -> Option<BorrowedRequest<'_>> {
    let mut fields = Fields::new(codec::plain_message(body)?, &[]);
    let mut request = BorrowedRequest::default();
    while let Some((field, content)) = fields.any().ok()? {
        match (field, content) {
            (COST, Content::Number(cost)) => request.cost = Some(cost.try_into().ok()?),
            (REQUIRED_SCOPES, Content::Bytes(_)) if request.required_scopes.len() == MAX_SCOPES => return None,
            (REQUIRED_SCOPES, Content::Bytes(scope)) => {
                request.required_scopes.push(protobuf::utf8(scope).ok()?.to_owned());
            }
            (1..REQUIRED_SCOPES, Content::Bytes(text)) => {
                *request.texts.get_mut(usize::try_from(field).ok()? - 1)? = protobuf::utf8(text).ok()?;
            }
            // A field of a later version.
            _ if field > COST => {}
            _ => return None,
        }
    }
    Some(request)
}

impl BorrowedRequest<'_> {
    /// The check that it requests.
    pub(crate) fn check(&self) -> Check<'_> {
        requested(self.texts, &self.required_scopes, self.cost)
    }

    /// The message, for a call that does not end where it is read.
    pub(crate) fn into_message(self) -> proto::VerifyRequest {
        let [secret, keyspace, organization, instance, environment] = self.texts.map(str::to_owned);
        let Self { texts: _, required_scopes, cost } = self;
        proto::VerifyRequest { secret, keyspace, organization, instance, environment, required_scopes, cost }
    }
}

/// The check that a message requests.
pub(crate) fn check(message: &proto::VerifyRequest) -> Check<'_> {
    let proto::VerifyRequest { secret, keyspace, organization, instance, environment, required_scopes, cost } = message;
    requested([secret, keyspace, organization, instance, environment], required_scopes, *cost)
}

fn requested<'a>(texts: [&'a str; TEXTS], scopes: &'a [String], cost: Option<u32>) -> Check<'a> {
    let [secret, keyspace, organization, instance, environment] = texts;
    Check {
        secret,
        keyspace,
        asserted: Assertions { environment, organization, instance, scopes, forbidden: false },
        host_environment: "",
        cost: Some(cost.unwrap_or(1)),
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

fn write(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put_number(key::CODE, code(answer.code) as u64, out);
    put_text(key::MESSAGE, &answer.message, out);
    if let Some(key) = &answer.key {
        write_key(key, out);
    }
    if let Some(rate) = answer.rate {
        put_message(key::RATE_LIMIT, &rate_limit(rate), out);
    }
}

fn write_key(key: &AnswerKey<'_>, out: &mut Vec<u8>) {
    put_bytes(key::KEY_ID, &key.id.ascii(), out);
    put_text(key::KEYSPACE, key.keyspace, out);
    put_text(key::ORGANIZATION, key.organization, out);
    put_text(key::INSTANCE, key.instance, out);
    put_text(key::ENVIRONMENT, key.environment, out);
    put_text(key::NAME, key.name, out);
    for scope in key.scopes() {
        put_bytes(key::SCOPES, scope.as_bytes(), out);
    }
    put_message(key::CREATE_TIME, &convert::timestamp(key.created_at), out);
    if let Some(at) = key.expires_at {
        put_message(key::EXPIRE_TIME, &convert::timestamp(at), out);
    }
    for (name, value) in key.metadata() {
        put_start(key::METADATA, text_length(name) + text_length(value), out);
        put_text(key::PAIR_KEY, name, out);
        put_text(key::PAIR_VALUE, value, out);
    }
}

/// A text. Protobuf leaves an empty one out.
fn put_text(key: u8, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        put_bytes(key, value.as_bytes(), out);
    }
}

fn text_length(value: &str) -> usize {
    if value.is_empty() { 0 } else { field_length(value.len()) }
}

fn put_message(key: u8, value: &impl prost::Message, out: &mut Vec<u8>) {
    put_start(key, value.encoded_len(), out);
    value.encode_raw(out);
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
    use prost::Message as _;
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

    prop_compose! {
        fn requests()(
            secret in ".{0,200}", keyspace in ".{0,3}", organization in ".{0,3}", instance in ".{0,3}",
            environment in ".{0,3}", required_scopes in prop::collection::vec("[a-z]{0,3}", 0..3), cost: Option<u32>,
        ) -> proto::VerifyRequest {
            proto::VerifyRequest { secret, keyspace, organization, instance, environment, required_scopes, cost }
        }
    }

    proptest! {
        #[test]
        fn a_request_is_read_in_place_as_prost_reads_it(first in requests(), then in requests()) {
            let frame = codec::frame(&first);
            prop_assert_eq!(decode(&frame).map(BorrowedRequest::into_message), Some(first.clone()));
            // A field that comes twice: the last one counts.
            let twice = [first.encode_to_vec(), then.encode_to_vec()].concat();
            let merged = proto::VerifyRequest::decode(&twice[..]).unwrap();
            let frame = codec::frame_with(twice.len(), |out| out.extend_from_slice(&twice));
            prop_assert_eq!(decode(&frame).map(BorrowedRequest::into_message), Some(merged.clone()));
            // And both ask for the same check.
            let (own, prosts) = (decode(&frame).unwrap(), check(&merged));
            prop_assert_eq!(format!("{:?}", own.check()), format!("{prosts:?}"));
            // What is cut off anywhere is either refused or, between two fields, read as prost reads it.
            for end in 0..twice.len() {
                let frame = codec::frame_with(end, |out| out.extend_from_slice(&twice[..end]));
                prop_assert_eq!(
                    decode(&frame).map(BorrowedRequest::into_message),
                    proto::VerifyRequest::decode(&twice[..end]).ok()
                );
            }
        }

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

    #[test]
    fn what_is_not_known_here_is_left_to_tonic() {
        let frame = |message: &[u8]| codec::frame_with(message.len(), |out| out.extend_from_slice(message));
        let known: &[u8] = b"\x0a\x01s";
        assert!(decode(&frame(known)).is_some());
        assert!(decode(&frame(b"\x42\x01s\x48\x01\x55\0\0\0\0")).is_some(), "fields of a later version");
        for (message, what) in [
            (&b"\x02\x01s"[..], "field 0"),
            (b"\x43\x44", "a group"),
            (b"\x08\x01", "a secret that is a number"),
            (b"\x3a\x01\x01", "a cost that is a text"),
            (b"\x0a\x01\xff", "not UTF-8"),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01s", "a length that no memory has"),
            (b"\x38\xff\xff\xff\xff\xff\x01", "a cost of more than 32 bits"),
        ] {
            assert!(decode(&frame(message)).is_none(), "{what}");
        }
        assert!(decode(&frame(&b"\x32\0".repeat(MAX_SCOPES))).is_some());
        assert!(decode(&frame(&b"\x32\0".repeat(MAX_SCOPES + 1))).is_none(), "more scopes than are valid");
        assert!(decode(&[&[1, 0, 0, 0, 3], known].concat()).is_none(), "compressed");
        assert!(decode(&[&[0, 0, 0, 0, 2], known].concat()).is_none(), "longer than its prefix says");
    }
}
