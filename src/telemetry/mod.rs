//! Logs and metrics.

mod logging;
mod metrics;
pub mod webhooks;

pub use self::{
    logging::Logging,
    metrics::{GaugeSnapshot, Metrics},
};
