//! Incomplete HTTP/2 frames of unauthenticated clients are charged to the memory for requests.
//!
//! h2 keeps an incomplete frame until its end arrives, and the frames of a header list until the last one. It takes at
//! least six frames of 16 KiB for one list, and has no setting for less.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    accept::Admission,
    budget::{BudgetPart, ConnectionBudget, Reservation},
};

/// What a client sends first over HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of a frame: length, type, flags and stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;
/// Types of the frames of a header list, and the flag of the last one.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What is not charged, so that an authenticated caller's first request comes through in pieces when the budget is used up.
const FREE_BYTES: usize = 4 << 10;

/// Reads from a client. A read fails if its incomplete frames exceed the budget: the connection is closed then. Nothing is
/// charged for HTTP/1.1, nor once a call was authenticated on the connection.
pub(crate) struct HalfSent<I> {
    io: I,
    frames: Frames,
    admission: Arc<Admission>,
    budget: ConnectionBudget,
    charged: Option<Reservation>,
}

impl<I> HalfSent<I> {
    /// Reads from this stream.
    pub(crate) fn new(io: I, admission: Arc<Admission>, budget: ConnectionBudget) -> Self {
        Self { io, frames: Frames::default(), admission, budget, charged: None }
    }

    fn charge(&mut self) -> io::Result<()> {
        // Released first: what is held now replaces what was held before.
        self.charged = None;
        let held = self.frames.held().saturating_sub(FREE_BYTES);
        if held > 0 {
            // h2 keeps a list as it was sent and as it was read: 2.3 times its length was measured.
            let reserved = self.budget.reserve(held * 5 / 2, BudgetPart::Anonymous);
            self.charged = Some(reserved.map_err(io::Error::other)?);
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for HalfSent<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frames.position == Position::Ignored {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if self.admission.is_authenticated() {
            (self.frames.position, self.charged) = (Position::Ignored, None);
            return Poll::Ready(Ok(()));
        }
        self.frames.read(&buffer.filled()[before..]);
        Poll::Ready(self.charge())
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for HalfSent<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Counts the bytes of incomplete frames and header lists.
#[derive(Debug, Default)]
struct Frames {
    position: Position,
    /// Bytes of a header list whose last frame has not arrived.
    list: usize,
}

/// Where in a frame the bytes end that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// After this many bytes of the preface.
    Preface(usize),
    /// After this many bytes of a head.
    Head([u8; HEAD_BYTES], usize),
    /// In a frame with this head, before so many bytes of its content.
    Content([u8; HEAD_BYTES], usize),
    /// The client speaks HTTP/1.1, or is authenticated.
    Ignored,
}

impl Default for Position {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Frames {
    /// Bytes that h2 has to keep.
    fn held(&self) -> usize {
        let frame = match self.position {
            Position::Preface(_) | Position::Ignored => 0,
            Position::Head(_, filled) => filled,
            Position::Content(head, left) => HEAD_BYTES + length(head) - left,
        };
        self.list + frame
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken;
            (self.position, taken) = match self.position {
                Position::Preface(matched) => {
                    let taken = bytes.len().min(PREFACE.len() - matched);
                    let next = match matched + taken {
                        _ if bytes[..taken] != PREFACE[matched..matched + taken] => Position::Ignored,
                        whole if whole == PREFACE.len() => Position::Head([0; HEAD_BYTES], 0),
                        part => Position::Preface(part),
                    };
                    (next, taken)
                }
                Position::Head(mut head, filled) => {
                    let taken = bytes.len().min(HEAD_BYTES - filled);
                    head[filled..filled + taken].copy_from_slice(&bytes[..taken]);
                    let whole = filled + taken == HEAD_BYTES;
                    (if whole { self.content(head, length(head)) } else { Position::Head(head, filled + taken) }, taken)
                }
                Position::Content(head, left) => {
                    let taken = bytes.len().min(left);
                    (self.content(head, left - taken), taken)
                }
                Position::Ignored => return,
            };
            bytes = &bytes[taken..];
        }
    }

    /// The position before the last `left` bytes of a frame's content.
    fn content(&mut self, head: [u8; HEAD_BYTES], left: usize) -> Position {
        if left > 0 {
            return Position::Content(head, left);
        }
        let [_, _, _, kind, flags, ..] = head;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.list = if flags & END_HEADERS == 0 { self.list + length(head) } else { 0 };
        }
        Position::Head([0; HEAD_BYTES], 0)
    }
}

/// The length of a frame's content.
fn length([high, middle, low, ..]: [u8; HEAD_BYTES]) -> usize {
    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut frame = vec![0, high, low, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + usize::from(length), 0xff);
        frame
    }

    fn held(bytes: &[u8]) -> usize {
        let mut frames = Frames::default();
        frames.read(bytes);
        frames.held()
    }

    #[test]
    fn incomplete_frames_and_header_lists_are_counted_and_complete_ones_are_not() {
        let settings = frame(4, 0, 12);
        let begin = [PREFACE, &settings].concat();
        assert_eq!(held(&begin), 0);
        for (rest, expected) in [
            (vec![frame(HEADERS, END_HEADERS, 100)], 0),
            (vec![frame(HEADERS, 0, 100)], 100),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, 0, 16_384)], 16_484),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 0)], 0),
            (vec![frame(HEADERS, END_HEADERS, 100), frame(0, 1, 1_000)], 0),
            (vec![frame(0, 1, 1_000)[..500].to_vec()], 500),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 50)[..30].to_vec()], 130),
            (vec![vec![0, 0]], 2),
        ] {
            assert_eq!(held(&[&begin[..], &rest.concat()].concat()), expected, "{expected}");
        }
    }

    #[test]
    fn another_protocol_is_ignored() {
        assert_eq!(held(b"GET / HTTP/1.1\r\nhost: x\r\nx: "), 0);
        assert_eq!(held(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx\x00\x00\x00"), 0);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_split(
            kinds in prop::collection::vec((0..10_u8, 0..8_u8, 0..300_u16), 0..8),
            end in 0..3_000_usize,
            splits in prop::collection::vec(0..3_000_usize, 0..8),
        ) {
            let sent = kinds.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length));
            let mut bytes: Vec<u8> = PREFACE.iter().copied().chain(sent).collect();
            bytes.truncate(end.max(PREFACE.len()));
            let mut splits: Vec<_> = splits.iter().map(|at| (*at).min(bytes.len())).chain([0, bytes.len()]).collect();
            splits.sort_unstable();
            let mut frames = Frames::default();
            for pair in splits.windows(2) {
                frames.read(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(frames.held(), held(&bytes));
            prop_assert!(frames.held() <= bytes.len());
        }
    }
}
