//! A request on which a gateway requests a decision.

use std::net::IpAddr;

use crate::domain::route::GatewayKind;

/// A request as a gateway describes it. A text without a value is empty.
#[derive(Debug, Clone, Copy)]
pub struct GatewayRequest<'a, H> {
    /// The kind of the gateway.
    pub kind: GatewayKind,
    /// The keyspace whose keys count. May be empty if only one is configured.
    pub keyspace: &'a str,
    /// The environment that keys must have.
    pub environment: &'a str,
    /// The organization that keys must have.
    pub organization: &'a str,
    /// The instance that keys must have.
    pub instance: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The request's path as its client sent it, undecoded, with its query.
    pub target: &'a str,
    /// The host that the request was sent to.
    pub host: &'a str,
    /// The request's headers.
    pub headers: &'a H,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The request id, for the log.
    pub request_id: &'a str,
}
