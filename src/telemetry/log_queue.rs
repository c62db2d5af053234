//! The queue between the log and standard error.
//!
//! The reader of standard error may be slow, or may have stopped reading. A write to a full pipe blocks for ever, so no
//! thread that serves calls writes there: lines go into a queue of bounded size, and one thread writes them. Lines that
//! find no room are dropped and counted.

use std::{
    io::{self, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written. The writing thread may hold as many again.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// How many of these are reserved for errors, including the messages of panics.
const ERROR_RESERVE: usize = 128 << 10;
/// Bytes in one write, unless one line is longer. `PIPE_BUF` of Linux: such a write is atomic, so its lines are never
/// mixed with those of another writer of the same pipe.
const MAX_WRITE_BYTES: usize = 4_096;
/// How often the thread checks whether it has something to report while no line arrives.
const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a write is repeated where standard error does not block.
const FULL_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Lines that were dropped since the process began: it has one standard error.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Number of log lines that were dropped, because standard error is not read fast enough or is closed.
pub(super) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A queue of lines. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LogQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals the thread that there are lines.
    arrived: Condvar,
    /// Signals that the thread has written all it had.
    written: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    lines: Vec<u8>,
    /// Lines that were dropped and that no line has reported yet.
    dropped: u64,
    writing: bool,
}

/// What the writing thread reports besides writing lines.
pub(super) trait QueueObserver: Send + 'static {
    /// `count` lines were dropped, and there is room again.
    fn dropped(&mut self, count: u64);

    /// Called about once a second.
    fn tick(&mut self, now: Instant);
}

impl LogQueue {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static, observer: impl QueueObserver) -> io::Result<Self> {
        let queue = Self::default();
        let shared = Arc::clone(&queue.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_for_ever(&shared, out, observer))?;
        Ok(queue)
    }

    /// Adds a line, or drops it if there is no room. Never waits for the reader.
    pub fn push(&self, line: &[u8], level: Level) {
        let limit = if level == Level::ERROR { MAX_QUEUED_BYTES } else { MAX_QUEUED_BYTES - ERROR_RESERVE };
        let mut state = self.0.state.lock();
        if state.lines.len() + line.len() > limit {
            state.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.0.arrived.notify_one();
        }
    }

    /// Waits until every line is written, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while state.writing || !state.lines.is_empty() {
            if self.0.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LineWriter<'a> {
        LineWriter { queue: self, level: *event.level() }
    }
}

/// Takes one line: the subscriber writes each in one call.
pub(super) struct LineWriter<'a> {
    queue: &'a LogQueue,
    level: Level,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line, self.level);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_for_ever(shared: &Shared, mut out: impl Write, mut observer: impl QueueObserver) -> ! {
    let (mut batch, mut next_tick) = (Vec::new(), Instant::now() + TICK_INTERVAL);
    loop {
        let dropped = {
            let mut state = shared.state.lock();
            state.writing = false;
            if state.lines.is_empty() {
                shared.written.notify_all();
                shared.arrived.wait_until(&mut state, next_tick);
            }
            std::mem::swap(&mut batch, &mut state.lines);
            state.writing = !batch.is_empty();
            std::mem::take(&mut state.dropped)
        };
        write_lines(&mut out, &batch);
        // The buffer of a burst is freed.
        batch = Vec::new();
        // Report dropped lines only now that the queue has room for the line that reports them.
        if dropped > 0 {
            observer.dropped(dropped);
        }
        let now = Instant::now();
        if now >= next_tick {
            observer.tick(now);
            next_tick = now + TICK_INTERVAL;
        }
    }
}

/// Writes whole lines at a time. Lines that cannot be written are counted as dropped.
fn write_lines(out: &mut impl Write, mut lines: &[u8]) {
    while !lines.is_empty() {
        let window = &lines[..lines.len().min(MAX_WRITE_BYTES)];
        let end = match window.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None => lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |last| last + 1),
        };
        let (chunk, rest) = lines.split_at(end);
        if write_all(out, chunk).is_err() {
            let count = chunk.split(|byte| *byte == b'\n').count() - 1;
            DROPPED.fetch_add(count as u64, Ordering::Relaxed);
        }
        lines = rest;
    }
}

fn write_all(out: &mut impl Write, mut chunk: &[u8]) -> io::Result<()> {
    while !chunk.is_empty() {
        match out.write(chunk) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => chunk = &chunk[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_RETRY_DELAY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Sends each write to the test, and returns only once the test has received it.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct DropCounts(mpsc::Sender<u64>);

    impl QueueObserver for DropCounts {
        fn dropped(&mut self, count: u64) {
            self.0.send(count).unwrap();
        }

        fn tick(&mut self, _: Instant) {}
    }

    fn queue() -> (LogQueue, mpsc::Receiver<Vec<u8>>, mpsc::Receiver<u64>) {
        let ((writes, read), (dropped, drops)) = (mpsc::sync_channel(0), mpsc::channel());
        (LogQueue::start(Reader(writes), DropCounts(dropped)).unwrap(), read, drops)
    }

    #[test]
    fn a_reader_that_does_not_read_delays_nobody_and_later_gets_the_count_of_dropped_lines() {
        let (queue, read, drops) = queue();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let start = Instant::now();
        for _ in 0..10_000 {
            queue.push(&line, Level::INFO);
        }
        queue.flush(Duration::from_millis(50));
        assert!(start.elapsed() < TIMEOUT);
        // An error is accepted when other lines are dropped.
        queue.push(b"error\n", Level::ERROR);
        let (mut lines, mut dropped) = (String::new(), 0);
        let whole = |lines: &str| lines.lines().filter(|line| line.len() == 999).count() as u64;
        // Each line is written whole or counted.
        while whole(&lines) + dropped < 10_000 || !lines.contains("error\n") {
            assert!(start.elapsed() < TIMEOUT, "{} {dropped}", whole(&lines));
            if let Ok(bytes) = read.recv_timeout(Duration::from_millis(5)) {
                lines.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            dropped += drops.try_iter().sum::<u64>();
        }
        assert_eq!(whole(&lines) + dropped, 10_000);
        // The lines in the queue, and those that the thread holds.
        assert!(whole(&lines) * 1_000 <= 2 * MAX_QUEUED_BYTES as u64);
        assert!(dropped_lines() >= dropped);
    }

    #[test]
    fn a_flush_waits_for_what_is_being_written() {
        let (queue, read, _drops) = queue();
        queue.push(b"last\n", Level::INFO);
        let flushing = thread::spawn(move || queue.flush(TIMEOUT));
        thread::sleep(Duration::from_millis(50));
        assert!(!flushing.is_finished());
        assert_eq!(read.recv_timeout(TIMEOUT).unwrap(), b"last\n");
        flushing.join().unwrap();
    }

    #[test]
    fn a_write_holds_whole_lines() {
        struct Writes(Vec<Vec<u8>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let line = |length| [b"x".repeat(length), b"\n".to_vec()].concat();
        let all: Vec<u8> = [line(3_000), line(900), line(900), line(9_000), line(1)].concat();
        let mut out = Writes(Vec::new());
        write_lines(&mut out, &all);
        let lengths: Vec<_> = out.0.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3_902, 901, 9_001, 2]);
        assert_eq!(out.0.concat(), all);
    }
}
