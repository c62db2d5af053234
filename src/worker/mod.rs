//! What goes on beside calls and takes more than a tick: telling webhooks.

pub mod webhooks;
