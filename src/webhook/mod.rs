//! Webhooks: delivers events to the receivers of keys.
//!
//! Events and their deliveries are rows of the database (an outbox), written with the change that they report. [`worker`]
//! claims deliveries that are due, [`scheduler`] decides which of them may start, [`attempt`] makes one attempt and
//! records its result, [`message`] builds the request, and [`client`] sends it.

mod attempt;
pub mod client;
mod deps;
mod message;
mod scheduler;
mod worker;

pub use self::{attempt::DeliveryRules, deps::OutboxDeps, worker::OutboxWorker};
