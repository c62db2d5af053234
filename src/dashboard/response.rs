//! Responses: their headers, and the page of an error.

use askama::Template;
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::chrome::{Bare, Chrome};
use crate::{
    domain::error::{Error, ErrorKind},
    transport::status,
};

/// The content security policy of every page: only files of the binary, no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    // A page may hold a secret or data of one person.
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With "no-referrer", browsers send no `Origin` with forms, and old browsers have no other header that shows the
    // origin of a form.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Adds the headers that every page has.
pub(super) fn protected(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    let Ok(html) = template.render() else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "The page could not be made.");
    };
    let mut response = Body::from(html).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    protected(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Body::from(text).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    protected(response)
}

/// Sends the browser to a path of the dashboard, with GET.
pub(super) fn see_other(path: &str) -> Response {
    let mut response = Body::empty().into_response();
    *response.status_mut() = StatusCode::SEE_OTHER;
    match HeaderValue::try_from(path) {
        Ok(path) => response.headers_mut().insert(header::LOCATION, path),
        Err(_) => response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/dashboard")),
    };
    protected(response)
}

/// A text as a download.
pub(super) fn download(content_type: &'static str, name: &str, text: String) -> Response {
    let mut response = Body::from(text).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(name) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    protected(response)
}

/// The page of an error. The error is attached for the log.
pub(super) fn failure(error: Error, chrome: Option<Chrome>) -> Response {
    #[derive(Template)]
    #[template(path = "failure.html")]
    struct Failure<'a> {
        chrome: Chrome,
        heading: &'a str,
        message: &'a str,
        fields: Vec<String>,
    }
    #[derive(Template)]
    #[template(path = "failure_bare.html")]
    struct BareFailure<'a> {
        bare: Bare,
        heading: &'a str,
        message: &'a str,
        fields: Vec<String>,
    }
    let status = status::http(&error);
    let heading = heading(&error);
    let fields: Vec<String> = error.fields.iter().map(|bad| format!("{}: {}", bad.field, bad.description)).collect();
    let message = if fields.is_empty() { sentence(&error) } else { "Something in the request is not right." };
    let mut response = match chrome {
        Some(chrome) => page(status, &Failure { chrome: chrome.titled(heading), heading, message, fields }),
        None => page(status, &BareFailure { bare: Bare::titled(heading), heading, message, fields }),
    };
    if let Some(wait) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response.extensions_mut().insert(error);
    response
}

fn heading(error: &Error) -> &'static str {
    match error.kind {
        ErrorKind::InvalidArgument => "That did not work",
        ErrorKind::Unauthenticated => "Please sign in",
        ErrorKind::PermissionDenied => "Not allowed",
        ErrorKind::NotFound => "Not found",
        ErrorKind::FailedPrecondition => "Not possible now",
        ErrorKind::ResourceExhausted => "Too many requests",
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => "Not available right now",
        ErrorKind::Internal => "Something went wrong",
    }
}

/// The sentence for a person.
fn sentence(error: &Error) -> &str {
    match error.kind {
        ErrorKind::Unavailable if error.message == "Try again" => {
            "Keyward cannot reach its database right now. Please try again in a moment."
        }
        ErrorKind::DeadlineExceeded => "The answer took too long. Please try again in a moment.",
        ErrorKind::Internal => "This is a defect, and it is in the log. Please try again.",
        ErrorKind::ResourceExhausted => "Please wait a moment, and try again.",
        _ => &error.message,
    }
}

/// 404 without a session.
pub(super) fn not_found() -> Response {
    failure(Error::new(ErrorKind::NotFound, "NO_SUCH_PATH", "There is no such page."), None)
}
