//! What an unauthenticated client sends over HTTP/2 is charged to the memory for requests.
//!
//! h2 keeps more of it than the requests that it passes on, and has no setting for less:
//!
//! - An entry of the table of header compression keeps the whole buffer from which it was read, and the client decides
//!   which of its headers become entries: a hundred small entries can keep a hundred buffers of 16 KiB.
//! - A header list is kept until its last frame arrives, as it was sent and as it was read.
//!
//! So each byte counts until a call is authenticated on the connection, and a connection that has sent many is closed
//! gracefully: a client that makes health checks connects again.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    accept::Admission,
    budget::{BudgetExceeded, BudgetPart, ConnectionBudget, Reservation},
};

/// What a client sends first over HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of a frame: length, type, flags and stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;
/// Types of the frames with header lists, and the flag of the last one of a list.
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Not charged, so that the first requests of a caller come through when the budget is used up.
const FREE_BYTES: usize = 16 << 10;
/// A byte that was sent takes at most two: a buffer grows by doubling.
const COST: usize = 2;
/// What an incomplete header list takes beside its bytes: 440 headers of 7 bytes fit into a list, and each takes 104.
const LIST_BYTES: usize = 96 << 10;
/// A connection that has sent more is closed when it has no request in progress.
const MAX_BYTES: usize = 256 << 10;

/// Reads from a client. A read fails if the budget is exceeded: the connection is closed then. Nothing is charged for
/// HTTP/1.1, nor once a call was authenticated on the connection.
pub(crate) struct ChargedInput<I, F> {
    io: I,
    frames: Frames,
    admission: Arc<Admission>,
    budget: ConnectionBudget,
    sent: Option<Reservation>,
    list: Option<Reservation>,
    /// Called while the connection has sent more than [`MAX_BYTES`].
    close_idle: F,
}

impl<I, F> ChargedInput<I, F> {
    /// Reads from this stream. `close_idle` closes the connection gracefully if it has no request in progress.
    pub(crate) fn new(io: I, admission: Arc<Admission>, budget: ConnectionBudget, close_idle: F) -> Self {
        Self { io, frames: Frames::default(), admission, budget, sent: None, list: None, close_idle }
    }

    /// Charges for bytes that were read last.
    fn charge(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let charged = bytes.min(self.frames.total.saturating_sub(FREE_BYTES)) * COST;
        match &mut self.sent {
            Some(sent) => sent.grow(charged)?,
            None if charged > 0 => self.sent = Some(self.budget.reserve(charged, BudgetPart::Anonymous)?),
            None => {}
        }
        if !self.frames.in_list {
            self.list = None;
        } else if self.list.is_none() {
            self.list = Some(self.budget.reserve(LIST_BYTES, BudgetPart::Anonymous)?);
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin, F: Fn() + Unpin> AsyncRead for ChargedInput<I, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if self.frames.position == Position::Ignored {
            return read;
        }
        ready!(read)?;
        if self.admission.is_authenticated() {
            self.frames.position = Position::Ignored;
            (self.sent, self.list) = (None, None);
            return Poll::Ready(Ok(()));
        }
        let bytes = &buffer.filled()[before..];
        self.frames.read(bytes);
        if self.frames.position == Position::Ignored {
            return Poll::Ready(Ok(()));
        }
        if self.frames.total > MAX_BYTES {
            (self.close_idle)();
        }
        Poll::Ready(self.charge(bytes.len()).map_err(|exceeded| {
            let client = self.budget.network();
            tracing::warn!(%client, "connection without a valid credential closed: {exceeded}");
            io::Error::other(exceeded)
        }))
    }
}

impl<I: AsyncWrite + Unpin, F: Unpin> AsyncWrite for ChargedInput<I, F> {
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

/// Follows the frames that a client sends.
#[derive(Debug, Default)]
struct Frames {
    position: Position,
    /// Bytes that the client has sent.
    total: usize,
    /// A header list has begun, and its last frame is not complete.
    in_list: bool,
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
            self.total += taken;
            bytes = &bytes[taken..];
        }
    }

    /// The position before the last `left` bytes of a frame's content.
    fn content(&mut self, head: [u8; HEAD_BYTES], left: usize) -> Position {
        if left > 0 {
            return Position::Content(head, left);
        }
        let [_, _, _, kind, flags, ..] = head;
        if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.in_list = flags & END_HEADERS == 0;
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
    use std::{
        cell::Cell,
        net::{IpAddr, Ipv4Addr},
    };

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::transport::{
        accept::{ConnectionLimits, ConnectionTable},
        budget::{Budget, BudgetLimits},
    };

    fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut frame = vec![0, high, low, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + usize::from(length), 0xff);
        frame
    }

    fn read(bytes: &[u8]) -> Frames {
        let mut frames = Frames::default();
        frames.read(bytes);
        frames
    }

    #[test]
    fn a_header_list_is_incomplete_until_the_end_of_its_last_frame() {
        let begin = [PREFACE, &frame(4, 0, 12)].concat();
        for (rest, incomplete) in [
            (vec![], false),
            (vec![frame(HEADERS, END_HEADERS, 100)], false),
            (vec![frame(HEADERS, 0, 100)], true),
            (vec![frame(PUSH_PROMISE, 0, 100)], true),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, 0, 16_384)], true),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 0)], false),
            (vec![frame(HEADERS, END_HEADERS, 100), frame(0, 1, 1_000)], false),
            (vec![frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 50)[..30].to_vec()], true),
        ] {
            assert_eq!(read(&[&begin[..], &rest.concat()].concat()).in_list, incomplete, "{rest:?}");
        }
    }

    #[test]
    fn another_protocol_is_ignored() {
        for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\nx: "[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx\x00\x00\x00"] {
            assert_eq!(read(bytes).position, Position::Ignored);
        }
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
            let whole = read(&bytes);
            prop_assert_eq!((frames.in_list, frames.position), (whole.in_list, whole.position));
            prop_assert_eq!((frames.total, whole.total), (bytes.len(), bytes.len()));
        }
    }

    /// Reads what one client sends, piece by piece. Returns what is reserved after each piece, none if its read failed, and
    /// how often the connection was to be closed.
    async fn charged(pieces: &[Vec<u8>], connection: usize, authenticated_after: usize) -> (Vec<Option<usize>>, usize) {
        let budget = Budget::new(BudgetLimits { authenticated: 0, anonymous: 1 << 30, address: 1 << 30, connection });
        let limits = ConnectionLimits { total: 9, per_address: 9, proxies: Vec::new() };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let admission = Arc::new(ConnectionTable::new(limits).admit(address).unwrap());
        let closes = Cell::new(0);
        let mut reserved = Vec::new();
        let (mut client, io) = tokio::io::duplex(1 << 20);
        let close_idle = || closes.set(closes.get() + 1);
        let mut input = ChargedInput::new(io, Arc::clone(&admission), budget.connection(address), close_idle);
        for (number, piece) in pieces.iter().enumerate() {
            if number == authenticated_after {
                admission.authenticated();
            }
            client.write_all(piece).await.unwrap();
            let read = input.read_exact(&mut vec![0; piece.len()]).await;
            reserved.push(read.is_ok().then(|| budget.reserved()));
        }
        drop(input);
        assert_eq!(budget.reserved(), 0);
        (reserved, closes.get())
    }

    #[tokio::test]
    async fn every_byte_is_charged_until_a_call_is_authenticated() {
        let kib = |count: usize| vec![0; count << 10];
        let pieces = [PREFACE.to_vec(), kib(10), kib(6), kib(8), kib(240), kib(1)];
        let beyond = |bytes: usize| Some(2 * (bytes + PREFACE.len()));
        let (reserved, closes) = charged(&pieces, 1 << 20, usize::MAX).await;
        assert_eq!(reserved, [Some(0), Some(0), beyond(0), beyond(8 << 10), beyond(248 << 10), beyond(249 << 10)]);
        assert_eq!(closes, 2, "once for each read past {MAX_BYTES} bytes");
        let (reserved, closes) = charged(&pieces, 1 << 20, 4).await;
        assert_eq!(reserved[3..], [beyond(8 << 10), Some(0), Some(0)]);
        assert_eq!(closes, 0);
        let (reserved, _) = charged(&pieces, 20 << 10, usize::MAX).await;
        assert_eq!(reserved[3..5], [beyond(8 << 10), None]);
    }

    #[tokio::test]
    async fn an_incomplete_header_list_is_charged_and_http1_is_not() {
        let pieces = [PREFACE.to_vec(), frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 1)];
        assert_eq!(charged(&pieces, 1 << 20, usize::MAX).await.0, [Some(0), Some(LIST_BYTES), Some(0)]);
        assert_eq!(charged(&pieces, LIST_BYTES - 1, usize::MAX).await.0[..2], [Some(0), None]);
        let (reserved, closes) = charged(&[b"GET / HTTP/1.1\r\n".to_vec(), vec![b'a'; 100_000]], 1, usize::MAX).await;
        assert_eq!((reserved, closes), (vec![Some(0), Some(0)], 0));
    }
}
