//! Fields of protobuf messages as bytes, for the messages that are read or written for each call. Reading copies nothing.
//! Nearly all keys and lengths take one byte each, and are written together, without the loops that a varint of any size
//! takes.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use prost::encoding::{encode_varint, encoded_len_varint};

/// The key of a text, bytes or a message. The number is at most 15, so that the key takes one byte.
pub(crate) const fn delimited(number: u8) -> u8 {
    key(number, 2)
}

/// The key of a number.
pub(crate) const fn varint(number: u8) -> u8 {
    key(number, 0)
}

const fn key(number: u8, kind: u8) -> u8 {
    assert!(number <= 15);
    number << 3 | kind
}

/// A field with a content of this length.
pub(crate) fn field_length(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

/// The key and the length of a field whose content follows.
#[inline]
pub(crate) fn put_start(key: u8, length: usize, out: &mut Vec<u8>) {
    put_number(key, length as u64, out);
}

/// A text or bytes, also if empty.
#[inline]
pub(crate) fn put_bytes(key: u8, content: &[u8], out: &mut Vec<u8>) {
    put_start(key, content.len(), out);
    out.extend_from_slice(content);
}

/// A number.
#[inline]
pub(crate) fn put_number(key: u8, value: u64, out: &mut Vec<u8>) {
    if let Ok(short @ ..0x80) = u8::try_from(value) {
        out.extend_from_slice(&[key, short]);
    } else {
        out.push(key);
        encode_varint(value, out);
    }
}

/// The fields of a message, in their order.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    /// Numbers of the fields that [`Self::next`] must find to be texts, bytes or messages.
    known: &'static [u64],
}

/// The content of a field.
pub(crate) enum Content<'a> {
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number of fixed size. None is read here.
    Fixed,
}

/// A message that is not well-formed, or in a form that is left to prost.
pub(crate) struct Malformed;

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], known: &'static [u64]) -> Self {
        Self { bytes, known }
    }

    /// The number and the content of the next field that is a text, bytes or a message; none at the end. Others are
    /// skipped.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also for a known field of another kind.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &'a [u8])>, Malformed> {
        while let Some((number, content)) = self.any()? {
            match content {
                Content::Bytes(bytes) => return Ok(Some((number, bytes))),
                _ if self.known.contains(&number) => return Err(Malformed),
                Content::Number(_) | Content::Fixed => {}
            }
        }
        Ok(None)
    }

    /// The next field of any kind; none at the end.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also for a group.
    pub(crate) fn any(&mut self) -> Result<Option<(u64, Content<'a>)>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let (number, kind) = (key >> 3, key & 7);
        if number == 0 || key > u64::from(u32::MAX) {
            return Err(Malformed);
        }
        let content = match kind {
            0 => Content::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Content::Bytes(self.take(length)?)
            }
            1 => self.take(8).map(|_| Content::Fixed)?,
            5 => self.take(4).map(|_| Content::Fixed)?,
            _ => return Err(Malformed),
        };
        Ok(Some((number, content)))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // Most keys and lengths take one byte.
        if let [byte @ ..0x80, rest @ ..] = self.bytes {
            self.bytes = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or(Malformed)?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // The last byte has room for one bit.
                return if shift == 63 && *byte > 1 { Err(Malformed) } else { Ok(value) };
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }
}

/// A field that is a text.
///
/// # Errors
///
/// [`Malformed`] if it is not UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed)
}
