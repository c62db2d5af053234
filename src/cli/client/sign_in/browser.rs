//! The authorization code flow with PKCE (RFC 6749, 7636, 8252, 9207).

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use keyward::domain::clock::{Entropy as _, SystemEntropy};
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    loopback::{Loopback, Page},
    oauth::{self, Accepted, Issuer},
};
use crate::cli::client::{
    environment::Environment,
    failure::{Failure, Result},
    http::Http,
    text::escape,
};

/// Timeout of the sign-in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_mins(5);

/// Whether a browser can be opened here.
pub fn is_available() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("BROWSER") {
        return true;
    }
    let remote = set("SSH_CONNECTION") || set("SSH_TTY");
    let display = cfg!(not(target_os = "linux")) || set("DISPLAY") || set("WAYLAND_DISPLAY") || set("WSL_DISTRO_NAME");
    display && !remote
}

/// The issuer and the client of a sign-in.
#[expect(clippy::struct_field_names, reason = "the name of the parameter, RFC 6749")]
pub struct Client<'a> {
    pub service: &'a Url,
    pub issuer: &'a Issuer,
    pub client_id: &'a str,
    pub scopes: &'a str,
    pub ports: &'a [u16],
}

/// Signs in with a browser. `confirm` decides which page the browser shows at the end.
///
/// # Errors
///
/// The reason why not.
pub async fn sign_in(
    environment: &Environment,
    http: &Http,
    client: &Client<'_>,
    open: bool,
    confirm: impl AsyncFnOnce(Accepted) -> Result,
) -> Result {
    let [verifier, state, nonce] = [(); 3].map(|()| random());
    // Listen before the browser is opened, so that the redirect finds the listener.
    let loopback = Loopback::bind(client.ports).await?;
    let redirect = loopback.redirect_uri();
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(&verifier));
    let mut url = oauth::secure(&client.issuer.authorization_endpoint)?;
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", client.client_id)
        .append_pair("redirect_uri", &redirect)
        .append_pair("scope", client.scopes)
        .append_pair("state", &state)
        .append_pair("nonce", &nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    if client.scopes.split(' ').any(|scope| scope == "offline_access") {
        // OpenID Connect Core 1.0, section 11.
        url.query_pairs_mut().append_pair("prompt", "consent");
    }
    let screen = &environment.screen;
    let opened = open && webbrowser::open(url.as_str()).is_ok();
    if opened {
        screen.say("Your browser is open for you to sign in. If it is not, open this address on this machine:");
    } else {
        screen.say("Open this address in a browser on this machine:");
    }
    screen.say(format!("\n  {url}\n"));
    let limit = environment.timeout.unwrap_or(SIGN_IN_TIMEOUT);
    let waiting = screen.wait("waiting for the browser", timeout(limit, loopback.callback(&state)));
    let callback = waiting.await.map_err(|_| {
        Failure::new("nobody signed in in time")
            .hint(format_args!("Without a browser on this machine: {} login --device", environment.product.name))
    })?;
    let accepted = exchange(http, client, &callback.parameters, &redirect, &verifier, &nonce).await;
    let finished = match accepted {
        Ok(accepted) => confirm(accepted).await,
        Err(failure) => Err(failure),
    };
    let page = match &finished {
        Ok(()) => Page::SignedIn,
        Err(failure) => Page::Failed(failure.message.clone()),
    };
    let _ = callback.done.send(page);
    // Give the connection's task time to send the page.
    tokio::time::sleep(Duration::from_millis(200)).await;
    finished
}

async fn exchange(
    http: &Http,
    client: &Client<'_>,
    parameters: &std::collections::HashMap<String, String>,
    redirect: &str,
    verifier: &str,
    nonce: &str,
) -> Result<Accepted> {
    let get = |name: &str| parameters.get(name).map(String::as_str);
    // Prevents mix-up attacks (RFC 9207).
    let required = client.issuer.authorization_response_iss_parameter_supported;
    if get("iss").map_or(required, |iss| iss != client.issuer.issuer) {
        return Err(Failure::new("the browser came back from another issuer"));
    }
    if let Some(error) = get("error") {
        let why = get("error_description").unwrap_or(error);
        return Err(Failure::new(format_args!("the issuer refused: {}", escape(why))));
    }
    let code = get("code").ok_or_else(|| Failure::new("the browser came back without a code"))?;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client.client_id),
        ("code", code),
        ("redirect_uri", redirect),
        ("code_verifier", verifier),
    ];
    match oauth::token(http, client.issuer, &form).await? {
        Ok(issued) => oauth::accept(issued, client.service, client.issuer, client.client_id, Some(nonce)),
        Err(refusal) => Err(Failure::new(format_args!(
            "the issuer refused the code: {} {}",
            escape(&refusal.code),
            escape(&refusal.description)
        ))),
    }
}

/// 256 random bits in 43 characters.
fn random() -> String {
    let mut bytes = [0; 32];
    SystemEntropy.fill(&mut bytes);
    BASE64URL_NOPAD.encode(&bytes)
}
