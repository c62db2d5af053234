//! Unary calls: each connection keeps so many in flight, or keeps a rate.

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
    Failure,
    bodies::Bodies,
    measure::{Answer, Tally},
    wire::{Blocks, Connection, DATA, END_STREAM, HEADERS, Head, RST_STREAM},
};

#[derive(Args)]
pub struct Unary {
    /// Address of the server.
    #[arg(long)]
    addr: String,
    #[arg(long, default_value = "/keyward.v1.KeyService/Verify")]
    path: String,
    /// Requests, taken in their order, each by one call, and then again from the first.
    #[arg(long)]
    bodies: PathBuf,
    /// How far the next request is from the one before: one that divides nothing but itself goes over all of them, in
    /// another order than they were made in.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Take no request twice: end when the last is answered.
    #[arg(long)]
    once: bool,
    /// The caller's credential.
    #[arg(long)]
    bearer: Option<String>,
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Calls in flight on each connection, at most.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Calls a second in all; without it, as many as the server answers.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// The server's process, for its CPU time.
    #[arg(long)]
    pid: Option<u32>,
    /// What each answer must begin with, in hex: `0801` is a VALID verdict.
    #[arg(long, default_value = "0801")]
    expect: String,
    /// Answers that are not the expected one are counted, and are no failure.
    #[arg(long)]
    lenient: bool,
    /// Where the key id of each answer goes, a line each.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Where the first answer's message goes.
    #[arg(long)]
    answer: Option<PathBuf>,
}

/// What the connections share.
struct Work {
    bodies: Bodies,
    next: usize,
    stride: usize,
    /// Requests that may still be taken.
    left: usize,
    tally: Tally,
    expect: Vec<u8>,
    ids: Option<std::io::BufWriter<std::fs::File>>,
    answer: Option<PathBuf>,
}

impl Work {
    fn take(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.next;
        self.next = (place + self.stride) % self.bodies.len();
        Some(place)
    }

    fn judge(&mut self, payload: &[u8]) -> Result<Answer, Failure> {
        let message = payload.get(5..).unwrap_or_default();
        if let Some(file) = self.answer.take() {
            std::fs::write(file, message)?;
        }
        if let Some(ids) = &mut self.ids
            && let Some(at) = message.windows(4).position(|part| part == b"key_")
            && let Some(id) = message.get(at..at + 30)
        {
            ids.write_all(id)?;
            ids.write_all(b"\n")?;
        }
        Ok(if payload.len() > 5 && message.starts_with(&self.expect) { Answer::Expected } else { Answer::Unexpected })
    }
}

/// Places for calls in flight; far more than there are.
const SLOTS: usize = 1 << 13;

#[derive(Clone, Copy)]
struct Slot {
    start: Instant,
    answer: Answer,
}

struct Pace {
    gap: Duration,
    due: Instant,
}

struct Caller {
    connection: Connection,
    work: Rc<RefCell<Work>>,
    slots: Vec<Slot>,
    flying: usize,
    most: usize,
    pace: Option<Pace>,
    done: bool,
}

fn slot(stream: u32) -> usize {
    (stream >> 1) as usize & (SLOTS - 1)
}

impl Caller {
    /// Sends what may be sent now.
    fn send(&mut self) {
        let mut work = self.work.borrow_mut();
        let now = Instant::now();
        self.done |= now >= work.tally.until();
        while !self.done && self.flying < self.most {
            if let Some(pace) = &mut self.pace {
                if pace.due > now {
                    break;
                }
                pace.due += pace.gap;
            }
            let Some(place) = work.take() else {
                self.done = true;
                break;
            };
            let frame = work.bodies.frame(place);
            if self.connection.window() < i64::try_from(frame.len()).unwrap_or(i64::MAX) {
                work.next = place;
                work.left += 1;
                break;
            }
            let stream = self.connection.begin();
            self.connection.data(stream, frame, true);
            work.tally.sends();
            self.slots[slot(stream)] = Slot { start: now, answer: Answer::Failed };
            self.flying += 1;
        }
    }

    fn see(&mut self, head: Head, payload: std::ops::Range<usize>, now: Instant) -> Result<(), Failure> {
        let slot = &mut self.slots[slot(head.stream)];
        let ends = match head.kind {
            DATA => {
                if !payload.is_empty() {
                    slot.answer = self.work.borrow_mut().judge(self.connection.payload(payload))?;
                }
                head.flags & END_STREAM != 0
            }
            HEADERS => head.flags & END_STREAM != 0,
            RST_STREAM => {
                // After a whole answer it only says that the rest of the request is not wanted.
                slot.answer = Answer::Failed;
                true
            }
            _ => false,
        };
        if ends {
            self.flying -= 1;
            self.work.borrow_mut().tally.answered(slot.answer, slot.start, now);
        }
        Ok(())
    }

    async fn run(mut self) -> Result<(), Failure> {
        loop {
            self.send();
            self.connection.flush().await?;
            if self.done && self.flying == 0 {
                return Ok(());
            }
            let until = self.work.borrow().tally.until();
            match &self.pace {
                Some(pace) if self.flying < self.most && !self.done => {
                    tokio::select! {
                        filled = self.connection.fill() => filled?,
                        () = sleep_until(pace.due.into()) => {}
                    }
                }
                _ => {
                    // What is not answered long after the end never will be.
                    let bound = until + Duration::from_secs(15);
                    timeout_at(bound.into(), self.connection.fill()).await??;
                }
            }
            let now = Instant::now();
            while let Some((head, payload)) = self.connection.next_frame()? {
                self.see(head, payload, now)?;
            }
        }
    }
}

impl Unary {
    pub async fn run(self) -> Result<(), Failure> {
        let blocks = Blocks::record(&self.addr, &self.path, self.bearer.as_deref()).await?;
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.addr, blocks.clone()).await?);
        }
        let bodies = Bodies::read(&self.bodies)?;
        let left = if self.once { bodies.len() } else { usize::MAX };
        let ids = self.ids.map(std::fs::File::create).transpose()?.map(std::io::BufWriter::new);
        let expect = data_encoding::HEXLOWER.decode(self.expect.as_bytes())?;
        let (warmup, length) = (Duration::from_secs_f64(self.warmup), Duration::from_secs_f64(self.seconds));
        let tally = Tally::new(warmup, length, self.pid);
        let (from, until) = (tally.from(), tally.until());
        let work = Work { bodies, next: 0, stride: self.stride, left, tally, expect, ids, answer: self.answer };
        let work = Rc::new(RefCell::new(work));
        let mut callers = Vec::new();
        for (place, connection) in (0_u32..).zip(connections) {
            let pace = self.rate.map(|rate| {
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                let gap = Duration::from_secs_f64(self.connections as f64 / rate);
                // The connections take turns.
                Pace { gap, due: Instant::now() + gap * place / u32::try_from(self.connections).unwrap_or(1) }
            });
            callers.push(tokio::task::spawn_local(
                Caller {
                    connection,
                    work: Rc::clone(&work),
                    slots: vec![Slot { start: from, answer: Answer::Failed }; SLOTS],
                    flying: 0,
                    most: self.streams,
                    pace,
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

/// Notes CPU times when the measured part begins and when it ends.
async fn sample(work: Rc<RefCell<Work>>, from: Instant, until: Instant) {
    sleep_until(from.into()).await;
    work.borrow_mut().tally.sample(0);
    sleep_until(until.into()).await;
    work.borrow_mut().tally.sample(1);
}

fn finish(sampler: &tokio::task::JoinHandle<()>, work: &RefCell<Work>, lenient: bool) -> Result<(), Failure> {
    let early = !sampler.is_finished();
    sampler.abort();
    {
        let mut work = work.borrow_mut();
        if early {
            work.tally.sample(1);
            work.tally.ends_early(Instant::now());
        }
        if let Some(ids) = &mut work.ids {
            ids.flush()?;
        }
    }
    // The aborted task may hold its share for a moment yet: what is needed is moved out.
    let tally = std::mem::replace(&mut work.borrow_mut().tally, Tally::new(Duration::ZERO, Duration::ZERO, None));
    tally.print(lenient)
}
