//! A decision as Envoy takes it.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;
use tonic_types::pb::Status;

use super::request::CheckedRequest;
use crate::{
    domain::{
        error::{Error, ErrorKind},
        rate_limit::RateState,
    },
    proto::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
        service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse},
        types::v3::HttpStatus,
    },
    service::gateway::{Allowed, IDENTITY_HEADERS},
    transport::{
        grpc::codec,
        refusal::{CHALLENGE, HttpRefusal, rate_headers},
        request_id::REQUEST_ID,
        status,
    },
};

/// The refusal as one gRPC message with its prefix.
pub(super) fn refusal_frame(error: &Error, request_id: String) -> Bytes {
    codec::frame(&refuse(error, request_id))
}

/// The response to a decision.
pub(crate) fn respond(
    decision: &Result<Allowed, Error>,
    checked: &CheckedRequest<'_>,
    request_id: String,
) -> CheckResponse {
    match decision {
        Ok(allowed) => pass(allowed, checked, request_id),
        Err(error) => refuse(error, request_id),
    }
}

fn pass(allowed: &Allowed, checked: &CheckedRequest<'_>, request_id: String) -> CheckResponse {
    let identity = || IDENTITY_HEADERS.into_iter().zip(allowed.identity());
    let fields = identity().map(|(name, value)| {
        let value = Value { kind: Some(Kind::StringValue(value.into_owned())) };
        (name.to_owned(), value)
    });
    let forged = checked.forged().map(str::to_owned);
    let removed = forged.chain(allowed.stripped().map(str::to_owned));
    CheckResponse {
        status: Some(Status { code: Code::Ok.into(), ..Status::default() }),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: identity().map(|(name, value)| header(name, value.into_owned())).collect(),
            headers_to_remove: removed.collect(),
            response_headers_to_add: client_headers(allowed.rate, request_id),
        })),
        dynamic_metadata: Some(Struct { fields: fields.collect::<BTreeMap<_, _>>() }),
    }
}

fn refuse(error: &Error, request_id: String) -> CheckResponse {
    let HttpRefusal { status, body, retry_after } = HttpRefusal::of(error);
    let mut headers =
        vec![header("content-type", "application/json".to_owned()), header("cache-control", "no-store".to_owned())];
    if status == http::StatusCode::UNAUTHORIZED {
        headers.push(header("www-authenticate", CHALLENGE.to_owned()));
    }
    headers.extend(retry_after.map(|seconds| header("retry-after", seconds.to_string())));
    headers.extend(client_headers(error.rate, request_id));
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: status.as_u16().into() }),
        headers,
        body: String::from_utf8(body).unwrap_or_default(),
    };
    CheckResponse {
        status: Some(Status {
            code: status::code(error).into(),
            message: error.message.to_string(),
            details: Vec::new(),
        }),
        http_response: Some(if error.kind == ErrorKind::Unavailable {
            HttpResponse::ErrorResponse(response)
        } else {
            HttpResponse::DeniedResponse(response)
        }),
        dynamic_metadata: None,
    }
}

/// The headers that the client gets with any response.
fn client_headers(rate: Option<RateState>, request_id: String) -> Vec<HeaderValueOption> {
    let rate = rate.into_iter().flat_map(rate_headers).map(|(name, value)| header(name, value.to_string()));
    rate.chain([header(REQUEST_ID, request_id)]).collect()
}

/// A header that takes the place of any other of its name.
fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
    }
}
