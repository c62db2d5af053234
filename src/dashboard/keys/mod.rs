//! The pages of keys.

pub(super) mod create;
pub(super) mod list;
pub(super) mod one;
pub(super) mod revoke;
mod row;
pub(super) mod secret;
pub(super) mod selected;
pub(super) mod webhook;

/// Where the pages are.
const PATH: &str = "/dashboard/settings/api-keys";
