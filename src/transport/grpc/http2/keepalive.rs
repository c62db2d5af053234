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

impl Keepalive {
    /// Sends the first ping after one interval.
    pub(crate) fn new(pings: PingPong, timeouts: Timeouts) -> Self {
        Self { pings, timeouts, timer: Box::pin(sleep(timeouts.keepalive)), awaiting_pong: false }
    }

    /// Sends a ping when one is due. Returns whether the client has failed to answer the last one in time.
    pub(crate) fn poll_lost(&mut self, cx: &mut Context<'_>) -> bool {
        if self.awaiting_pong {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.awaiting_pong = false;
                    self.timer.as_mut().reset(Instant::now() + self.timeouts.keepalive);
                }
                // The connection reports the same error.
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => {}
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.awaiting_pong || self.pings.send_ping(Ping::opaque()).is_err() {
                return true;
            }
            self.awaiting_pong = true;
            self.timer.as_mut().reset(Instant::now() + self.timeouts.pong);
            if self.pings.poll_pong(cx).is_ready() {
                return true;
            }
        }
        false
    }
}
