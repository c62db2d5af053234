//! A request as Envoy describes it.

use std::net::IpAddr;

use crate::{
    domain::route::GatewayKind,
    proto::envoy::{config::core::v3::address::Address, service::auth::v3::CheckRequest},
    service::{
        credential::Headers,
        gateway::{GatewayRequest, IDENTITY_HEADERS},
    },
};

/// The prefix of all headers that identify the caller to the upstream.
const IDENTITY_PREFIX: &[u8] = b"x-keyward-";

/// The request in a `CheckRequest`. What is absent is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckedRequest<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) host: &'a str,
    /// The headers: those that Envoy joins by name, and those that it does not.
    pub(super) headers: HttpHeaders<'a>,
    pub(super) extensions: Extensions<'a>,
    pub(super) client: &'a str,
}

/// What the route's configuration in Envoy says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions<'a> {
    keyspace: &'a str,
    environment: &'a str,
    organization: &'a str,
    instance: &'a str,
}

impl<'a> Extensions<'a> {
    /// Takes one extension; others than ours are skipped.
    pub(super) fn set(&mut self, name: &str, value: &'a str) {
        match name {
            "keyspace" => self.keyspace = value,
            "environment" => self.environment = value,
            "organization" => self.organization = value,
            "instance" => self.instance = value,
            _ => {}
        }
    }
}

/// Names and values of headers. Names are UTF-8.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HttpHeaders<'a>(pub(super) Vec<(&'a [u8], &'a [u8])>);

impl Headers for HttpHeaders<'_> {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| *value)
    }
}

impl<'a> CheckedRequest<'a> {
    /// Reads the attributes.
    pub(crate) fn of(message: &'a CheckRequest) -> Self {
        let mut checked = Self::default();
        let Some(attributes) = &message.attributes else { return checked };
        for (name, value) in &attributes.context_extensions {
            checked.extensions.set(name, value);
        }
        let source = attributes.source.as_ref().and_then(|source| source.address.as_ref()?.address.as_ref());
        checked.client = source.map_or("", |Address::SocketAddress(socket)| &socket.address);
        let Some(http) = attributes.request.as_ref().and_then(|request| request.http.as_ref()) else { return checked };
        (checked.method, checked.target, checked.host) = (&http.method, &http.path, &http.host);
        let joined = http.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let single = http.header_map.iter().flat_map(|map| &map.headers).map(|header| {
            let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
            (header.key.as_bytes(), value)
        });
        checked.headers.0.extend(joined.chain(single));
        checked
    }

    /// The request as the service takes it.
    pub(crate) fn request<'r>(&'r self, request_id: &'r str) -> GatewayRequest<'r, HttpHeaders<'a>> {
        let Extensions { keyspace, environment, organization, instance } = self.extensions;
        GatewayRequest {
            kind: GatewayKind::Envoy,
            keyspace,
            environment,
            organization,
            instance,
            method: self.method,
            target: self.target,
            host: self.host,
            headers: &self.headers,
            client: self.client.parse::<IpAddr>().ok().map(|address| address.to_canonical()),
            request_id,
        }
    }

    /// The value of a header that is there once.
    pub(crate) fn header(&self, name: &'static str) -> Option<&[u8]> {
        let mut values = self.headers.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The client's own headers that could pass for ours and that no answer overwrites. Some servers take `_` and `.` in
    /// names for `-`.
    pub(crate) fn forged(&self) -> impl Iterator<Item = &'a str> {
        let names = self.headers.0.iter().map(|(name, _)| *name).filter(|name| {
            let begins = name.get(..IDENTITY_PREFIX.len()).is_some_and(|start| {
                start.iter().zip(IDENTITY_PREFIX).all(|(given, own)| {
                    let given = if matches!(given, b'_' | b'.') { b'-' } else { given.to_ascii_lowercase() };
                    given == *own
                })
            });
            begins && !IDENTITY_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
        });
        names.filter_map(|name| str::from_utf8(name).ok())
    }
}
