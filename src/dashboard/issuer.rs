//! Signing in at an issuer: the redirect to it, and the callback.

use axum::{Extension, extract::Request, response::Response};

use super::{
    cookies::Cookie,
    response::{failure, see_other},
    state::{Shared, Site},
    viewer::parameter,
};
use crate::{
    domain::{
        dashboard::SIGN_IN_TIMEOUT,
        error::{Error, ErrorKind},
    },
    service::dashboard::sign_in::Callback,
    transport::rest::request::RequestContext,
};

/// `GET /dashboard/sign-in/start`: a link instead of a form, because the content security policy restricts where forms
/// may be sent.
pub(super) async fn start(
    context: RequestContext,
    Extension(Shared(options)): Extension<Shared>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let site = Site::of(&parts, &context);
    let text = |name| parameter(&parts, name).unwrap_or_default();
    let Some(origin) = site.origin(&options) else {
        let sentence = "Signing in here needs the setting dashboard.url. Signing in with a key works.";
        return failure(Error::new(ErrorKind::FailedPrecondition, "CONFLICT", sentence), None);
    };
    let redirect_uri = format!("{origin}/dashboard/sign-in/callback");
    let (issuer, client, return_to) = (text("issuer"), text("client"), text("return_to"));
    let service = context.service();
    match service.dashboard.begin_sign_in(&issuer, &client, redirect_uri, &return_to, context.call()).await {
        Ok(started) => {
            let mut response = see_other(&started.url);
            Cookie::SignIn.set(response.headers_mut(), &site, &started.cookie, SIGN_IN_TIMEOUT / 1_000_000);
            response
        }
        Err(error) => failure(error, None),
    }
}

/// `GET /dashboard/sign-in/callback`
pub(super) async fn callback(context: RequestContext, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let site = Site::of(&parts, &context);
    let text = |name| parameter(&parts, name).unwrap_or_default();
    let cookie = Cookie::SignIn.read(&parts.headers, &site);
    let callback = Callback { code: text("code"), state: text("state"), issuer: text("iss"), error: text("error") };
    let mut response = match context.service().dashboard.finish_sign_in(&cookie, &callback, context.call()).await {
        Ok(finished) => {
            let mut response = see_other(&finished.return_to);
            let session = &finished.new.session;
            let seconds = (session.ends_at - session.created_at) / 1_000_000;
            Cookie::Session.set(response.headers_mut(), &site, &finished.new.cookie, seconds);
            response
        }
        Err(error) => failure(error, None),
    };
    // Remove the cookie: it is valid for one callback, whatever its result.
    Cookie::SignIn.set(response.headers_mut(), &site, "", 0);
    response
}
