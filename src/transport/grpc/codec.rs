//! The protobuf codec of the generated services. A message that cannot be decoded is an invalid request: it is answered
//! INVALID_ARGUMENT with the name of the field.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use crate::{domain::error::Error, transport::status};

/// The largest message that is accepted.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Length of the prefix of a gRPC message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// The message in a body that holds exactly one, which is not compressed. Any other body is left to tonic, which refuses
/// what is invalid.
pub(crate) fn plain_message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [0, length @ ..] = prefix else { return None };
    let complete = u32::from_be_bytes(*length) as usize == message.len() && message.len() <= MAX_MESSAGE_BYTES;
    complete.then_some(message)
}

/// One gRPC message with its prefix; `write` writes the message, which has about `capacity` bytes.
pub(crate) fn frame_with(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut frame = Vec::with_capacity(PREFIX_BYTES + capacity);
    frame.extend_from_slice(&[0; PREFIX_BYTES]);
    write(&mut frame);
    // The fields of keys and the headers of requests are bounded far below 4 GiB.
    let length = u32::try_from(frame.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    frame[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

/// A message as one gRPC message with its prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    frame_with(message.encoded_len(), |out| message.encode_raw(out))
}

/// Encodes with prost; decodes with [`ProtoDecoder`].
pub(crate) struct ProtoCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ProtoCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProtoCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProtoDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProtoDecoder(PhantomData)
    }
}

/// Decodes with prost, and names the field that is wrong.
pub(crate) struct ProtoDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for ProtoDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(bytes).map(Some).map_err(|error| status::grpc(&unreadable(&error)))
    }
}

/// The error of a message that cannot be decoded. Prost names the field in the text of its error, as
/// `Inner.field: Message.field: reason`.
pub(crate) fn unreadable(error: &prost::DecodeError) -> Error {
    let text = error.to_string();
    let parts = text.split(": ").filter_map(|part| part.split_once('.'));
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    let mut fields: Vec<&str> =
        parts.filter(|(message, field)| is_name(message) && is_name(field)).map(|(_, field)| field).collect();
    // Prost names the innermost field first.
    fields.reverse();
    let field = if fields.is_empty() { "request".to_owned() } else { fields.join(".") };
    let what = if text.contains("UTF-8") { "is not UTF-8" } else { "is not well-formed protobuf" };
    Error::invalid(field, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CreateRequest, VerifyStreamRequest};

    fn refusal<M: Message + Default>(bytes: &[u8]) -> (String, String) {
        let error = unreadable(&M::decode(bytes).err().unwrap());
        let [bad] = &error.fields[..] else { panic!("{error:?}") };
        (bad.field.to_string(), bad.description.clone())
    }

    #[test]
    fn the_field_that_cannot_be_decoded_is_named() {
        let create = CreateRequest { name: "name".to_owned(), ..CreateRequest::default() };
        let mut bytes = create.encode_to_vec();
        let last = bytes.len() - 1;
        bytes[last] = 0xff;
        assert_eq!(refusal::<CreateRequest>(&bytes), ("name".to_owned(), "is not UTF-8".to_owned()));
        let truncated = &bytes[..last];
        assert_eq!(refusal::<CreateRequest>(truncated).0, "name");
        assert_eq!(refusal::<CreateRequest>(&[0xff, 0xff]), ("request".into(), "is not well-formed protobuf".into()));
        let nested = VerifyStreamRequest {
            id: 1,
            request: Some(crate::proto::VerifyRequest { secret: "secret".to_owned(), ..Default::default() }),
        };
        let mut bytes = nested.encode_to_vec();
        let last = bytes.len() - 1;
        bytes[last] = 0xff;
        assert_eq!(refusal::<VerifyStreamRequest>(&bytes), ("request.secret".into(), "is not UTF-8".into()));
    }
}
