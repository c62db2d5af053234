//! What Envoy tells of a request.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    domain::route::GatewayKind,
    proto::envoy::{
        config::core::v3::address::Address,
        service::auth::v3::{AttributeContext, CheckRequest, attribute_context::HttpRequest},
    },
    service::{
        credential::Headers,
        gateway::{GatewayRequest, IDENTITY_HEADERS},
    },
};

/// What all headers begin with that tell the upstream who makes a request.
const IDENTITY_PREFIX: &[u8] = b"x-keyward-";

/// The request in a `CheckRequest`. What is absent is empty.
pub(crate) struct CheckedRequest<'a> {
    http: HttpHeaders<'a>,
    method: &'a str,
    target: &'a str,
    host: &'a str,
    extensions: Option<&'a HashMap<String, String>>,
    client: Option<IpAddr>,
}

/// The headers, from whichever of both fields Envoy sends them in.
pub(crate) struct HttpHeaders<'a>(Option<&'a HttpRequest>);

impl<'a> HttpHeaders<'a> {
    fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let joined = self.0.into_iter().flat_map(|http| &http.headers);
        let joined = joined.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let single = self.0.and_then(|http| http.header_map.as_ref());
        let single = single.into_iter().flat_map(|map| &map.headers).map(|header| {
            let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
            (header.key.as_str(), value)
        });
        joined.chain(single)
    }
}

impl Headers for HttpHeaders<'_> {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl<'a> CheckedRequest<'a> {
    /// Reads the attributes.
    pub(crate) fn of(message: &'a CheckRequest) -> Self {
        let attributes = message.attributes.as_ref();
        let http = attributes.and_then(|attributes| attributes.request.as_ref()?.http.as_ref());
        Self {
            http: HttpHeaders(http),
            method: http.map_or("", |http| &http.method),
            target: http.map_or("", |http| &http.path),
            host: http.map_or("", |http| &http.host),
            extensions: attributes.map(|attributes| &attributes.context_extensions),
            client: attributes.and_then(client),
        }
    }

    /// The request as the service takes it.
    pub(crate) fn request<'r>(&'r self, request_id: &'r str) -> GatewayRequest<'r, HttpHeaders<'r>>
    where
        'a: 'r,
    {
        let extension = |name| self.extensions.and_then(|all| all.get(name)).map_or("", String::as_str);
        GatewayRequest {
            kind: GatewayKind::Envoy,
            keyspace: extension("keyspace"),
            environment: extension("environment"),
            organization: extension("organization"),
            instance: extension("instance"),
            method: self.method,
            target: self.target,
            host: self.host,
            headers: &self.http,
            client: self.client,
            request_id,
        }
    }

    /// The value of a header that is there once.
    pub(crate) fn header(&self, name: &'static str) -> Option<&[u8]> {
        let mut values = self.http.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The client's own headers that could pass for ours and that no answer overwrites. Some servers take `_` and `.` in
    /// names for `-`.
    pub(crate) fn forged(&self) -> impl Iterator<Item = &'a str> {
        let names = self.http.iter().map(|(name, _)| name);
        names.filter(|name| {
            let begins = name.get(..IDENTITY_PREFIX.len()).is_some_and(|start| {
                start.bytes().zip(IDENTITY_PREFIX).all(|(given, own)| {
                    let given = if matches!(given, b'_' | b'.') { b'-' } else { given.to_ascii_lowercase() };
                    given == *own
                })
            });
            begins && !IDENTITY_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))
        })
    }
}

fn client(attributes: &AttributeContext) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?.address.as_ref()?;
    let Address::SocketAddress(socket) = address;
    socket.address.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}
