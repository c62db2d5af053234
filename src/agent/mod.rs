//! `keyward agent`: answers Verify, VerifyStream and Envoy's Check on the caller's own host, from memory under a lease of a
//! replica's. It is the client ([`keyward_client`]) behind the connections of the gRPC listener, without a database.
//!
//! Only VALID is answered from memory. Everything else, and every call of a caller whose key is not in memory, is
//! decided by a replica: the call is made there with the caller's own credential, within the caller's deadline, and
//! answered as the replica answers it. What cannot be decided is UNAVAILABLE. Callers authenticate as at a replica; the
//! agent's own credential is for its memory, and for callers of a Unix socket whose file mode is to be their
//! credential.
//!
//! [`settings`] reads what is set, [`run()`] starts and stops. `listener` accepts connections, `handler` answers from
//! memory on the task that read a call (`local`), and passes other calls to `calls` and `stream`, which call replicas
//! through `upstream`.

mod authority;
mod caller;
mod calls;
mod check;
mod forward_auth;
mod handler;
mod listener;
mod local;
mod metrics;
mod metrics_server;
mod readiness;
mod run;
pub mod settings;
mod socket;
mod state;
mod stream;
mod upstream;

pub use self::{
    run::run,
    settings::{Flags, Settings},
};
