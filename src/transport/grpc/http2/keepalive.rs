//! Keepalive pings.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::options::Timeouts;

/// Pings a client at intervals to find out whether it still answers.
pub(crate) struct Keepalive {
    pings: PingPong,
    timeouts: Timeouts,
    /// Until the next ping, or until the pong is overdue.
    timer: Pin<Box<Sleep>>,
    awaiting_pong: bool,
}

/// The result of polling the keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Nothing is due.
    Unchanged,
    /// A ping was sent.
    Pinged,
    /// The client has failed to answer the last ping in time.
    Lost,
}

impl Keepalive {
    /// Sends the first ping after one interval.
    pub(crate) fn new(pings: PingPong, timeouts: Timeouts) -> Self {
        Self { pings, timeouts, timer: Box::pin(sleep(timeouts.keepalive)), awaiting_pong: false }
    }

    /// Sends a ping when one is due.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Liveness {
        let mut liveness = Liveness::Unchanged;
        if self.awaiting_pong {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.awaiting_pong = false;
                    self.timer.as_mut().reset(Instant::now() + self.timeouts.keepalive);
                }
                // The connection reports the same error.
                Poll::Ready(Err(_)) => return Liveness::Unchanged,
                Poll::Pending => {}
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.awaiting_pong || self.pings.send_ping(Ping::opaque()).is_err() {
                return Liveness::Lost;
            }
            self.awaiting_pong = true;
            liveness = Liveness::Pinged;
            self.timer.as_mut().reset(Instant::now() + self.timeouts.pong);
            if self.pings.poll_pong(cx).is_ready() {
                return Liveness::Lost;
            }
        }
        liveness
    }
}
