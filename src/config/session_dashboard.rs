//! `[[session.issuer]] dashboard = {…}`: the dashboard as a client of an issuer.

use url::Url;

use super::{section::Section, setting::Setting};
use crate::domain::oidc::{ClientSecret, DashboardClient};

/// The setting.
pub const DASHBOARD: Setting = Setting::unset(
    "dashboard",
    "nobody signs in to the dashboard by this issuer",
    "{ client_id = \"keyward\", client_secret = \"…\" }",
    "How people sign in to the dashboard: the client of its authorization code flow. Its redirect URI is \
     `<dashboard.url>/dashboard/sign-in/callback`. See [dashboard.md](dashboard.md).",
)
.fields(&[CLIENT_ID, CLIENT_SECRET, SCOPES, LOGOUT_URL, LOGOUT_PARAMS]);

const CLIENT_ID: Setting =
    Setting::required("client_id", "\"keyward\"", "The client's id, which is the audience of its ID tokens.");

const CLIENT_SECRET: Setting =
    Setting::unset("client_secret", "a public client", "\"…\"", "The client's secret. PKCE is always used.");

const SCOPES: Setting = Setting::new(
    "scopes",
    "[\"openid\"]",
    "The scopes to ask for. With a refresh token (often `offline_access`) a session outlives its first token.",
);

const LOGOUT_URL: Setting = Setting::unset(
    "logout_url",
    "signing out ends the session of the dashboard alone",
    "\"https://login.example.com/logout\"",
    "Where signing out leads to, so that the issuer's own session ends, too.",
);

const LOGOUT_PARAMS: Setting = Setting::unset(
    "logout_params",
    "`client_id` and `post_logout_redirect_uri`",
    "{ client_id = \"{client_id}\", logout_uri = \"{return_to}\" }",
    "The parameters of `logout_url`. `{client_id}` stands for the client's id, `{return_to}` for the sign-in page.",
);

/// The parameters of OpenID Connect RP-Initiated Logout 1.0.
const STANDARD_LOGOUT: [(&str, &str); 2] = [("client_id", "{client_id}"), ("post_logout_redirect_uri", "{return_to}")];

/// Reads the setting of an issuer's table.
pub fn read(section: &Section<'_>) -> Option<DashboardClient> {
    section.inline(&DASHBOARD, |client| {
        let client_id = client.text(&CLIENT_ID).unwrap_or_default();
        if client_id.is_empty() {
            client.problem(CLIENT_ID.name, "is missing");
        }
        let client_secret = client.text(&CLIENT_SECRET);
        if client_secret.as_ref().is_some_and(String::is_empty) {
            client.problem(CLIENT_SECRET.name, "must not be empty; leave it out for a public client");
        }
        let scopes = client.texts(&SCOPES).unwrap_or_default();
        let is_token = |scope: &String| {
            !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
        };
        if !scopes.iter().any(|scope| scope == "openid") {
            client.problem(SCOPES.name, "must contain \"openid\": without it there is no ID token");
        } else if !scopes.iter().all(is_token) {
            client.problem(SCOPES.name, "each must be a scope without spaces and quotes");
        }
        let logout_url = client.text(&LOGOUT_URL).and_then(|text| {
            let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if url.is_none() {
                client.problem(LOGOUT_URL.name, "must be an https URL");
            }
            url
        });
        let logout_params = if client.has(LOGOUT_PARAMS.name) {
            client.pairs(&LOGOUT_PARAMS)
        } else {
            STANDARD_LOGOUT.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
        };
        Some(DashboardClient {
            client_id,
            client_secret: client_secret.map(ClientSecret::new),
            scopes,
            logout_url,
            logout_params,
        })
    })
}
