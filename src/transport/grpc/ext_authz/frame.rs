//! The response to a request that passes, as bytes: Envoy asks about every request, and a message of many small texts would
//! allocate each of them. [`super::response`] makes the same message; a test compares both.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::request::CheckedRequest;
use crate::{
    service::gateway::{Allowed, IDENTITY_HEADERS},
    transport::{grpc::codec, refusal::rate_headers, request_id::REQUEST_ID},
};

/// Initial capacities. Most responses fit.
const OK_CAPACITY: usize = 1_024;
const METADATA_CAPACITY: usize = 512;

/// Numbers of the fields.
mod field {
    pub const STATUS: u32 = 1;
    pub const OK_RESPONSE: u32 = 3;
    pub const DYNAMIC_METADATA: u32 = 4;
    /// Of `OkHttpResponse`.
    pub const HEADERS: u32 = 2;
    pub const HEADERS_TO_REMOVE: u32 = 5;
    pub const RESPONSE_HEADERS_TO_ADD: u32 = 6;
    /// Of `HeaderValueOption`.
    pub const HEADER: u32 = 1;
    pub const APPEND_ACTION: u32 = 3;
    pub const KEEP_EMPTY_VALUE: u32 = 4;
    /// Of `HeaderValue`, and of an entry of a map.
    pub const KEY: u32 = 1;
    pub const VALUE: u32 = 2;
    /// Of `Struct`.
    pub const FIELDS: u32 = 1;
    /// Of `Value`.
    pub const STRING_VALUE: u32 = 3;
}

/// `OVERWRITE_IF_EXISTS_OR_ADD`
const OVERWRITE: u64 = 2;
/// Length of both numbers after the header in a `HeaderValueOption`.
const OPTION_TAIL: usize = 4;

/// One gRPC message with its prefix.
pub(crate) fn pass(allowed: &Allowed, checked: &CheckedRequest<'_>, request_id: &str) -> Bytes {
    let (mut ok, mut metadata) = (BytesMut::with_capacity(OK_CAPACITY), BytesMut::with_capacity(METADATA_CAPACITY));
    for (name, value) in IDENTITY_HEADERS.into_iter().zip(allowed.identity()) {
        header(field::HEADERS, name, value.as_bytes(), &mut ok);
        metadata_field(name, value.as_bytes(), &mut metadata);
    }
    for name in checked.forged().chain(allowed.stripped()) {
        text(field::HEADERS_TO_REMOVE, name.as_bytes(), &mut ok);
    }
    for (name, value) in allowed.rate.into_iter().flat_map(rate_headers) {
        header(field::RESPONSE_HEADERS_TO_ADD, name, value.to_string().as_bytes(), &mut ok);
    }
    header(field::RESPONSE_HEADERS_TO_ADD, REQUEST_ID, request_id.as_bytes(), &mut ok);

    codec::frame_with(16 + ok.len() + metadata.len(), |out| {
        // OK is the status without fields.
        for (number, content) in
            [(field::STATUS, &[][..]), (field::OK_RESPONSE, &ok), (field::DYNAMIC_METADATA, &metadata)]
        {
            text(number, content, out);
        }
    })
}

/// A `HeaderValueOption` that takes the place of any other header of its name.
fn header(number: u32, name: &str, value: &[u8], out: &mut BytesMut) {
    let length = text_length(field::KEY, name.len()) + text_length(field::VALUE, value.len());
    start(number, text_length(field::HEADER, length) + OPTION_TAIL, out);
    start(field::HEADER, length, out);
    text(field::KEY, name.as_bytes(), out);
    text(field::VALUE, value, out);
    for (number, value) in [(field::APPEND_ACTION, OVERWRITE), (field::KEEP_EMPTY_VALUE, 1)] {
        encode_key(number, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// An entry of a `Struct`'s map, with a text as value.
fn metadata_field(name: &str, value: &[u8], out: &mut BytesMut) {
    let length = text_length(field::STRING_VALUE, value.len());
    start(field::FIELDS, text_length(field::KEY, name.len()) + text_length(field::VALUE, length), out);
    text(field::KEY, name.as_bytes(), out);
    start(field::VALUE, length, out);
    text(field::STRING_VALUE, value, out);
}

/// The key and the length of a field whose content follows.
fn start(number: u32, length: usize, out: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn text(number: u32, content: &[u8], out: &mut BytesMut) {
    start(number, content.len(), out);
    out.put_slice(content);
}

fn text_length(number: u32, length: usize) -> usize {
    key_len(number) + encoded_len_varint(length as u64) + length
}
