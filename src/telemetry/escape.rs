//! Escapes characters of log lines, in both formats, that a terminal or a viewer could interpret: a line separator
//! begins a new line in some viewers, and a right-to-left override reverses the text that follows.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::domain::text::is_format;

/// Makes writers that escape whole lines before they pass them on.
pub(super) struct Escaping<M>(pub M);

/// A writer of [`Escaping`].
pub(super) struct EscapingWriter<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Escaping<M> {
    type Writer = EscapingWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        EscapingWriter(self.0.make_writer_for(meta))
    }
}

impl<W: Write> Write for EscapingWriter<W> {
    /// The subscriber writes a line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&escaped(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A line of JSON, in which such characters can be in strings alone, with them as `\uXXXX`.
fn escaped(line: &[u8]) -> Cow<'_, [u8]> {
    let text = match std::str::from_utf8(line) {
        Ok(text) if !text.is_ascii() && text.contains(is_unsafe) => text,
        _ => return line.into(),
    };
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped.into_bytes().into()
}

/// The end of the line itself is no part of a string.
fn is_unsafe(c: char) -> bool {
    !c.is_ascii() && is_format(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_characters_are_escaped_and_the_line_means_the_same() {
        let value = serde_json::json!({"name": "a\u{2028}b\u{202e}c\u{200b}\u{feff}\u{85}\u{e0001} 鍵 ö 🔑"});
        let line = format!("{value}\n");
        let written = String::from_utf8(escaped(line.as_bytes()).into_owned()).unwrap();
        assert_eq!(written, "{\"name\":\"a\\u2028b\\u202ec\\u200b\\ufeff\\u0085\\udb40\\udc01 鍵 ö 🔑\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
        for plain in ["{\"a\":1}\n", "{\"name\":\"鍵\"}\n"] {
            assert!(matches!(escaped(plain.as_bytes()), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn a_writer_passes_escaped_lines_on() {
        let mut written = Vec::new();
        EscapingWriter(&mut written).write_all("\"\u{202e}\"\n".as_bytes()).unwrap();
        assert_eq!(written, b"\"\\u202e\"\n");
    }
}
