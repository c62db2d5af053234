//! The store: keys, events and deliveries in Postgres or SQLite, behind coarse verbs. A backend owns connections,
//! transactions and retries; no transaction type leaves this module.
//!
//! | where | what |
//! |---|---|
//! | [`keys`], [`events`], [`database`] | by noun: the types and the trait with its verbs and their rules |
//! | `engine` | what both databases share: the pool, batches, retries, verbs (`ops`), shared SQL (`sql`), rows (`rows`) |
//! | [`postgres`], [`sqlite`] | what only that database has: how it is opened, its own SQL, Postgres's change feed |
//!
//! Three traits are between a service and a connection: the noun's ([`KeyStore`], [`EventStore`], [`Store`]); what its
//! verbs need of a database in that database's own SQL (`KeyDialect` and `EventDialect` in `engine::ops`); and
//! `Executor`, which runs statements on a connection. [`ChangeFeed`](change_feed::ChangeFeed) is apart from them: a
//! follower owns its connections.
//!
//! # Adding a verb
//!
//! A verb about keys, for example, touches at most four files:
//!
//! 1. `keys.rs`: its method in [`KeyStore`], its types, and its rules. Each MUST names a case of the conformance suite.
//! 2. `engine/ops/keys/`: how it runs.
//! 3. `engine/sql/keys.rs`: its statement, if both databases run the same text.
//!
//! If they do not, `engine/ops/keys/` also gets a method of `KeyDialect`, and instead of `engine/sql/keys.rs` there are
//!
//! 3. `postgres/keys.rs` and
//! 4. `sqlite/keys.rs`: the method with its statements, which are added to the list of statements that a test prepares.
//!
//! A row of a new shape is declared in `engine/rows/keys.rs`, instead of the shared statement or in addition to it.
//!
//! The conformance suite (`tests/store/`) runs on both databases; the case goes there.

pub mod change_feed;
pub mod database;
pub mod engine;
pub mod error;
pub mod events;
pub mod keys;
pub mod page;
pub mod postgres;
pub mod sessions;
pub mod sqlite;

pub use self::{
    database::{InstallationRow, PoolGauge, ReplicaRow, Store},
    engine::batch,
    error::{OpenError, Result, StoreError, Unavailability, UnavailableCause},
    events::EventStore,
    keys::{KeyStore, ListQuery, Revocation, Usage, WebhookChange},
    sessions::SessionStore,
};
