//! Unary calls. Each connection keeps a number of calls in flight, or a rate.

use std::{
    cell::RefCell,
    io::Write as _,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::{sleep_until, timeout_at};

use crate::{
    BoxError,
    bodies::Bodies,
    measure::{Response, Tally},
    wire::{Blocks, Connection, DATA, END_STREAM, HEADERS, Head, RST_STREAM},
};

#[derive(Args)]
pub struct Unary {
    /// Address of the server.
    #[arg(long)]
    addr: String,
    #[arg(long, default_value = "/keyward.v1.KeyService/Verify")]
    path: String,
    /// A file of requests. Each call sends the next one; after the last comes the first again.
    #[arg(long)]
    bodies: PathBuf,
    /// Distance from one request of the file to the next. A prime visits all of them, in another order than the file's.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Send no request twice: stop when the last one is answered.
    #[arg(long)]
    once: bool,
    /// The caller's credential.
    #[arg(long)]
    bearer: Option<String>,
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Maximum of calls in flight on each connection.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Calls per second on all connections together; without it, as many as the server answers.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Process id of the server, to read its CPU time.
    #[arg(long)]
    pid: Option<u32>,
    /// The first bytes of an expected response, in hex: `0801` is a VALID verdict.
    #[arg(long, default_value = "0801")]
    expect: String,
    /// Count unexpected responses instead of failing.
    #[arg(long)]
    lenient: bool,
    /// File for the key ids of the responses, one on each line.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// File for the message of the first response.
    #[arg(long)]
    response: Option<PathBuf>,
}

/// State that the connections share.
struct Work {
    bodies: Bodies,
    next: usize,
    stride: usize,
    /// Requests that may still be sent.
    remaining: usize,
    tally: Tally,
    expect: Vec<u8>,
    ids: Option<std::io::BufWriter<std::fs::File>>,
    response: Option<PathBuf>,
}

impl Work {
    /// The index of the next request.
    fn take(&mut self) -> Option<usize> {
        self.remaining = self.remaining.checked_sub(1)?;
        let index = self.next;
        self.next = (index + self.stride) % self.bodies.len();
        Some(index)
    }

    fn classify(&mut self, payload: &[u8]) -> Result<Response, BoxError> {
        let message = payload.get(5..).unwrap_or_default();
        if let Some(file) = self.response.take() {
            std::fs::write(file, message)?;
        }
        if let Some(ids) = &mut self.ids
            && let Some(at) = message.windows(4).position(|part| part == b"key_")
            && let Some(id) = message.get(at..at + 30)
        {
            ids.write_all(id)?;
            ids.write_all(b"\n")?;
        }
        Ok(if payload.len() > 5 && message.starts_with(&self.expect) {
            Response::Expected
        } else {
            Response::Unexpected
        })
    }
}

/// Slots for calls in flight: far more than there are.
const SLOTS: usize = 1 << 13;

#[derive(Clone, Copy)]
struct Slot {
    start: Instant,
    response: Response,
}

/// Spreads calls evenly in time.
struct Pacer {
    interval: Duration,
    due: Instant,
}

struct Caller {
    connection: Connection,
    work: Rc<RefCell<Work>>,
    slots: Vec<Slot>,
    in_flight: usize,
    max_in_flight: usize,
    pacer: Option<Pacer>,
    done: bool,
}

fn slot(stream: u32) -> usize {
    (stream >> 1) as usize & (SLOTS - 1)
}

impl Caller {
    /// Sends as many requests as may be in flight.
    fn send(&mut self) {
        let mut work = self.work.borrow_mut();
        let now = Instant::now();
        self.done |= now >= work.tally.until();
        while !self.done && self.in_flight < self.max_in_flight {
            if let Some(pacer) = &mut self.pacer {
                if pacer.due > now {
                    break;
                }
                pacer.due += pacer.interval;
            }
            let Some(index) = work.take() else {
                self.done = true;
                break;
            };
            let frame = work.bodies.frame(index);
            if self.connection.window() < i64::try_from(frame.len()).unwrap_or(i64::MAX) {
                work.next = index;
                work.remaining += 1;
                break;
            }
            let stream = self.connection.begin();
            self.connection.data(stream, frame, true);
            work.tally.sent();
            self.slots[slot(stream)] = Slot { start: now, response: Response::Failed };
            self.in_flight += 1;
        }
    }

    /// Handles a frame of the server.
    fn receive(&mut self, head: Head, payload: std::ops::Range<usize>, now: Instant) -> Result<(), BoxError> {
        let slot = &mut self.slots[slot(head.stream)];
        let ends = match head.kind {
            DATA => {
                if !payload.is_empty() {
                    slot.response = self.work.borrow_mut().classify(self.connection.payload(payload))?;
                }
                head.flags & END_STREAM != 0
            }
            HEADERS => head.flags & END_STREAM != 0,
            RST_STREAM => {
                // The call has failed, also if a response came before.
                slot.response = Response::Failed;
                true
            }
            _ => false,
        };
        if ends {
            self.in_flight -= 1;
            self.work.borrow_mut().tally.received(slot.response, slot.start, now);
        }
        Ok(())
    }

    async fn run(mut self) -> Result<(), BoxError> {
        loop {
            self.send();
            self.connection.flush().await?;
            if self.done && self.in_flight == 0 {
                return Ok(());
            }
            let until = self.work.borrow().tally.until();
            match &self.pacer {
                Some(pacer) if self.in_flight < self.max_in_flight && !self.done => {
                    tokio::select! {
                        filled = self.connection.fill() => filled?,
                        () = sleep_until(pacer.due.into()) => {}
                    }
                }
                _ => {
                    // A call without a response long after the end will not get one.
                    let bound = until + Duration::from_secs(15);
                    timeout_at(bound.into(), self.connection.fill()).await??;
                }
            }
            let now = Instant::now();
            while let Some((head, payload)) = self.connection.next_frame()? {
                self.receive(head, payload, now)?;
            }
        }
    }
}

impl Unary {
    pub async fn run(self) -> Result<(), BoxError> {
        let blocks = Blocks::record(&self.addr, &self.path, self.bearer.as_deref()).await?;
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.addr, blocks.clone()).await?);
        }
        let bodies = Bodies::read(&self.bodies)?;
        let remaining = if self.once { bodies.len() } else { usize::MAX };
        let ids = self.ids.map(std::fs::File::create).transpose()?.map(std::io::BufWriter::new);
        let expect = data_encoding::HEXLOWER.decode(self.expect.as_bytes())?;
        let (warmup, length) = (Duration::from_secs_f64(self.warmup), Duration::from_secs_f64(self.seconds));
        let tally = Tally::new(warmup, length, self.pid);
        let (from, until) = (tally.from(), tally.until());
        let work =
            Work { bodies, next: 0, stride: self.stride, remaining, tally, expect, ids, response: self.response };
        let work = Rc::new(RefCell::new(work));
        let mut callers = Vec::new();
        for (index, connection) in (0_u32..).zip(connections) {
            let pacer = self.rate.map(|rate| {
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                let interval = Duration::from_secs_f64(self.connections as f64 / rate);
                // The connections send one after the other.
                Pacer {
                    interval,
                    due: Instant::now() + interval * index / u32::try_from(self.connections).unwrap_or(1),
                }
            });
            callers.push(tokio::task::spawn_local(
                Caller {
                    connection,
                    work: Rc::clone(&work),
                    slots: vec![Slot { start: from, response: Response::Failed }; SLOTS],
                    in_flight: 0,
                    max_in_flight: self.streams,
                    pacer,
                    done: false,
                }
                .run(),
            ));
        }
        let sampler = tokio::task::spawn_local(sample(Rc::clone(&work), from, until));
        for caller in callers {
            caller.await??;
        }
        finish(&sampler, &work, self.lenient)
    }
}

/// Reads the CPU times at the begin and the end of the measured time.
async fn sample(work: Rc<RefCell<Work>>, from: Instant, until: Instant) {
    sleep_until(from.into()).await;
    work.borrow_mut().tally.sample(0);
    sleep_until(until.into()).await;
    work.borrow_mut().tally.sample(1);
}

fn finish(sampler: &tokio::task::JoinHandle<()>, work: &RefCell<Work>, lenient: bool) -> Result<(), BoxError> {
    let early = !sampler.is_finished();
    sampler.abort();
    {
        let mut work = work.borrow_mut();
        if early {
            work.tally.sample(1);
            work.tally.end_early(Instant::now());
        }
        if let Some(ids) = &mut work.ids {
            ids.flush()?;
        }
    }
    // The aborted task may still hold a reference, so the tally is moved out.
    let tally = std::mem::replace(&mut work.borrow_mut().tally, Tally::new(Duration::ZERO, Duration::ZERO, None));
    tally.print(lenient)
}
