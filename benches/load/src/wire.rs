//! The parts of HTTP/2 that the load needs: header blocks that are encoded once, frames, and flow control.

use std::io;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::BoxError;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The default maximum of a frame's payload.
pub const FRAME: usize = 16_384;
/// What the address of a Unix socket begins with; its path follows.
const UNIX: &str = "unix:";
/// The windows that the server gets.
const WINDOW: u32 = 1 << 30;

/// Encoded request headers: those of the first request, which fill the header table of the connection, and those of
/// later ones, which refer to it.
#[derive(Clone)]
pub struct Blocks {
    first: Vec<u8>,
    later: Vec<u8>,
}

impl Blocks {
    /// Records the headers of a gRPC call from the `h2` crate, which a tonic client uses, too.
    pub async fn record(address: &str, path: &str, bearer: Option<&str>) -> Result<Self, BoxError> {
        let authority = if address.starts_with(UNIX) { "localhost" } else { address };
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (sender, connection) = h2::client::handshake(near).await?;
        let driver = tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await?;
        for _ in 0..3 {
            let mut request = http::Request::post(format!("http://{authority}{path}"))
                .version(http::Version::HTTP_2)
                .header("te", "trailers")
                .header("content-type", "application/grpc");
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            let request = request.header("user-agent", "tonic/0.14.9").body(())?;
            let (_response, mut body) = sender.send_request(request, false)?;
            body.send_data(Bytes::new(), true)?;
            sender = sender.ready().await?;
        }
        far.read_exact(&mut [0; PREFACE.len()]).await?;
        let mut blocks = Vec::new();
        while blocks.len() < 3 {
            let mut header = [0; 9];
            far.read_exact(&mut header).await?;
            let head = Head::of(&header);
            let mut payload = vec![0; head.length];
            far.read_exact(&mut payload).await?;
            if head.kind == HEADERS {
                blocks.push(payload);
            }
        }
        driver.abort();
        let [first, later, third] = blocks.try_into().map_err(|_| "three blocks were read")?;
        if later != third {
            return Err("the header block is not steady".into());
        }
        Ok(Self { first, later })
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    fn of(bytes: &[u8; 9]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// One connection.
pub struct Connection {
    socket: Box<dyn Socket>,
    blocks: Blocks,
    inbound: Vec<u8>,
    /// Bytes of `inbound` that were read already.
    consumed: usize,
    outbound: Vec<u8>,
    next: u32,
    /// Send windows: of the connection, and of a new stream.
    window: i64,
    initial: i64,
    /// Bytes received since the last WINDOW_UPDATE.
    received: u32,
    settled: bool,
}

impl Connection {
    /// Connects, and waits for the server's settings.
    pub async fn open(address: &str, blocks: Blocks) -> io::Result<Self> {
        let socket: Box<dyn Socket> = if let Some(path) = address.strip_prefix(UNIX) {
            Box::new(UnixStream::connect(path).await?)
        } else {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Box::new(socket)
        };
        let mut this = Self {
            socket,
            blocks,
            inbound: Vec::with_capacity(1 << 18),
            consumed: 0,
            outbound: PREFACE.to_vec(),
            next: 1,
            window: 65_535,
            initial: 65_535,
            received: 0,
            settled: false,
        };
        this.head(6, SETTINGS, 0, 0);
        this.outbound.extend_from_slice(&INITIAL_WINDOW_SIZE.to_be_bytes());
        this.outbound.extend_from_slice(&WINDOW.to_be_bytes());
        this.window_update(0, WINDOW);
        while !this.settled {
            this.flush().await?;
            this.fill().await?;
            while this.next_frame()?.is_some() {}
        }
        this.flush().await?;
        Ok(this)
    }

    fn head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        self.outbound.extend_from_slice(&[a, b, c, kind, flags]);
        self.outbound.extend_from_slice(&stream.to_be_bytes());
    }

    fn window_update(&mut self, stream: u32, more: u32) {
        self.head(4, WINDOW_UPDATE, 0, stream);
        self.outbound.extend_from_slice(&more.to_be_bytes());
    }

    /// The send window of the connection.
    pub fn window(&self) -> i64 {
        self.window
    }

    /// The send window of a new stream, by the server's latest settings.
    pub fn initial_window(&self) -> i64 {
        self.initial
    }

    /// Opens a stream.
    pub fn begin(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        let block = std::mem::take(if id == 1 { &mut self.blocks.first } else { &mut self.blocks.later });
        self.head(block.len(), HEADERS, END_HEADERS, id);
        self.outbound.extend_from_slice(&block);
        if id > 1 {
            self.blocks.later = block;
        }
        id
    }

    /// Sends bytes on a stream.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.window -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        self.head(bytes.len(), DATA, u8::from(end) * END_STREAM, stream);
        self.outbound.extend_from_slice(bytes);
    }

    /// Sends the buffered frames.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.outbound.is_empty() {
            self.socket.write_all(&self.outbound).await?;
            self.outbound.clear();
        }
        Ok(())
    }

    /// Reads at least one byte. Safe to cancel.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.inbound.drain(..self.consumed);
        self.consumed = 0;
        if self.socket.read_buf(&mut self.inbound).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The next complete frame that the caller must handle, and the range of its payload.
    pub fn next_frame(&mut self) -> io::Result<Option<(Head, std::ops::Range<usize>)>> {
        loop {
            let rest = &self.inbound[self.consumed..];
            let Some(header) = rest.first_chunk::<9>() else { return Ok(None) };
            let head = Head::of(header);
            if rest.len() < 9 + head.length {
                return Ok(None);
            }
            let start = self.consumed + 9;
            let payload = start..start + head.length;
            self.consumed = payload.end;
            match head.kind {
                SETTINGS if head.flags & ACK == 0 => {
                    self.settings(payload);
                    self.head(0, SETTINGS, ACK, 0);
                    self.settled = true;
                }
                PING if head.flags & ACK == 0 => {
                    let echo = self.inbound[payload].to_vec();
                    self.head(echo.len(), PING, ACK, 0);
                    self.outbound.extend_from_slice(&echo);
                }
                WINDOW_UPDATE if head.stream == 0 => self.window += self.increment(&payload),
                GOAWAY => return Err(io::Error::other("the server sent GOAWAY")),
                DATA => {
                    self.received += u32::try_from(head.length).unwrap_or(u32::MAX);
                    if self.received > WINDOW / 2 {
                        let more = std::mem::take(&mut self.received);
                        self.window_update(0, more);
                        // Only a long stream needs this; the server ignores it for one that has ended.
                        self.window_update(head.stream, more);
                    }
                    return Ok(Some((head, payload)));
                }
                _ => return Ok(Some((head, payload))),
            }
        }
    }

    /// The payload of a frame.
    pub fn payload(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.inbound[range]
    }

    /// The increment of a WINDOW_UPDATE.
    pub fn increment(&self, payload: &std::ops::Range<usize>) -> i64 {
        let bytes = self.inbound[payload.clone()].first_chunk::<4>().copied().unwrap_or_default();
        i64::from(u32::from_be_bytes(bytes) & 0x7fff_ffff)
    }

    fn settings(&mut self, payload: std::ops::Range<usize>) {
        for setting in self.inbound[payload].chunks_exact(6) {
            let [a, b, value @ ..]: [u8; 6] = setting.try_into().unwrap_or_default();
            if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                self.initial = i64::from(u32::from_be_bytes(value));
            }
        }
    }
}

/// Whether a frame is a WINDOW_UPDATE.
pub fn is_window_update(head: Head) -> bool {
    head.kind == WINDOW_UPDATE
}
