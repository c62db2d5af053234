//! Requests as Envoy describes them.

use std::collections::HashMap;

use keyward::proto::envoy::{
    config::core::v3::{Address, SocketAddress, address},
    service::auth::v3::{AttributeContext, CheckRequest, attribute_context},
};

/// A request to a path, with headers and extensions of the route.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], extensions: &[(&str, &str)]) -> CheckRequest {
    let owned = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let socket = SocketAddress { address: "203.0.113.7".to_owned() };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(attribute_context::Peer {
                address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
            }),
            request: Some(attribute_context::Request {
                http: Some(attribute_context::HttpRequest {
                    method: method.to_owned(),
                    path: path.to_owned(),
                    host: "api.example".to_owned(),
                    headers: owned(headers),
                    header_map: None,
                }),
            }),
            context_extensions: owned(extensions),
        }),
    }
}
