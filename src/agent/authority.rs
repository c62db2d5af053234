//! Lets clients on the C core of gRPC (Python, C++, Ruby, PHP) call over a Unix socket.
//!
//! They send the socket's path as `:authority`, with its slashes escaped: `run%2Fkeyward.sock`. HTTP has no `%` in a host,
//! so h2 ends such a stream with PROTOCOL_ERROR. Nothing here depends on the authority: each `%` of it is replaced by a dot
//! as the bytes arrive. The length stays, and with it every length around it and the sizes of HPACK's table. Whatever this
//! does not recognise passes as it is, and h2 decides.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const AUTHORITY: &[u8] = b":authority";
/// The index of `:authority` in HPACK's static table.
const AUTHORITY_INDEX: u8 = 1;
/// The largest integer that is read. h2 refuses headers this long.
const MAX_INTEGER: usize = 1 << 20;

/// A connection that replaces `%` in the `:authority` of what is read from it.
pub(super) struct PlainAuthority<I> {
    io: I,
    reader: Reader,
}

impl<I> PlainAuthority<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, reader: Reader { frame: Frame::Preface(PREFACE_BYTES), block: Block::Field } }
    }
}

/// The position within the frames.
enum Frame {
    Preface(usize),
    Header([u8; FRAME_HEADER_BYTES], usize),
    /// The length of a padding, and the rest of the payload.
    PadLength(usize),
    /// Bytes before the header block, and the block.
    Priority {
        skip: usize,
        block: usize,
    },
    /// The header block, and the padding after it.
    Block {
        left: usize,
        padding: usize,
    },
    Skip(usize),
    /// Something was not recognised: everything passes as it is.
    Off,
}

/// The position within a header block.
#[derive(Clone, Copy)]
enum Block {
    /// A field begins.
    Field,
    /// More bytes of an integer follow: its value so far, the shift of the next byte, and what the integer is.
    Integer { value: usize, shift: u32, of: Integer },
    /// The length of a literal name, or of a value.
    Length(Text),
    /// The bytes of a text: how many were read, how many are left, and whether all of them match.
    Bytes { read: usize, left: usize, text: Text, plain: bool },
}

/// What an integer is.
#[derive(Clone, Copy)]
enum Integer {
    /// An index of a whole field, or a size of the table: skipped.
    Index,
    /// The index of a name that is not `:authority`; a value follows.
    Name,
    Length {
        text: Text,
        plain: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    /// A name; whether the bytes read so far match `:authority`.
    Name(bool),
    /// A value; whether it is the authority.
    Value(bool),
}

struct Reader {
    frame: Frame,
    block: Block,
}

impl Reader {
    /// Scans bytes that have arrived, and replaces `%` in an authority.
    fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let left = bytes.len() - at;
            // Skip the payloads of other frames as a whole.
            if let Frame::Skip(skip) | Frame::Preface(skip) = &mut self.frame {
                let passed = left.min(*skip);
                *skip -= passed;
                at += passed;
                if *skip == 0 {
                    self.frame = Frame::Header([0; FRAME_HEADER_BYTES], 0);
                }
                continue;
            }
            if matches!(self.frame, Frame::Off) {
                return;
            }
            self.read_byte(&mut bytes[at]);
            at += 1;
        }
    }

    fn read_byte(&mut self, byte: &mut u8) {
        match &mut self.frame {
            Frame::Header(header, read) => {
                header[*read] = *byte;
                *read += 1;
                if *read == FRAME_HEADER_BYTES {
                    let header = *header;
                    self.begin(header);
                }
            }
            Frame::PadLength(left) => {
                let padding = usize::from(*byte);
                self.frame = match left.checked_sub(padding) {
                    Some(left) => Frame::Block { left, padding },
                    None => Frame::Off,
                };
                self.skip_empty();
            }
            Frame::Priority { skip, block } => {
                *skip -= 1;
                if *skip == 0 {
                    self.frame = Frame::Block { left: *block, padding: 0 };
                    self.skip_empty();
                }
            }
            Frame::Block { left, .. } => {
                *left -= 1;
                match self.block.read(byte) {
                    Some(block) => self.block = block,
                    None => self.frame = Frame::Off,
                }
                self.skip_empty();
            }
            Frame::Preface(_) | Frame::Skip(_) | Frame::Off => {}
        }
    }

    /// A frame begins.
    fn begin(&mut self, header: [u8; FRAME_HEADER_BYTES]) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, flags) = (header[3], header[4]);
        self.frame = match kind {
            HEADERS if flags & (PADDED | PRIORITY) == 0 => Frame::Block { left: length, padding: 0 },
            HEADERS if flags & PADDED == 0 && length >= PRIORITY_BYTES => {
                Frame::Priority { skip: PRIORITY_BYTES, block: length - PRIORITY_BYTES }
            }
            HEADERS if flags & PRIORITY == 0 && length > 0 => Frame::PadLength(length - 1),
            // Both flags: no known client sends them together.
            HEADERS => Frame::Off,
            CONTINUATION => Frame::Block { left: length, padding: 0 },
            _ => Frame::Skip(length),
        };
        if kind == HEADERS {
            self.block = Block::Field;
        }
        self.skip_empty();
    }

    /// Moves past a part of the frame that has no bytes left.
    fn skip_empty(&mut self) {
        if let Frame::Block { left: 0, padding } = self.frame {
            self.frame = Frame::Skip(padding);
        }
        if let Frame::Skip(0) = self.frame {
            self.frame = Frame::Header([0; FRAME_HEADER_BYTES], 0);
        }
    }
}

impl Block {
    /// The state after a byte; none if it is not HPACK.
    fn read(self, byte: &mut u8) -> Option<Self> {
        match self {
            Self::Field => Some(Self::field(*byte)),
            Self::Integer { value, shift, of } => {
                let value = value.checked_add(usize::from(*byte & 0x7f).checked_shl(shift)?)?;
                if value > MAX_INTEGER || shift > 21 {
                    return None;
                }
                Some(if *byte & 0x80 != 0 { Self::Integer { value, shift: shift + 7, of } } else { of.read(value) })
            }
            Self::Length(text) => {
                let (plain, length) = (*byte & 0x80 == 0, *byte & 0x7f);
                let of = Integer::Length { text, plain };
                Some(if length == 0x7f {
                    Self::Integer { value: 0x7f, shift: 0, of }
                } else {
                    of.read(usize::from(length))
                })
            }
            Self::Bytes { read, left, text, plain } => {
                let text = match text {
                    Text::Name(matches) => Text::Name(matches && AUTHORITY.get(read) == Some(&*byte)),
                    Text::Value(true) if plain && *byte == b'%' => {
                        *byte = b'.';
                        text
                    }
                    Text::Value(_) => text,
                };
                Some(Self::bytes(read + 1, left - 1, text, plain))
            }
        }
    }

    fn field(byte: u8) -> Self {
        // The bits of each kind of field, and of its integer.
        let bits = match byte {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let mask = (1 << bits) - 1_u8;
        let (index, literal) = (byte & mask, bits == 6 || bits == 4);
        let of = if literal { Integer::Name } else { Integer::Index };
        match index {
            0 if literal => Self::Length(Text::Name(true)),
            AUTHORITY_INDEX if literal => Self::Length(Text::Value(true)),
            _ if index == mask => Self::Integer { value: usize::from(mask), shift: 0, of },
            _ => of.read(usize::from(index)),
        }
    }

    /// The state in a text of which `left` bytes follow; with none, the state after it.
    fn bytes(read: usize, left: usize, text: Text, plain: bool) -> Self {
        match (left, text) {
            (0, Text::Name(matches)) => Self::Length(Text::Value(matches && plain && read == AUTHORITY.len())),
            (0, Text::Value(_)) => Self::Field,
            _ => Self::Bytes { read, left, text, plain },
        }
    }
}

impl Integer {
    /// What follows the integer.
    fn read(self, value: usize) -> Block {
        match self {
            Self::Index => Block::Field,
            Self::Name => Block::Length(Text::Value(false)),
            Self::Length { text, plain } => Block::bytes(0, value, text, plain),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for PlainAuthority<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.reader.read(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for PlainAuthority<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Reads in pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut reader = PlainAuthority::new(()).reader;
        let mut bytes = bytes.to_vec();
        bytes.chunks_mut(piece).for_each(|piece| reader.read(piece));
        bytes
    }

    /// What a client on the C core sends.
    fn block() -> Vec<u8> {
        let mut block = b"@\x05:path\x06/a.B/C@\n:authority\x0ctmp%2Fx.sock\x83\x86".to_vec();
        block.extend(b"@\x01x\x03a%b\x0f\x01\x02c%\xff\x21\x3f\x01");
        block
    }

    fn plain() -> Vec<u8> {
        replaced(&block())
    }

    fn replaced(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let at = bytes.windows(5).position(|window| window == b"tmp%2").unwrap();
        bytes[at + 3] = b'.';
        bytes
    }

    #[test]
    fn only_the_authority_is_changed_wherever_the_bytes_are_cut() {
        let settings = frame(0x4, 0, b"%%%%%%");
        let padded = [&[3][..], &block(), b"%%%"].concat();
        let prioritised = [b"%%%%%".as_slice(), &block()].concat();
        let (first, second) = (&block()[..20], &block()[20..]);
        for (frames, expected) in [
            (frame(HEADERS, 4, &block()), frame(HEADERS, 4, &plain())),
            (frame(HEADERS, 4 | PADDED, &padded), frame(HEADERS, 4 | PADDED, &replaced(&padded))),
            (frame(HEADERS, 4 | PRIORITY, &prioritised), frame(HEADERS, 4 | PRIORITY, &replaced(&prioritised))),
            (
                [frame(HEADERS, 0, first), frame(CONTINUATION, 4, second)].concat(),
                [frame(HEADERS, 0, &plain()[..20]), frame(CONTINUATION, 4, &plain()[20..])].concat(),
            ),
            (frame(0x0, 0, &block()), frame(0x0, 0, &block())),
            // The name by its index in the static table. A Huffman-coded value is left as it is: its bytes are no text.
            (frame(HEADERS, 4, b"A\x04a%2F"), frame(HEADERS, 4, b"A\x04a.2F")),
            (frame(HEADERS, 4, b"A\x84a%2F"), frame(HEADERS, 4, b"A\x84a%2F")),
        ] {
            let all = [PREFACE, &settings, &frames, &settings, &frames].concat();
            let expected = [PREFACE, &settings, &expected, &settings, &expected].concat();
            for piece in 1..all.len() {
                assert_eq!(read(&all, piece), expected, "in pieces of {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_changes_its_length_or_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..300), flags in any::<u8>(), piece in 1..40_usize,
        ) {
            let all = [PREFACE, &frame(HEADERS, flags, &bytes), &bytes].concat();
            let read = read(&all, piece);
            prop_assert_eq!(read.len(), all.len());
            let changed = all.iter().zip(&read).filter(|(before, after)| before != after);
            for (before, after) in changed {
                prop_assert_eq!((*before, *after), (b'%', b'.'));
            }
        }
    }
}
