//! The routes.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::Request,
    handler::Handler,
    middleware::{Next, from_fn},
    response::Response,
    routing::{MethodRouter, get, post},
};

use super::{
    activity, issuer, keys, overview, own_sessions, response, sign_in,
    state::{DashboardOptions, Shared},
    static_files,
};
use crate::transport::rest::request::RequestContext;

/// The routes of the dashboard.
pub fn routes(options: DashboardOptions) -> Router {
    const KEYS: &str = "/dashboard/settings/api-keys";
    let key = |rest: &str| format!("{KEYS}/{{id}}{rest}");
    Router::new()
        .route("/", get(home))
        .route("/dashboard", get(home))
        .route("/dashboard/", get(home))
        .route("/dashboard/static/{file}", get(static_files::file))
        .route("/dashboard/sign-in", named("dashboard_sign_in", get(sign_in::form).post(sign_in::submit)))
        .route("/dashboard/sign-in/start", named("dashboard_sign_in", get(issuer::start)))
        .route("/dashboard/sign-in/callback", named("dashboard_sign_in", get(issuer::callback)))
        .route("/dashboard/sign-out", action("dashboard_sign_out", sign_in::sign_out))
        .route(
            KEYS,
            named("dashboard_list", get(keys::list::page)).merge(action("dashboard_create", keys::create::submit)),
        )
        .route(&format!("{KEYS}/new"), page("dashboard_new", keys::create::form))
        .route(&format!("{KEYS}/env"), action("dashboard_env", keys::secret::env))
        .route(&format!("{KEYS}/selected"), action("dashboard_select", keys::selected::preview))
        .route(&format!("{KEYS}/selected/revoke"), action("dashboard_revoke", keys::selected::revoke))
        .route(&key(""), page("dashboard_get", keys::one::page))
        .route(
            &key("/revoke"),
            page("dashboard_get", keys::revoke::form).merge(action("dashboard_revoke", keys::revoke::submit)),
        )
        .route(&key("/revocation"), page("dashboard_revocation", keys::revoke::progress))
        .route(&key("/webhook"), action("dashboard_update_webhook", keys::webhook::submit))
        .route(&key("/redeliver"), action("dashboard_redeliver", keys::webhook::redeliver))
        .route("/dashboard/activity", page("dashboard_events", activity::page))
        .route("/dashboard/activity.csv", page("dashboard_events", activity::csv))
        .route("/dashboard/overview", page("dashboard_overview", overview::page))
        .route(
            "/dashboard/settings/sessions",
            page("dashboard_sessions", own_sessions::page).merge(action("dashboard_end_session", own_sessions::end)),
        )
        .route("/dashboard/{*rest}", get(unknown).post(unknown))
        .layer(Extension(Shared(Arc::new(options))))
}

fn page<H, T>(name: &'static str, handler: H) -> MethodRouter
where
    H: Handler<T, ()>,
    T: 'static,
{
    named(name, get(handler))
}

fn action<H, T>(name: &'static str, handler: H) -> MethodRouter
where
    H: Handler<T, ()>,
    T: 'static,
{
    named(name, post(handler))
}

/// Gives a route the name that its calls have in the log and in the metrics.
fn named(name: &'static str, methods: MethodRouter) -> MethodRouter {
    methods.layer(from_fn(move |context: RequestContext, request: Request, next: Next| {
        context.set_call(name);
        next.run(request)
    }))
}

async fn home() -> Response {
    response::see_other("/dashboard/settings/api-keys")
}

async fn unknown() -> Response {
    response::not_found()
}
