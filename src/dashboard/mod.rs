//! The dashboard: pages for people, over the same use cases as gRPC and REST.
//!
//! Each page is HTML made on the server from a template in `templates/`; every action is a plain form, which works
//! without script. A handler reads a request, calls a use case and fills a template. Rules are in the use cases.
//!
//! | file | content |
//! |---|---|
//! | `router` | the list of routes |
//! | `viewer` | the session of a request and its caller; the refusal of forms that are not this session's |
//! | `form`, `cookies` | bounded forms, cookies |
//! | `chrome`, `response`, `assets`, `static_files` | what every page has in common: navigation, headers, files in the binary |
//! | `sign_in`, `issuer` | signing in with a key or at an issuer, signing out |
//! | `keys/`, `activity`, `overview`, `own_sessions` | the pages |

mod activity;
mod assets;
mod charts;
mod chrome;
mod cookies;
mod form;
mod issuer;
mod keys;
mod overview;
mod own_sessions;
mod response;
mod router;
mod sign_in;
mod state;
mod static_files;
mod text;
mod viewer;

pub use self::{router::routes, state::DashboardOptions};
