//! VerifyStream with a number of checks in flight.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::timeout_at;

use crate::{
    BoxError,
    bodies::Bodies,
    measure::{Response, Tally},
    wire::{Blocks, Connection, DATA, END_STREAM, FRAME, HEADERS, Head, RST_STREAM, is_window_update},
};

#[derive(Args)]
pub struct Stream {
    /// Address of the server.
    #[arg(long)]
    addr: String,
    /// A file of VerifyRequests.
    #[arg(long)]
    bodies: PathBuf,
    /// Distance from one request of the file to the next.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// The caller's credential.
    #[arg(long)]
    bearer: Option<String>,
    /// Checks in flight.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Process id of the server, to read its CPU time.
    #[arg(long)]
    pid: Option<u32>,
    /// Count verdicts other than VALID instead of failing.
    #[arg(long)]
    lenient: bool,
}

const PATH: &str = "/keyward.v1.KeyService/VerifyStream";

/// Tags of field 1 (a varint) and of field 2 (a message).
const ID: u8 = 1 << 3;
const SECOND: u8 = 2 << 3 | 2;
/// `code: VALID` at the beginning of a VerifyResponse.
const VALID: &[u8] = &[ID, 1];

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The id of a VerifyStreamResponse, and whether it is VALID.
fn read(mut message: &[u8]) -> Option<(u64, bool)> {
    let mut id = 0;
    while let Some((tag, rest)) = message.split_first() {
        message = rest;
        let value = read_varint(&mut message)?;
        match *tag {
            ID => id = value,
            SECOND => return Some((id, message.starts_with(VALID))),
            _ => return Some((id, false)),
        }
    }
    None
}

/// The state of the stream.
struct Checks {
    connection: Connection,
    stream: u32,
    window: i64,
    /// The window that a new stream would have.
    initial_window: i64,
    bodies: Bodies,
    tally: Tally,
    starts: Vec<Instant>,
    /// Index of the next request.
    index: usize,
    stride: usize,
    /// Checks that were sent.
    next: u64,
    in_flight: usize,
    max_in_flight: usize,
    /// Messages that are not sent yet.
    out: Vec<u8>,
    /// Received bytes without the end of their message.
    partial: Vec<u8>,
    /// The server has ended the stream.
    ended: bool,
}

impl Checks {
    fn send(&mut self, now: Instant) {
        while self.in_flight < self.max_in_flight {
            let request = self.bodies.message(self.index);
            self.index = (self.index + self.stride) % self.bodies.len();
            let begin = self.out.len();
            self.out.extend_from_slice(&[0; 5]);
            self.out.push(ID);
            varint(self.next, &mut self.out);
            self.out.push(SECOND);
            varint(request.len() as u64, &mut self.out);
            self.out.extend_from_slice(request);
            let length = u32::try_from(self.out.len() - begin - 5).unwrap_or(0);
            self.out[begin + 1..begin + 5].copy_from_slice(&length.to_be_bytes());
            let slots = self.starts.len();
            self.starts[usize::try_from(self.next).unwrap_or(0) & (slots - 1)] = now;
            self.next += 1;
            self.in_flight += 1;
            self.tally.sent();
        }
    }

    /// Sends as much as the flow-control windows allow.
    fn push_out(&mut self) {
        while !self.out.is_empty() {
            let room = usize::try_from(self.window.min(self.connection.window())).unwrap_or(0);
            let part = self.out.len().min(FRAME).min(room);
            if part == 0 {
                return;
            }
            self.connection.data(self.stream, &self.out[..part], false);
            self.window -= i64::try_from(part).unwrap_or(0);
            self.out.drain(..part);
        }
    }

    fn receive(&mut self, head: Head, payload: std::ops::Range<usize>, now: Instant) {
        match head.kind {
            DATA => {
                self.partial.extend_from_slice(self.connection.payload(payload));
                self.read_responses(now);
            }
            HEADERS | RST_STREAM => self.ended |= head.kind == RST_STREAM || head.flags & END_STREAM != 0,
            _ if is_window_update(head) && head.stream == self.stream => {
                self.window += self.connection.increment(&payload);
            }
            _ => {}
        }
    }

    fn read_responses(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(length) = self.partial.get(at + 1..at + 5) {
            let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
            let Some(message) = self.partial.get(at + 5..at + 5 + length) else { break };
            at += 5 + length;
            self.in_flight = self.in_flight.saturating_sub(1);
            let (id, valid) = read(message).unwrap_or((0, false));
            let start = self.starts[usize::try_from(id).unwrap_or(0) & (self.starts.len() - 1)];
            self.tally.received(if valid { Response::Expected } else { Response::Unexpected }, start, now);
        }
        self.partial.drain(..at);
    }

    async fn run(mut self, lenient: bool) -> Result<(), BoxError> {
        let (from, until) = (self.tally.from(), self.tally.until());
        let mut sampled = false;
        loop {
            let now = Instant::now();
            if !sampled && now >= from {
                self.tally.sample(0);
                sampled = true;
            }
            if now < until {
                self.send(now);
            }
            self.push_out();
            self.connection.flush().await?;
            if now >= until && self.in_flight == 0 || self.ended {
                break;
            }
            timeout_at((until + Duration::from_secs(15)).into(), self.connection.fill()).await??;
            let now = Instant::now();
            while let Some((head, payload)) = self.connection.next_frame()? {
                self.receive(head, payload, now);
            }
            // Settings that arrive later change the windows of open streams, too (RFC 9113, section 6.9.2).
            let initial = self.connection.initial_window();
            self.window += initial - std::mem::replace(&mut self.initial_window, initial);
        }
        self.tally.sample(1);
        self.tally.print(lenient)
    }
}

impl Stream {
    pub async fn run(self) -> Result<(), BoxError> {
        let blocks = Blocks::record(&self.addr, PATH, self.bearer.as_deref()).await?;
        let bodies = Bodies::read(&self.bodies)?;
        let mut connection = Connection::open(&self.addr, blocks).await?;
        let stream = connection.begin();
        let (warmup, length) = (Duration::from_secs_f64(self.warmup), Duration::from_secs_f64(self.seconds));
        let tally = Tally::new(warmup, length, self.pid);
        let checks = Checks {
            window: connection.initial_window(),
            initial_window: connection.initial_window(),
            connection,
            stream,
            bodies,
            starts: vec![tally.from(); self.in_flight.next_power_of_two() * 4],
            index: 0,
            stride: self.stride,
            tally,
            next: 0,
            in_flight: 0,
            max_in_flight: self.in_flight,
            out: Vec::new(),
            partial: Vec::new(),
            ended: false,
        };
        checks.run(self.lenient).await
    }
}
