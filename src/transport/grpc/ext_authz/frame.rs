//! The response to a request that passes, as bytes: Envoy asks about every request, and a message of many small texts would
//! allocate each of them. [`super::response`] makes the same message; a test compares both.

use bytes::Bytes;

use super::request::CheckedRequest;
use crate::{
    service::gateway::{Allowed, IDENTITY_HEADERS},
    transport::{
        grpc::{
            codec,
            protobuf::{field_length, put_bytes, put_start},
        },
        refusal::rate_headers,
        request_id::REQUEST_ID,
    },
};

/// Keys of the fields, with their number and kind. Each takes one byte.
mod key {
    use crate::transport::grpc::protobuf::{delimited, varint};

    pub const STATUS: u8 = delimited(1);
    pub const OK_RESPONSE: u8 = delimited(3);
    pub const DYNAMIC_METADATA: u8 = delimited(4);
    /// Of `OkHttpResponse`.
    pub const HEADERS: u8 = delimited(2);
    pub const HEADERS_TO_REMOVE: u8 = delimited(5);
    pub const RESPONSE_HEADERS_TO_ADD: u8 = delimited(6);
    /// Of `HeaderValueOption`.
    pub const HEADER: u8 = delimited(1);
    pub const APPEND_ACTION: u8 = varint(3);
    pub const KEEP_EMPTY_VALUE: u8 = varint(4);
    /// Of `HeaderValue`, and of an entry of a map.
    pub const NAME: u8 = delimited(1);
    pub const VALUE: u8 = delimited(2);
    /// Of `Struct`.
    pub const FIELDS: u8 = delimited(1);
    /// Of `Value`.
    pub const STRING_VALUE: u8 = delimited(3);
}

/// `OVERWRITE_IF_EXISTS_OR_ADD`, and that an empty value is kept: the end of a `HeaderValueOption`.
const OVERWRITE: [u8; OVERWRITE_LENGTH as usize] = [key::APPEND_ACTION, 2, key::KEEP_EMPTY_VALUE, 1];
const OVERWRITE_LENGTH: u8 = 4;

/// One gRPC message with its prefix.
pub(crate) fn pass(allowed: &Allowed, checked: &CheckedRequest<'_>, request_id: &str) -> Bytes {
    let identity = allowed.identity();
    let rate = allowed.rate.map(|rate| rate_headers(rate).map(|(name, value)| (name, value.to_string())));
    let upstream = || IDENTITY_HEADERS.into_iter().zip(identity.iter().map(AsRef::as_ref));
    let removed: Vec<_> = checked.forged().chain(allowed.stripped()).collect();
    let limits = || rate.iter().flatten().map(|(name, value)| (*name, value.as_str()));
    let client = || limits().chain([(REQUEST_ID, request_id)]);

    let headers = upstream().chain(client()).map(|(name, value)| field_length(option_length(name, value)));
    let ok = headers.sum::<usize>() + removed.iter().map(|name| field_length(name.len())).sum::<usize>();
    let metadata = upstream().map(|(name, value)| field_length(entry_length(name, value))).sum();
    let length = field_length(0) + field_length(ok) + field_length(metadata);

    codec::frame_with(length, |out| {
        // OK is the status without fields.
        put_start(key::STATUS, 0, out);
        put_start(key::OK_RESPONSE, ok, out);
        for (name, value) in upstream() {
            header(key::HEADERS, name, value, out);
        }
        for name in removed {
            put_text(key::HEADERS_TO_REMOVE, name, out);
        }
        for (name, value) in client() {
            header(key::RESPONSE_HEADERS_TO_ADD, name, value, out);
        }
        put_start(key::DYNAMIC_METADATA, metadata, out);
        for (name, value) in upstream() {
            metadata_field(name, value, out);
        }
    })
}

/// A `HeaderValueOption` that takes the place of any other header of its name.
fn header(key: u8, name: &str, value: &str, out: &mut Vec<u8>) {
    if let Some((name_length, value_length)) = short(name, value) {
        let pair = 2 + name_length + 2 + value_length;
        out.extend_from_slice(&[key, 2 + pair + OVERWRITE_LENGTH, key::HEADER, pair, key::NAME, name_length]);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&[key::VALUE, value_length]);
        out.extend_from_slice(value.as_bytes());
        return out.extend_from_slice(&OVERWRITE);
    }
    put_start(key, option_length(name, value), out);
    put_start(key::HEADER, pair_length(name.len(), value.len()), out);
    put_text(key::NAME, name, out);
    put_text(key::VALUE, value, out);
    out.extend_from_slice(&OVERWRITE);
}

fn option_length(name: &str, value: &str) -> usize {
    field_length(pair_length(name.len(), value.len())) + OVERWRITE.len()
}

/// An entry of a `Struct`'s map, with a text as value.
fn metadata_field(name: &str, value: &str, out: &mut Vec<u8>) {
    if let Some((name_length, value_length)) = short(name, value) {
        let entry = 2 + name_length + 2 + 2 + value_length;
        out.extend_from_slice(&[key::FIELDS, entry, key::NAME, name_length]);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&[key::VALUE, 2 + value_length, key::STRING_VALUE, value_length]);
        return out.extend_from_slice(value.as_bytes());
    }
    put_start(key::FIELDS, entry_length(name, value), out);
    put_text(key::NAME, name, out);
    put_start(key::VALUE, field_length(value.len()), out);
    put_text(key::STRING_VALUE, value, out);
}

fn entry_length(name: &str, value: &str) -> usize {
    pair_length(name.len(), field_length(value.len()))
}

/// The lengths of a name and a value, if all lengths around them take one byte. Nearly all names and values are that
/// short, and are written in fewer pieces.
fn short(name: &str, value: &str) -> Option<(u8, u8)> {
    let lengths = (u8::try_from(name.len()).ok()?, u8::try_from(value.len()).ok()?);
    (name.len() + value.len() < 0x80 - 16).then_some(lengths)
}

/// Two fields with contents of these lengths.
fn pair_length(name: usize, value: usize) -> usize {
    field_length(name) + field_length(value)
}

fn put_text(key: u8, content: &str, out: &mut Vec<u8>) {
    put_bytes(key, content.as_bytes(), out);
}
