//! What gRPC tests say often.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use keyward::proto::{
    Code, CreateRequest, CreateResponse, Key, ListRequest, RateLimit, RevokeRequest, VerifyRequest, VerifyResponse,
    create_request::Expiry, key_service_client::KeyServiceClient,
};
use tonic::{Response, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::server::{ROOT, with};

/// A keyspace with admin keys.
pub const PRODUCT: &str = r#"
[[keyspace]]
name = "product"
prefix = "pr_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["use", "admin"]
default_scopes = ["use"]
admin_scope = "admin"
"#;

/// A client.
pub type Client = KeyServiceClient<Channel>;

/// What a caller learns from a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: tonic::Code,
    /// The public sentence.
    pub message: String,
    /// Domain of its ErrorInfo.
    pub domain: String,
    /// Reason of its ErrorInfo.
    pub reason: String,
    /// Fields of its BadRequest.
    pub fields: Vec<String>,
    /// Delay of its RetryInfo.
    pub retry: Option<Duration>,
}

impl Refusal {
    /// Reads a status and its details.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            domain: info.map(|info| info.domain.clone()).unwrap_or_default(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            fields: details
                .bad_request()
                .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
                .unwrap_or_default(),
            retry: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

/// The refusal of a call that must not succeed; its ErrorInfo is looked at.
pub fn refused<T>(result: Result<Response<T>, Status>) -> Refusal {
    let refusal = Refusal::of(&result.err().expect("the call is refused"));
    assert_eq!(refusal.domain, "keyward", "{refusal:?}");
    let upper_snake = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    assert!(upper_snake(&refusal.reason), "{refusal:?}");
    refusal
}

/// The call is refused with this code and reason.
#[track_caller]
pub fn assert_refused<T>(result: Result<Response<T>, Status>, code: tonic::Code, reason: &str) {
    let refusal = refused(result);
    assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason), "{}", refusal.message);
}

/// The call is refused for exactly these fields.
#[track_caller]
pub fn assert_invalid<T>(result: Result<Response<T>, Status>, fields: &[&str], case: &str) {
    let status = result.err().unwrap_or_else(|| panic!("{case}: the call is refused"));
    let mut refusal = Refusal::of(&status);
    refusal.fields.dedup();
    assert_eq!(refusal.code, tonic::Code::InvalidArgument, "{case}: {refusal:?}");
    assert_eq!((refusal.domain.as_str(), refusal.reason.as_str()), ("keyward", "INVALID_ARGUMENT"), "{case}");
    assert_eq!(refusal.fields, fields, "{case}: {}", refusal.message);
}

/// Creates a key.
pub async fn create(client: &mut Client, credential: &str, request: CreateRequest) -> CreateResponse {
    client.create(with(credential, request)).await.unwrap().into_inner()
}

/// Creates a key of a keyspace in an organization with scopes, as the operator.
pub async fn key(client: &mut Client, keyspace: &str, organization: &str, scopes: &[&str]) -> Made {
    let request = CreateRequest {
        keyspace: keyspace.into(),
        organization: organization.into(),
        scopes: texts(scopes),
        ..CreateRequest::default()
    };
    made(create(client, ROOT, request).await)
}

/// A key and its secret.
#[derive(Debug, Clone)]
pub struct Made {
    /// The record.
    pub key: Key,
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

/// Takes a response apart.
pub fn made(response: CreateResponse) -> Made {
    let key = response.key.expect("a key");
    Made { id: key.id.clone(), key, secret: response.secret }
}

/// A rate limit with a window in seconds.
pub fn own_limit(limit: u32, seconds: i64) -> RateLimit {
    RateLimit { limit, window: Some(prost_types::Duration { seconds, nanos: 0 }) }
}

/// Ends a key, as the operator.
pub async fn revoke(client: &mut Client, id: &str) -> Key {
    let request = RevokeRequest { id: id.into(), reason: String::new() };
    client.revoke(with(ROOT, request)).await.unwrap().into_inner().key.expect("a key")
}

/// Asks about a secret, as the operator.
pub async fn verify(client: &mut Client, request: VerifyRequest) -> VerifyResponse {
    client.verify(with(ROOT, request)).await.unwrap().into_inner()
}

/// The code of a bare check, as the operator.
pub async fn code(client: &mut Client, secret: &str) -> Code {
    verify(client, check(secret)).await.code()
}

/// A check that asserts nothing.
pub fn check(secret: &str) -> VerifyRequest {
    VerifyRequest { secret: secret.into(), ..VerifyRequest::default() }
}

/// Every page of a list, as the operator.
pub async fn list(client: &mut Client, credential: &str, request: ListRequest) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut request = request;
    loop {
        let page = client.list(with(credential, request.clone())).await.unwrap().into_inner();
        keys.extend(page.keys);
        if page.next_page_token.is_empty() {
            return keys;
        }
        request.page_token = page.next_page_token;
    }
}

/// The record of one key, from a list.
pub async fn record(client: &mut Client, id: &str) -> Key {
    let keys = list(client, ROOT, ListRequest { page_size: 1_000, ..ListRequest::default() }).await;
    keys.into_iter().find(|key| key.id == id).expect("the key is listed")
}

/// An expiry so long from now, as the field takes it.
#[expect(clippy::unnecessary_wraps, reason = "the field may be left out")]
pub fn ttl(length: Duration) -> Option<Expiry> {
    Some(Expiry::Ttl(prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap(),
        nanos: i32::try_from(length.subsec_nanos()).unwrap(),
    }))
}

/// Owned texts.
pub fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Owned pairs.
pub fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A proto time in microseconds since the epoch.
pub fn micros(at: prost_types::Timestamp) -> i64 {
    at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
}

/// Now in microseconds since the epoch.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// Polls until it holds; panics after `bound`.
pub async fn eventually(bound: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the key has expired, by what the server says of it.
pub async fn until_expired(client: &mut Client, secret: &str) {
    eventually(Duration::from_secs(30), "the key expires", async || code(client, secret).await == Code::Expired).await;
}

/// A secret with another last character: well-shaped, but not of this installation.
pub fn forged(secret: &str) -> String {
    let mut text = secret.to_owned();
    let last = text.pop().unwrap();
    // The last character of a base64url body holds trailing bits: one before it is changed, too.
    let before = text.pop().unwrap();
    text.push(if before == 'A' { 'B' } else { 'A' });
    text.push(last);
    text
}
