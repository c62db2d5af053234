//! The parsers of untrusted input, as the fuzz targets in `fuzz/` call them. Compiled with the feature `faults` only.

pub mod gateway;

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message as _;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    config::{self, Flags},
    domain::{
        clock::SystemEntropy,
        egress::{Egress, Target},
        key::KeyId,
        keyspace::{Keyspace, Prefixes, Registry},
        master_keys::{MasterKey, MasterKeys},
        oidc::Issuer,
        page_token,
        secret::Encoding,
    },
    proto::{VerifyRequest, VerifyStreamRequest},
    session,
    transport::{grpc, rest},
};

/// A fixed master key, with one keyspace for each kind of secret.
pub struct Fixture {
    registry: Registry,
    master_keys: MasterKeys,
}

impl Default for Fixture {
    fn default() -> Self {
        let mut environments = Keyspace::with_defaults("nora", "", Encoding::Alphanumeric { length: 32 });
        let prefix = |environment: &str, prefix: &str| (environment.to_owned(), prefix.to_owned());
        environments.prefixes =
            Prefixes::ByEnvironment(vec![prefix("sandbox", "sk_test_"), prefix("production", "sk_live_")]);
        let bytes = Keyspace::with_defaults("norrix", "nrx_", Encoding::Base64Url { bytes: 32 });
        Self {
            registry: Registry::new(vec![bytes, environments]),
            master_keys: MasterKeys::derive(&MasterKey::new([7; 32])),
        }
    }
}

impl Fixture {
    /// Makes a secret of each keyspace.
    pub fn secrets(&self) -> Vec<String> {
        let keyspaces = self.registry.all().iter();
        let prefixes =
            keyspaces.flat_map(|keyspace| keyspace.prefixes.iter().map(move |(_, prefix)| (keyspace, prefix)));
        prefixes
            .map(|(keyspace, prefix)| keyspace.encoding.generate(prefix, &self.master_keys, &SystemEntropy))
            .map(|secret| secret.expose().to_owned())
            .collect()
    }

    /// Whether a secret is well-formed, and whether it was issued for a keyspace that is no longer configured.
    pub fn secret(&self, text: &str) -> (bool, bool) {
        (self.registry.well_formed(text, &self.master_keys), self.registry.orphaned(text, &self.master_keys))
    }

    /// A page token.
    pub fn page_token(&self, filters: &[&[u8]], last: u128) -> String {
        page_token::encode(&self.master_keys, filters, KeyId(Uuid::from_u128(last)))
    }

    /// The position in a page token.
    pub fn position(&self, filters: &[&[u8]], token: &str) -> Option<u128> {
        page_token::decode(&self.master_keys, filters, token).map(|last| last.0.as_u128())
    }
}

/// Reads a session token and, whatever its signature is, its claims: the signed text with its signature, and the
/// organizations that its bearer would have a role in.
pub fn session_token(text: &str) -> Option<(String, Vec<String>)> {
    let token = session::token::Token::parse(text)?;
    let issuer = Issuer {
        issuer: "https://login.example".to_owned(),
        audiences: vec!["keyward".to_owned()],
        algorithms: vec![token.algorithm],
        keyspaces: Arc::new(["norrix".to_owned()]),
        organizations: "app.organizations".to_owned(),
        role: Some("role".to_owned()),
        cookie: None,
        subject_prefix: String::new(),
        refresh: Duration::from_mins(5),
        allow_http: false,
        dashboard: None,
        cli: None,
        jwks_hosts: Vec::new(),
        max_token_life: Duration::from_hours(24),
    };
    let caller = issuer.matches(&token.claims).then(|| issuer.caller(&token.claims, 0).ok()).flatten();
    let organizations = caller.into_iter().flat_map(|caller| caller.organizations);
    let signed = format!("{}.{}", token.message, token.signature);
    Some((signed, organizations.map(|membership| membership.organization).collect()))
}

/// Reads a webhook's URL under the default rules, or under those that allow `http://`.
///
/// # Errors
///
/// What is wrong with it.
pub fn webhook_url(text: &str, allow_http: bool) -> Result<Target, &'static str> {
    Egress { allow_http, ..Egress::default() }.target(text)
}

/// Reads a configuration that has one setting, from the environment.
///
/// # Errors
///
/// Every problem.
pub fn setting(variable: &str, value: &str) -> Result<(), Vec<String>> {
    let environment = HashMap::from([(variable.to_owned(), value.to_owned())]);
    config::parse("", "", &Flags::default(), &environment).map(|_| ())
}

/// Reads JSON as bodies of REST are read.
///
/// # Errors
///
/// True if an object has a name twice, false if the bytes are not JSON.
pub fn json(bytes: &[u8]) -> Result<Value, bool> {
    rest::extract::strict_json::read(bytes).map_err(|refused| refused.twice)
}

/// Reads the body of a Verify over gRPC: the message behind its prefix, if the fast path accepts it.
pub fn verify_frame(body: &[u8]) -> Option<VerifyRequest> {
    grpc::verify::messages::decode(body).map(grpc::verify::messages::BorrowedRequest::into_message)
}

/// Decodes a message of `VerifyStream`.
///
/// # Errors
///
/// The field that is wrong and what is wrong with it, as clients see it.
pub fn verify_stream_message(bytes: &[u8]) -> Result<VerifyStreamRequest, (String, String)> {
    VerifyStreamRequest::decode(bytes).map_err(|error| {
        let fields = grpc::codec::unreadable(&error).fields;
        fields.first().map(|bad| (bad.field.to_string(), bad.description.clone())).unwrap_or_default()
    })
}
