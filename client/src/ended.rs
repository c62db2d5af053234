//! The end of work that was admitted under a key.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use crate::reason::Reason;

/// Why work under a key has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The key would be refused now: it is revoked, has expired, is bound elsewhere, or lost a scope.
    Refused(Reason),
    /// No live lease has covered the key for [`AttachOptions::grace_period`](crate::AttachOptions::grace_period). The
    /// key may be valid.
    LeaseLost,
}

impl std::error::Error for EndReason {}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the key is refused now: {}", reason.name()),
            Self::LeaseLost => f.write_str("no live lease covers the key"),
        }
    }
}

/// Why a key is not watched. The key may be valid, or may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotWatched {
    /// The client is not attached, was not when it verified the key, or was detached or dropped.
    NotAttached,
    /// The client watches all the keys that it may: 65,536.
    TooManyKeys,
}

impl fmt::Display for NotWatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAttached => "the client is not attached, so it cannot watch the key",
            Self::TooManyKeys => "the client watches all the keys that it may",
        })
    }
}

impl std::error::Error for NotWatched {}

/// Completes at the end of a key, see [`Principal::ended`](crate::Principal::ended). If it is dropped, it does not
/// watch the key any more.
#[must_use = "futures do nothing until they are awaited"]
pub struct Ended(Pin<Box<dyn Future<Output = Result<EndReason, NotWatched>> + Send + Sync>>);

impl Ended {
    pub(crate) fn new(waiting: impl Future<Output = Result<EndReason, NotWatched>> + Send + Sync + 'static) -> Self {
        Self(Box::pin(waiting))
    }

    pub(crate) fn not_watched(why: NotWatched) -> Self {
        Self::new(std::future::ready(Err(why)))
    }
}

impl Future for Ended {
    type Output = Result<EndReason, NotWatched>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ended")
    }
}
