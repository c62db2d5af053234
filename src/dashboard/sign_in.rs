//! Signing in with a credential, and signing out.

use askama::Template;
use axum::{extract::Request, response::Response};
use http::{HeaderValue, StatusCode, header};

use super::{
    chrome::Bare,
    cookies::Cookie,
    form::Form,
    response::{failure, page, see_other},
    state::{Shared, Site},
    viewer::{Posted, parameter},
};
use crate::{
    domain::{
        dashboard::return_path,
        error::{Error, ErrorKind},
    },
    service::Services,
    transport::rest::{extract::csrf, request::RequestContext},
};

/// How long the sign-in form may stay open.
const FORM_SECONDS: i64 = 86_400;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    bare: Bare,
    issuers: Vec<IssuerButton>,
    token: String,
    return_to: String,
    /// Why the last attempt failed.
    problem: String,
    signed_out: bool,
}

struct IssuerButton {
    host: String,
    link: String,
}

/// `GET /dashboard/sign-in`
pub(super) async fn form(context: RequestContext, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let site = Site::of(&parts, &context);
    let return_to = parameter(&parts, "return_to").unwrap_or_default();
    let signed_out = parameter(&parts, "signed_out").is_some();
    sign_in_page(&context, &parts, &site, StatusCode::OK, return_path(&return_to), String::new(), signed_out)
}

fn sign_in_page(
    context: &RequestContext,
    parts: &http::request::Parts,
    site: &Site,
    status: StatusCode,
    return_to: &str,
    problem: String,
    signed_out: bool,
) -> Response {
    let service = context.service();
    let known = Cookie::Form.read(&parts.headers, site);
    let is_ours = known.len() == 16 && known.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let cookie = if is_ours { known } else { service.dashboard.new_form() };
    let template = SignInPage {
        bare: Bare::titled("Sign in"),
        issuers: issuers(service, return_to),
        token: service.dashboard.sign_in_token(&cookie),
        return_to: return_to.to_owned(),
        problem,
        signed_out,
    };
    let mut response = page(status, &template);
    Cookie::Form.set(response.headers_mut(), site, &cookie, FORM_SECONDS);
    response
}

fn issuers(service: &Services, return_to: &str) -> Vec<IssuerButton> {
    let button = |found: crate::service::dashboard::SignInIssuer<'_>| {
        let url = url::Url::parse(found.issuer).ok();
        let host = url.as_ref().and_then(url::Url::host_str).unwrap_or(found.issuer).to_owned();
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("issuer", found.issuer)
            .append_pair("client", found.client)
            .append_pair("return_to", return_to)
            .finish();
        IssuerButton { host, link: format!("/dashboard/sign-in/start?{query}") }
    };
    service.dashboard.issuers().map(button).collect()
}

/// `POST /dashboard/sign-in`
pub(super) async fn submit(context: RequestContext, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let site = Site::of(&parts, &context);
    if csrf::is_same_origin(&parts, context.peer().secure) == Some(false) {
        return failure(super::form::foreign(), None);
    }
    let (parts, mut form) = match Form::read(Request::from_parts(parts, body), &context).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let (token, credential, target) = (form.one("token"), form.one("credential"), form.one("return_to"));
    if let Err(error) = form.finish() {
        return failure(error, None);
    }
    let target = return_path(&target);
    let cookie = Cookie::Form.read(&parts.headers, &site);
    let again =
        |status, problem: &str| sign_in_page(&context, &parts, &site, status, target, problem.to_owned(), false);
    if !context.service().dashboard.has_sign_in_token(&cookie, &token) {
        return again(
            StatusCode::FORBIDDEN,
            "This page was open for too long, or cookies are blocked. Please try again.",
        );
    }
    let credential = credential.trim();
    if credential.is_empty() {
        return again(StatusCode::BAD_REQUEST, "Paste a key first.");
    }
    match context.service().dashboard.sign_in(credential, context.call()).await {
        Ok(new) => {
            let mut response = see_other(target);
            let seconds = (new.session.ends_at - new.session.created_at) / 1_000_000;
            Cookie::Session.set(response.headers_mut(), &site, &new.cookie, seconds);
            Cookie::Form.set(response.headers_mut(), &site, "", 0);
            response
        }
        Err(error) if error.kind == ErrorKind::Unauthenticated => {
            let error = context.refused(error);
            let limited = error.kind == ErrorKind::ResourceExhausted;
            let (status, problem) = if limited {
                (StatusCode::TOO_MANY_REQUESTS, "Too many tries. Please wait a moment before the next one.")
            } else {
                (StatusCode::UNAUTHORIZED, "This key is not valid. It may be mistyped, revoked or expired.")
            };
            refused(again(status, problem), error)
        }
        Err(error) if error.kind == ErrorKind::PermissionDenied => {
            let problem = "This key is valid, but it may not manage keys. Use an operator's key or an admin key.";
            refused(again(StatusCode::FORBIDDEN, problem), error)
        }
        Err(error) => failure(error, None),
    }
}

fn refused(mut response: Response, error: Error) -> Response {
    if let Some(wait) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response.extensions_mut().insert(error);
    response
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOutPage {
    bare: Bare,
    link: String,
}

/// `POST /dashboard/sign-out`
pub(super) async fn sign_out(Posted { viewer, form }: Posted) -> Response {
    if let Err(error) = form.finish() {
        return viewer.failure(error);
    }
    let Shared(options) = &viewer.shared;
    let return_to = viewer.site.origin(options).map(|origin| format!("{origin}/dashboard/sign-in")).unwrap_or_default();
    match viewer.service().dashboard.sign_out(&viewer.open, &return_to, viewer.call()).await {
        Ok(issuer) => {
            let mut response = match issuer {
                None => see_other("/dashboard/sign-in?signed_out=1"),
                // Not by a redirect: the content security policy restricts where forms lead, redirects included.
                Some(link) => {
                    let refresh = HeaderValue::try_from(format!("0; url={link}"));
                    let mut response = page(StatusCode::OK, &SignedOutPage { bare: Bare::titled("Signed out"), link });
                    if let Ok(refresh) = refresh {
                        response.headers_mut().insert(header::REFRESH, refresh);
                    }
                    response
                }
            };
            Cookie::Session.set(response.headers_mut(), &viewer.site, "", 0);
            response
        }
        Err(error) => viewer.failure(error),
    }
}
