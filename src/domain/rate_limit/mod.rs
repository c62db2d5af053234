//! Rate limits: a strict sliding window, and permits that replicas take from a shared window ahead of need.
//!
//! All arithmetic is on integers, and time is an argument.

mod limit;
pub mod permit_lease;
mod window;

pub(crate) use self::limit::{DEFAULT_FAILED_AUTHENTICATION_LIMIT, DEFAULT_PUBLIC_CREATE_LIMIT, MAX_LIMIT};
pub use self::{
    limit::{OnTimeout, RateLimit, RateState, SpendResult},
    window::SlidingWindow,
};
