//! VerifyStream: so many checks in flight on each stream.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::timeout_at;

use crate::{
    Failure,
    bodies::Bodies,
    measure::{Answer, Tally},
    wire::{Blocks, Connection, DATA, END_STREAM, FRAME, HEADERS, Head, RST_STREAM, is_window_update},
};

#[derive(Args)]
pub struct Stream {
    /// Address of the server.
    #[arg(long)]
    addr: String,
    /// VerifyRequests, taken in their order.
    #[arg(long)]
    bodies: PathBuf,
    /// How far the next request is from the one before.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// The caller's credential.
    #[arg(long)]
    bearer: Option<String>,
    /// Checks in flight.
    #[arg(long, default_value_t = 64)]
    flying: usize,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// The server's process, for its CPU time.
    #[arg(long)]
    pid: Option<u32>,
    /// Answers other than VALID are no failure.
    #[arg(long)]
    lenient: bool,
}

const PATH: &str = "/keyward.v1.KeyService/VerifyStream";

/// The parts of the messages that matter here.
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

/// One stream at work.
struct Checks {
    connection: Connection,
    stream: u32,
    window: i64,
    bodies: Bodies,
    tally: Tally,
    starts: Vec<Instant>,
    /// Place of the next request.
    place: usize,
    stride: usize,
    /// Checks that were sent.
    next: u64,
    flying: usize,
    most: usize,
    /// Messages on their way out, and what came in without a message's end.
    out: Vec<u8>,
    partial: Vec<u8>,
    /// The server has ended the stream.
    ended: bool,
}

impl Checks {
    fn send(&mut self, now: Instant) {
        while self.flying < self.most {
            let request = self.bodies.message(self.place);
            self.place = (self.place + self.stride) % self.bodies.len();
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
            self.flying += 1;
            self.tally.sends();
        }
    }

    /// Moves what the windows let through.
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

    fn see(&mut self, head: Head, payload: std::ops::Range<usize>, now: Instant) {
        match head.kind {
            DATA => {
                self.partial.extend_from_slice(self.connection.payload(payload));
                self.answers(now);
            }
            HEADERS | RST_STREAM => self.ended |= head.kind == RST_STREAM || head.flags & END_STREAM != 0,
            _ if is_window_update(head) && head.stream == self.stream => {
                self.window += self.connection.increment(&payload);
            }
            _ => {}
        }
    }

    fn answers(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(length) = self.partial.get(at + 1..at + 5) {
            let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
            let Some(message) = self.partial.get(at + 5..at + 5 + length) else { break };
            at += 5 + length;
            self.flying = self.flying.saturating_sub(1);
            let (id, valid) = read(message).unwrap_or((0, false));
            let start = self.starts[usize::try_from(id).unwrap_or(0) & (self.starts.len() - 1)];
            self.tally.answered(if valid { Answer::Expected } else { Answer::Unexpected }, start, now);
        }
        self.partial.drain(..at);
    }

    async fn run(mut self, lenient: bool) -> Result<(), Failure> {
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
            if now >= until && self.flying == 0 || self.ended {
                break;
            }
            timeout_at((until + Duration::from_secs(15)).into(), self.connection.fill()).await??;
            let now = Instant::now();
            while let Some((head, payload)) = self.connection.next_frame()? {
                self.see(head, payload, now);
            }
        }
        self.tally.sample(1);
        self.tally.print(lenient)
    }
}

impl Stream {
    pub async fn run(self) -> Result<(), Failure> {
        let blocks = Blocks::record(&self.addr, PATH, self.bearer.as_deref()).await?;
        let bodies = Bodies::read(&self.bodies)?;
        let mut connection = Connection::open(&self.addr, blocks).await?;
        let stream = connection.begin();
        let (warmup, length) = (Duration::from_secs_f64(self.warmup), Duration::from_secs_f64(self.seconds));
        let tally = Tally::new(warmup, length, self.pid);
        let checks = Checks {
            window: connection.initial_window(),
            connection,
            stream,
            bodies,
            starts: vec![tally.from(); self.flying.next_power_of_two() * 4],
            place: 0,
            stride: self.stride,
            tally,
            next: 0,
            flying: 0,
            most: self.flying,
            out: Vec::new(),
            partial: Vec::new(),
            ended: false,
        };
        checks.run(self.lenient).await
    }
}
