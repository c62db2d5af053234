//! The segments of a path that every server reads in the same way.

use std::borrow::Cow;

use crate::domain::text::{cut, parts};

/// The segments of a path, decoded. `/` has one segment, which is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segments<'a>(Vec<Cow<'a, str>>);

impl<'a> Segments<'a> {
    /// Reads a path without its query; none if readers could disagree on it:
    ///
    /// - `.` and `..`, also before a `;` (some servers cut parameters off and resolve the rest), and `//`;
    /// - `\`, which some servers take for `/`, and `#`, at which some cut the path off;
    /// - an encoded `/`, `\`, `.` or NUL, also encoded twice;
    /// - escapes that are not two hexadecimal digits, or that decode to what is no UTF-8, such as an overlong `.`;
    /// - bytes that no URI may hold.
    pub(super) fn read(path: &'a str) -> Option<Self> {
        let relative = path.strip_prefix('/')?;
        if !relative.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#')) {
            return None;
        }
        let last = relative.bytes().filter(|byte| *byte == b'/').count();
        let segments = parts(relative, b'/').enumerate().map(|(at, text)| {
            let segment = decode(text)?;
            let (name, _) = cut(&segment, b';');
            // Only the last segment may be empty: the path ends with a slash.
            let clear = !matches!(name, "." | "..") && (!segment.is_empty() || at == last);
            clear.then_some(segment)
        });
        segments.collect::<Option<Vec<_>>>().map(Self)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|segment| &**segment)
    }
}

/// Decodes the escapes of a segment; none if one of them is ambiguous.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            let byte = hex(digits[0])? << 4 | hex(digits[1])?;
            if matches!(byte, b'/' | b'\\' | b'.' | 0) {
                return None;
            }
            decoded.push(byte);
            rest = after;
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    let decoded = String::from_utf8(decoded).ok()?;
    (!decodes_again(&decoded)).then_some(Cow::Owned(decoded))
}

/// Whether a reader that decodes twice, or more often, would find what [`decode`] refuses.
fn decodes_again(decoded: &str) -> bool {
    let escapes = decoded.as_bytes().windows(3).filter(|window| window[0] == b'%');
    escapes.into_iter().any(|window| {
        matches!([window[1], window[2].to_ascii_lowercase()], [b'2', b'f' | b'e' | b'5'] | [b'5', b'c'] | [b'0', b'0'])
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
