//! The issuer: its discovery document, its token endpoint, and the claims of a token.

use reqwest::{Method, StatusCode, Url, header::HeaderMap};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::{
    failure::{Failure, Result},
    http::{Call, Http, Repeat},
    text::{escape, now},
    tokens::{Tokens, claims},
};

/// Clock difference in seconds from which a warning is shown.
const CLOCK_TOLERANCE: i64 = 300;

/// How to sign in to the service: `GET /.well-known/keyward`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    #[serde(default)]
    pub redirect_ports: Option<Vec<u16>>,
    /// Required: it distinguishes the document from any other JSON.
    pub keyspaces: Vec<Value>,
}

/// What the issuer says about itself.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the document, OpenID Connect Discovery 1.0")]
pub struct Issuer {
    pub issuer: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub revocation_endpoint: Option<String>,
    pub device_authorization_endpoint: Option<String>,
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// An answer of the token endpoint.
#[derive(Deserialize)]
struct TokenReply {
    id_token: Option<String>,
    refresh_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// The error response of the token endpoint (RFC 6749).
pub struct TokenError {
    /// The code of RFC 6749, such as `invalid_grant`.
    pub code: String,
    /// Its description of the code; empty if there is none.
    pub description: String,
}

/// Tokens of an issuer's response.
pub struct Issued {
    pub id_token: String,
    pub refresh_token: Option<String>,
}

/// What the service says about signing in.
///
/// # Errors
///
/// The address is no service of ours.
pub async fn service(http: &Http, base: &Url, title: &str) -> Result<Service> {
    let no_service = |why: &str| Failure::new(format_args!("{base} is no {title} service: {why}"));
    let url = base.join(".well-known/keyward").map_err(|error| no_service(&error.to_string()))?;
    let reply = http.send(&get(url)).await?;
    if reply.status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(Failure::new(format_args!("{base} is unavailable, try again later")));
    }
    if reply.status != StatusCode::OK {
        return Err(no_service(&format!("it answers {}", reply.status)));
    }
    serde_json::from_slice(&reply.body).map_err(|_| no_service("it answers something else"))
}

/// What the issuer says about itself.
///
/// # Errors
///
/// It cannot be reached, is another one, or would be reached in plain text.
pub async fn issuer(http: &Http, identifier: &str) -> Result<Issuer> {
    let named = format!("{}/.well-known/openid-configuration", identifier.trim_end_matches('/'));
    let url = secure(&named)?;
    let reply = http.send(&get(url)).await?;
    let found: Option<Issuer> = serde_json::from_slice(&reply.body).ok();
    let Some(found) = found.filter(|found| reply.status == StatusCode::OK && found.issuer == identifier) else {
        return Err(Failure::new(format_args!("{} is not the issuer that the service names", escape(identifier))));
    };
    secure(&found.authorization_endpoint)?;
    Ok(found)
}

/// A URL of the issuer: with TLS, or on this machine.
///
/// # Errors
///
/// It is in plain text.
pub fn secure(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|_| Failure::new(format_args!("\"{}\" is no URL", escape(text))))?;
    let local = url.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() == "https" || (url.scheme() == "http" && local) {
        Ok(url)
    } else {
        Err(Failure::new(format_args!("the issuer is not reached by https: {}", escape(text))))
    }
}

/// Sends a request to the token endpoint.
///
/// # Errors
///
/// There is no answer of a token endpoint. The inner error is its refusal.
pub async fn token(
    http: &Http,
    issuer: &Issuer,
    form: &[(&str, &str)],
) -> Result<std::result::Result<Issued, TokenError>> {
    // Not repeated: a code and a refresh token are valid for one use.
    let reply = http.send(&post(secure(&issuer.token_endpoint)?, form)).await?;
    let Ok(reply_body) = serde_json::from_slice::<TokenReply>(&reply.body) else {
        return Err(Failure::new(format_args!("the issuer answers {} to a request for tokens", reply.status)));
    };
    if reply.status != StatusCode::OK {
        let code = reply_body.error.ok_or_else(|| Failure::new(format_args!("the issuer answers {}", reply.status)))?;
        return Ok(Err(TokenError { code, description: reply_body.error_description.unwrap_or_default() }));
    }
    let id_token = reply_body.id_token.ok_or_else(|| Failure::new("the issuer gave no ID token"))?;
    Ok(Ok(Issued { id_token, refresh_token: reply_body.refresh_token }))
}

/// Checks the claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7). It came from the issuer itself over
/// TLS, and the service checks its signature with every call.
///
/// # Errors
///
/// It is not for this sign-in.
pub fn accept(received: Issued, url: &Url, issuer: &Issuer, client_id: &str, nonce: Option<&str>) -> Result<Accepted> {
    let wrong = |what: &str| Failure::new(format_args!("the issuer's ID token is not for this sign-in: {what}"));
    let claims = claims(&received.id_token).ok_or_else(|| wrong("it cannot be read"))?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&issuer.issuer) {
        return Err(wrong("iss"));
    }
    let audience = match claims.get("aud") {
        Some(Value::Array(several)) => several.iter().any(|one| one == client_id),
        Some(one) => one == client_id,
        None => false,
    };
    if !audience {
        return Err(wrong("aud"));
    }
    if nonce.is_some() && text("nonce") != nonce {
        return Err(wrong("nonce"));
    }
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    let expiry = time("exp").ok_or_else(|| wrong("exp"))?;
    let received_at = now();
    let issued_at = time("iat").unwrap_or(received_at);
    let skew = issued_at.saturating_sub(received_at);
    Ok(Accepted {
        tokens: Tokens {
            url: url.to_string(),
            issuer: issuer.issuer.clone(),
            client_id: client_id.to_owned(),
            id_token: received.id_token,
            refresh_token: received.refresh_token,
            received_at,
            lifetime: expiry.saturating_sub(issued_at).max(0),
        },
        skew: (skew.abs() > CLOCK_TOLERANCE).then_some(skew),
    })
}

/// Tokens that are for this sign-in.
pub struct Accepted {
    pub tokens: Tokens,
    /// By how many seconds this machine's clock is behind the issuer's; none within [`CLOCK_TOLERANCE`].
    pub skew: Option<i64>,
}

/// Revokes a token (RFC 7009). Returns whether the issuer confirmed it.
pub async fn revoke(http: &Http, issuer: &Issuer, client_id: &str, token: &str) -> bool {
    let Some(endpoint) = issuer.revocation_endpoint.as_deref().and_then(|url| secure(url).ok()) else { return false };
    let form = [("token", token), ("token_type_hint", "refresh_token"), ("client_id", client_id)];
    http.send(&post(endpoint, &form)).await.is_ok_and(|reply| reply.status.is_success())
}

fn get(url: Url) -> Call {
    Call { method: Method::GET, url, headers: HeaderMap::new(), body: None, repeat: Repeat::Safe }
}

/// A form. It is not sent twice.
pub fn post(url: Url, form: &[(&str, &str)]) -> Call {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let body = Some(("application/x-www-form-urlencoded", body));
    Call { method: Method::POST, url, headers: HeaderMap::new(), body, repeat: Repeat::OnlyIfRefused }
}
