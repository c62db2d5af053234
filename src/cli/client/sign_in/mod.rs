//! Signing in at an OpenID Connect issuer.

pub mod browser;
pub mod device;
mod loopback;
pub mod oauth;
