//! Envoy's external authorization: reads a `CheckRequest`, and renders a decision as a `CheckResponse`.

mod request;
mod response;

pub(crate) use self::{request::CheckedRequest, response::respond};
