//! Cross-site request forgery: whether a request with a cookie comes from a page of this host.

use http::request::Parts;

use crate::{domain::error::Result, service::csrf};

/// Refuses a request that changes something, unless its headers show that a page of this host sent it. `secure` says
/// whether the connection uses TLS.
pub(crate) fn check(parts: &Parts, secure: bool) -> Result<()> {
    csrf::check(parts.method.as_str(), &parts.headers, host(parts).as_deref(), secure)
}

/// Whether a request comes from a page of this host; `None` if it has none of the headers that show it.
pub(crate) fn is_same_origin(parts: &Parts, secure: bool) -> Option<bool> {
    csrf::is_same_origin(&parts.headers, host(parts).as_deref(), secure)
}

/// The host that the request was sent to, as the client wrote it.
pub(crate) fn host(parts: &Parts) -> Option<String> {
    let written = parts.uri.authority().map(http::uri::Authority::as_str);
    written.or_else(|| csrf::one(&parts.headers, "host")).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_page_of_the_same_host_may_change_something() {
        const HOST: (&str, &str) = ("host", "Keys.example");
        for (headers, good) in [
            (vec![HOST], false),
            (vec![HOST, ("sec-fetch-site", "same-origin")], true),
            (vec![HOST, ("sec-fetch-site", "same-site")], false),
            (vec![HOST, ("sec-fetch-site", "cross-site")], false),
            (vec![HOST, ("sec-fetch-site", "none")], false),
            (vec![HOST, ("sec-fetch-site", "")], false),
            (vec![HOST, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], false),
            (vec![HOST, ("origin", "https://keys.example")], true),
            (vec![HOST, ("origin", "http://keys.example")], true),
            (vec![HOST, ("origin", "https://keys.example:443")], true),
            (vec![HOST, ("origin", "https://keys.example:8443")], false),
            (vec![HOST, ("origin", "https://keys.example.evil.example")], false),
            (vec![HOST, ("origin", "https://evil.example")], false),
            (vec![HOST, ("origin", "ftp://keys.example")], false),
            (vec![HOST, ("origin", "keys.example")], false),
            (vec![HOST, ("origin", "null")], false),
            (vec![HOST, ("origin", "https://keys.example"), ("origin", "https://evil.example")], false),
            (vec![HOST, ("origin", "https://keys.example"), ("sec-fetch-site", "cross-site")], false),
            // A proxy changes the host: `Sec-Fetch-Site` decides.
            (vec![("host", "backend"), ("origin", "https://keys.example"), ("sec-fetch-site", "same-origin")], true),
            (vec![("host", "keys.example:8080"), ("origin", "http://keys.example:8080")], true),
            (vec![("host", "keys.example:80"), ("origin", "http://keys.example")], true),
            (vec![("host", "[::1]:8080"), ("origin", "http://[::1]:8080")], true),
            (vec![("origin", "https://")], false),
            (vec![("origin", "https://keys.example")], false),
        ] {
            for method in ["POST", "DELETE", "PATCH", "PUT"] {
                assert_eq!(
                    check(&parts(method, "/api/api-keys", &headers), false).is_ok(),
                    good,
                    "{method} {headers:?}"
                );
            }
            for method in ["GET", "HEAD"] {
                assert!(check(&parts(method, "/api/api-keys", &headers), false).is_ok(), "{method} {headers:?}");
            }
        }
    }

    #[test]
    fn over_http_2_the_host_is_the_authority() {
        let parts = |origin| parts("POST", "http://keys.example/api/api-keys", &[("origin", origin)]);
        assert!(check(&parts("http://keys.example"), false).is_ok());
        assert!(check(&parts("http://evil.example"), false).is_err());
    }

    #[test]
    fn over_tls_a_page_in_plain_text_is_another_origin() {
        let parts = |origin| parts("POST", "https://keys.example/api/api-keys", &[("origin", origin)]);
        assert!(check(&parts("https://keys.example"), true).is_ok());
        assert!(check(&parts("http://keys.example"), true).is_err());
        assert!(check(&parts("http://keys.example:443"), true).is_err());
    }
}
