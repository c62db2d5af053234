//! Logs and metrics.

mod log_queue;
mod log_repeats;
mod logging;
mod metrics;
pub mod webhooks;

pub use self::{
    logging::{LogGuard, Logging, print_problems},
    metrics::{GaugeSnapshot, Metrics},
};
