//! The stored session: its token, refreshed if it is about to expire.

use reqwest::Url;

use super::{
    environment::Environment,
    failure::{Failure, Result},
    http::Http,
    sign_in::oauth,
    text::escape,
    tokens::Tokens,
    uninterrupted::Uninterrupted,
};

/// A token of the session that can be used now.
///
/// # Errors
///
/// Nobody is signed in, or the session is of another service.
pub async fn id_token(environment: &Environment, http: &Http, base: &Url) -> Result<String> {
    let name = &environment.product.name;
    let Some(tokens) = environment.tokens()? else {
        return Err(Failure::not_signed_in(format_args!("not signed in (environment {})", environment.name))
            .hint(format_args!("Sign in with: {name} login{}", environment.flag()))
            .hint(format_args!("Or set {}.", environment.product.variable("API_KEY"))));
    };
    // Never send a session to a service other than its own.
    if tokens.url != base.as_str() {
        return Err(Failure::not_signed_in(format_args!("signed in at {}, not at {base}", escape(&tokens.url)))
            .hint(format_args!("Sign in there with: {name} login {base} --env NAME")));
    }
    if tokens.is_fresh() { Ok(tokens.id_token) } else { refresh(environment, http, None).await }
}

/// Refreshes the token, because the stored one is about to expire, or the service `refused` it. Only one process at a
/// time refreshes: a refresh token is valid for one use.
///
/// # Errors
///
/// The issuer does not issue one.
pub async fn refresh(environment: &Environment, http: &Http, refused: Option<&str>) -> Result<String> {
    let lock = environment.lock().await?;
    let expired = |why: &str| Failure::not_signed_in(why).hint(environment.sign_in_hint());
    let tokens = environment.tokens()?.ok_or_else(|| expired("the session was ended"))?;
    // Another process has refreshed it. Two tokens issued in the same second may be equal.
    if tokens.is_fresh() && refused.is_none_or(|refused| tokens.id_token != refused) {
        return Ok(tokens.id_token);
    }
    let Some(refresh_token) = &tokens.refresh_token else { return Err(expired("the session has expired")) };
    let issuer = oauth::issuer(http, &tokens.issuer).await?;
    // The issuer may replace the refresh token. Ctrl-C between its response and the write would lose the session.
    let _uninterrupted = Uninterrupted::begin();
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", tokens.client_id.as_str()),
        ("refresh_token", refresh_token.as_str()),
    ];
    match oauth::token(http, &issuer, &form).await? {
        Ok(mut next) => {
            // An issuer that does not rotate refresh tokens sends none.
            next.refresh_token = next.refresh_token.or_else(|| Some(refresh_token.clone()));
            let base = Url::parse(&tokens.url).map_err(|_| expired("the session is damaged"))?;
            let kept: Tokens = oauth::accept(next, &base, &issuer, &tokens.client_id, None)?.tokens;
            environment.write_tokens(&kept)?;
            drop(lock);
            Ok(kept.id_token)
        }
        Err(refusal) if refusal.code == "invalid_grant" => {
            environment.delete_tokens()?;
            Err(expired("the session has ended: the issuer does not renew it"))
        }
        Err(refusal) => Err(expired(&format!("the issuer does not renew the session: {}", escape(&refusal.code)))),
    }
}
