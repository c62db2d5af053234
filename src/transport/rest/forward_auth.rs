//! `/forward-auth/{kind}/{keyspace}` and `/forward-auth/{kind}/{keyspace}/{environment}`: gateways send each request
//! that reaches them for a decision, and describe it in headers. The query of the call itself is ignored.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header::HeaderName, request::Parts};
use tokio::time::Instant;

use super::{client_ip, error::RestError, request::RequestContext, response::RestResponse};
use crate::{
    domain::{
        access,
        error::{Error, ErrorKind, Result},
        keyspace::AllowedKeyspaces,
        route::GatewayKind,
    },
    service::{
        credential::bearer,
        gateway::{Allowed, GatewayRequest, IDENTITY_HEADERS},
    },
    transport::refusal::HttpRefusal,
};

/// Header of the gateway's own credential: `Authorization` is the client's.
pub(crate) const GATEWAY_CREDENTIAL: &str = "x-keyward-gateway";
/// How long a decision may take. Less than the timeouts of the gateways in the configurations that users copy, so that
/// the client gets Keyward's answer and not the gateway's.
pub(crate) const DECISION_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Header of a refusal's body, for a gateway that cannot pass the body itself.
const BODY: HeaderName = HeaderName::from_static("x-keyward-body");

/// The headers in which a kind of gateway describes a request, and those in which the other kinds do.
struct HeaderFamily {
    target: &'static str,
    method: &'static str,
    others: [&'static str; 2],
}

const ORIGINAL: HeaderFamily = HeaderFamily {
    target: "x-original-uri",
    method: "x-original-method",
    others: ["x-forwarded-uri", "x-forwarded-method"],
};
const FORWARDED: HeaderFamily = HeaderFamily {
    target: "x-forwarded-uri",
    method: "x-forwarded-method",
    others: ["x-original-uri", "x-original-method"],
};

/// The path of a call: the kind of gateway, and the keyspace and environment.
pub(crate) struct CallPath {
    kind: GatewayKind,
    keyspace: String,
    environment: String,
}

/// Answers a gateway.
pub(crate) async fn decide(context: RequestContext, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let path = CallPath::of(&parts.uri);
    let allowed = match authorize(&context, &parts.headers).await {
        Ok(allowed) => allowed,
        Err(error) => {
            context.set_call("forward_auth");
            return with_body(path.as_ref(), error);
        }
    };
    // Checked after the authentication, so that only gateways can find out which kinds exist.
    let Some(path) = path else { return RestError::NoSuchPath.into_response() };
    match answer(&context, &path, &parts, allowed.as_deref()).await {
        Ok(allowed) => pass(&context, &allowed),
        Err(error) => refuse(&context, &path, error),
    }
}

/// Checks that the caller is a gateway; returns the keyspaces whose keys it may verify.
async fn authorize(context: &RequestContext, headers: &HeaderMap) -> Result<Option<Arc<AllowedKeyspaces>>> {
    let (peer, auth) = (context.peer(), &context.service().auth);
    let mut credentials = headers.get_all(GATEWAY_CREDENTIAL).iter();
    let authorized = match (credentials.next(), credentials.next(), &peer.caller) {
        (Some(credential), None, _) => match credential.to_str() {
            Ok(text) => auth.authorize_verify(bearer(text).unwrap_or(text), context.deadline()).await,
            Err(_) => Err(not_a_gateway()),
        },
        // An invalid credential is refused, not replaced by the certificate or the address.
        (Some(_), Some(_), _) => Err(not_a_gateway()),
        (None, _, Some(caller)) => access::may_verify(caller),
        (None, _, None) => {
            let address = peer.address.to_canonical();
            let listed = context.http().gateways.iter().any(|network| network.contains(&address));
            if listed { Ok(None) } else { Err(not_a_gateway()) }
        }
    };
    match authorized {
        Ok(allowed) => {
            context.connection().admission.authenticated();
            Ok(allowed)
        }
        Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded) => Err(error),
        Err(error) => {
            // Count the invalid credential, but do not answer 401: the gateway would pass it on to its client.
            let Error { presented, .. } = context.refused(error);
            Err(Error { presented, ..not_a_gateway() })
        }
    }
}

/// The refusal of every caller that is not a gateway.
pub(crate) fn not_a_gateway() -> Error {
    Error::forbidden("Only gateways may ask here")
}

/// A request as the headers of its gateway describe it.
pub(crate) struct DescribedRequest<'h> {
    target: Cow<'h, str>,
    method: Cow<'h, str>,
}

impl DescribedRequest<'_> {
    /// The request that the service decides about.
    pub(crate) fn request<'r>(
        &'r self,
        path: &'r CallPath,
        headers: &'r HeaderMap,
        request_id: &'r str,
    ) -> GatewayRequest<'r, HeaderMap> {
        let host = one(headers, "x-forwarded-host").or_else(|| one(headers, "host"));
        GatewayRequest {
            kind: path.kind,
            keyspace: &path.keyspace,
            environment: &path.environment,
            organization: "",
            instance: "",
            method: &self.method,
            target: &self.target,
            host: host.unwrap_or_default(),
            headers,
            client: client(headers),
            request_id,
        }
    }
}

impl CallPath {
    /// Parses the path; none if no kind of gateway has it.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let mut segments = uri.path().split('/').skip(2);
        let text =
            |segment: &str| percent_encoding::percent_decode_str(segment).decode_utf8().map(Cow::into_owned).ok();
        let kind = segments.next()?;
        // Envoy uses gRPC instead.
        let kind = GatewayKind::ALL.into_iter().find(|known| known.name() == kind && *known != GatewayKind::Envoy)?;
        let keyspace = text(segments.next()?)?;
        let environment = segments.next().map_or(Some(String::new()), text)?;
        Some(Self { kind, keyspace, environment })
    }

    fn family(&self) -> &'static HeaderFamily {
        if self.kind == GatewayKind::Nginx { &ORIGINAL } else { &FORWARDED }
    }

    /// Puts the body of a refusal into a header, for a gateway that cannot pass the body itself.
    pub(crate) fn repeat_body(&self, body: &[u8], headers: &mut HeaderMap) {
        if self.kind == GatewayKind::Nginx
            && let Ok(body) = HeaderValue::from_bytes(body)
        {
            headers.insert(BODY, body);
        }
    }

    /// Reads the request that the gateway's headers describe.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if a header is missing or repeated, or if the gateway's client may have sent it.
    pub(crate) fn read<'h>(&self, headers: &'h HeaderMap) -> Result<DescribedRequest<'h>> {
        let family = self.family();
        let target = forwarded(headers, family.target)?;
        let method = forwarded(headers, family.method)?;
        for (other, own) in family.others.into_iter().zip([&target, &method]) {
            // The headers of other kinds come from the client. If the two differ, Keyward cannot tell which of them the
            // gateway sent.
            if headers.get_all(other).iter().any(|value| String::from_utf8_lossy(value.as_bytes()) != *own) {
                return Err(Error::invalid(other, "differs from what the gateway says"));
            }
        }
        Ok(DescribedRequest { target, method })
    }
}

async fn answer(
    context: &RequestContext,
    path: &CallPath,
    parts: &Parts,
    allowed: Option<&AllowedKeyspaces>,
) -> Result<Allowed> {
    let described = path.read(&parts.headers)?;
    let request = described.request(path, &parts.headers, context.request_id());
    let deadline = context.deadline().min(Instant::now() + DECISION_TIMEOUT);
    context.service().gateways.decide(&request, allowed, deadline).await
}

/// The value of a header that the gateway has to send.
fn forwarded<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Cow<'h, str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(String::from_utf8_lossy(value.as_bytes())),
        (Some(_), Some(_)) => Err(Error::invalid(name, "must be given once")),
        _ => Err(Error::invalid(name, "is missing: the gateway has to send it")),
    }
}

fn one<'h>(headers: &'h HeaderMap, name: &'static str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.to_str().ok()).flatten()
}

/// The client's address: the last one in `X-Forwarded-For`, which the gateway itself added.
fn client(headers: &HeaderMap) -> Option<IpAddr> {
    let line = headers.get_all("x-forwarded-for").iter().next_back()?;
    client_ip::last_hop(line.as_bytes())
}

/// 200 with the caller's identity.
fn pass(context: &RequestContext, allowed: &Allowed) -> Response {
    context.set_rate(allowed.rate);
    passed(IDENTITY_HEADERS.into_iter().zip(allowed.identity()))
}

/// 200 with these identity headers for the upstream.
pub(crate) fn passed<'a>(identity: impl Iterator<Item = (&'static str, Cow<'a, str>)>) -> Response {
    let mut response = RestResponse::empty(StatusCode::OK).into_response();
    for (name, value) in identity {
        // The values are visible ASCII, because they are escaped; so are scopes, with spaces between them.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The refusal that the gateway passes on to its client.
fn refuse(context: &RequestContext, path: &CallPath, error: Error) -> Response {
    context.set_rate(error.rate);
    let mut response = with_body(Some(path), error);
    // Remove the error: the decision is logged and counted already, and it is not an invalid credential of the gateway.
    response.extensions_mut().remove::<Error>();
    response
}

/// An error, with its body in a header for a gateway that cannot pass the body itself.
pub(crate) fn with_body(path: Option<&CallPath>, error: Error) -> Response {
    let body = HttpRefusal::of(&error).body;
    let mut response = RestError::from(error).into_response();
    if let Some(path) = path {
        path.repeat_body(&body, response.headers_mut());
    }
    response
}
