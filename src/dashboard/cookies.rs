//! Cookies: their names, and how they are read and set.

use http::{HeaderMap, HeaderValue, header};

use super::state::Site;

/// A cookie of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cookie {
    /// The session.
    Session,
    /// A sign-in at an issuer that is in progress.
    SignIn,
    /// Belongs to the sign-in form, which has no session yet.
    Form,
}

impl Cookie {
    /// The name. Browsers accept `__Host-` only over TLS, for the whole host and from that host alone.
    fn name(self, site: &Site) -> &'static str {
        match (self, site.secure) {
            (Self::Session, true) => "__Host-keyward_session",
            (Self::Session, false) => "keyward_session",
            (Self::SignIn, true) => "__Host-keyward_sign_in",
            (Self::SignIn, false) => "keyward_sign_in",
            (Self::Form, true) => "__Host-keyward_form",
            (Self::Form, false) => "keyward_form",
        }
    }

    /// The value in a request. Empty if there is none, or more than one, because a sibling host may have set one.
    pub(super) fn read(self, headers: &HeaderMap, site: &Site) -> String {
        let name = self.name(site).as_bytes();
        let pairs =
            headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let end = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..end] == name).then(|| String::from_utf8_lossy(&pair[end + 1..]).into_owned())
        });
        let first = values.next().unwrap_or_default();
        if values.next().is_some() { String::new() } else { first }
    }

    /// Sets it for some seconds; 0 removes it.
    pub(super) fn set(self, headers: &mut HeaderMap, site: &Site, value: &str, seconds: i64) {
        let name = self.name(site);
        let secure = if site.secure { "; Secure" } else { "" };
        // Not "Strict": the redirect from the issuer is a request from another site, and would not carry the cookie.
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(header::SET_COOKIE, value);
        }
    }
}
