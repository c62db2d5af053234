//! The device flow (RFC 8628): the person types a code on any other device.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{
    browser::Client,
    oauth::{self, Accepted},
};
use crate::cli::client::{
    environment::Environment,
    failure::{Failure, Result},
    http::Http,
    text::escape,
};

/// RFC 8628, section 3.2.
const DEFAULT_INTERVAL: u64 = 5;
/// What `slow_down` adds (section 3.5).
const SLOW_DOWN: u64 = 5;
const MAX_INTERVAL: u64 = 60;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of RFC 8628")]
struct Device {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    #[serde(default = "ten_minutes")]
    expires_in: u64,
    interval: Option<u64>,
}

fn ten_minutes() -> u64 {
    600
}

/// Signs in with a code.
///
/// # Errors
///
/// The reason why not.
pub async fn sign_in(environment: &Environment, http: &Http, client: &Client<'_>) -> Result<Accepted> {
    let name = &environment.product.name;
    let endpoint = client.issuer.device_authorization_endpoint.as_deref().ok_or_else(|| {
        Failure::new("the issuer has no device flow").hint(format_args!("Sign in with: {name} login --no-browser"))
    })?;
    let form = [("client_id", client.client_id), ("scope", client.scopes)];
    let reply = http.send(&oauth::post(oauth::secure(endpoint)?, &form)).await?;
    let device: Device = serde_json::from_slice(&reply.body)
        .ok()
        .filter(|_| reply.status.is_success())
        .ok_or_else(|| Failure::new(format_args!("the issuer answers {} to the device flow", reply.status)))?;
    let screen = &environment.screen;
    screen.say(format!("Open this address on any device:\n\n  {}\n", escape(&device.verification_uri)));
    screen.say(format!("and enter the code {}", screen.bold_note(&escape(&device.user_code))));
    if let Some(complete) = &device.verification_uri_complete {
        screen.say(format!("or open it with the code:\n\n  {}\n", escape(complete)));
    }
    let limit = Duration::from_secs(device.expires_in).min(environment.timeout.unwrap_or(Duration::MAX));
    screen.wait("waiting for you to enter the code", poll(http, client, &device, limit)).await
}

async fn poll(http: &Http, client: &Client<'_>, device: &Device, limit: Duration) -> Result<Accepted> {
    let start = Instant::now();
    let mut interval = device.interval.unwrap_or(DEFAULT_INTERVAL).clamp(1, MAX_INTERVAL);
    loop {
        if start.elapsed() >= limit {
            return Err(Failure::new("nobody entered the code in time"));
        }
        sleep(Duration::from_secs(interval).min(limit)).await;
        let form =
            [("grant_type", GRANT), ("client_id", client.client_id), ("device_code", device.device_code.as_str())];
        match oauth::token(http, client.issuer, &form).await? {
            Ok(issued) => return oauth::accept(issued, client.service, client.issuer, client.client_id, None),
            Err(refusal) => match refusal.code.as_str() {
                "authorization_pending" => {}
                "slow_down" => interval = (interval + SLOW_DOWN).min(MAX_INTERVAL),
                "access_denied" => return Err(Failure::new("the sign-in was denied")),
                "expired_token" => return Err(Failure::new("nobody entered the code in time")),
                other => {
                    let why = escape(&format!("{other} {}", refusal.description));
                    return Err(Failure::new(format_args!("the issuer refused: {}", why.trim_end())));
                }
            },
        }
    }
}
