//! Envoy's external authorization: reads a `CheckRequest`, and renders a decision as a `CheckResponse`. Both are done
//! twice: with messages, for calls that tonic handles, and in place, for a decision that memory makes on the thread
//! that read the request.

mod frame;
mod request;
mod response;
mod wire;

use bytes::Bytes;

pub(crate) use self::{frame::pass, request::CheckedRequest, response::respond, wire::read};
use crate::{
    domain::error::Result,
    service::{Services, gateway::Allowed},
    transport::{
        grpc::codec,
        request_id::{self, REQUEST_ID},
    },
};

/// Decides about the `CheckRequest` in a body, for a gateway with this credential: the response message with its prefix.
/// None where that takes more than memory, or where the body is not one plain message.
pub(crate) fn try_cached(service: &Services, credential: &str, body: &[u8]) -> Option<Bytes> {
    let checked = wire::read(codec::plain_message(body)?)?;
    let request_id = request_id::choose(checked.header(REQUEST_ID), service);
    let decision: Result<Allowed> = service.gateways.try_decide_cached(credential, &checked.request(&request_id))?;
    Some(match decision {
        Ok(allowed) => frame::pass(&allowed, &checked, &request_id),
        Err(error) => response::refusal_frame(&error, request_id),
    })
}
