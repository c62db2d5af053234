//! Logs and metrics.

mod attach;
mod escape;
mod log_queue;
mod log_repeats;
mod logging;
mod metrics;
pub mod webhooks;

pub use self::{
    attach::AttachSnapshot,
    logging::{LogGuard, Logging, print_problems},
    metrics::{GaugeSnapshot, Metrics},
};
