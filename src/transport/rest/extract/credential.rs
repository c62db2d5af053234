//! The credential of a request.

use http::HeaderMap;

use crate::{
    domain::error::Result,
    service::{
        Services,
        credential::{self, CredentialPolicy, Headers, Presented},
    },
};

impl Headers for HeaderMap {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}

/// Finds the credential that counts. `sessions` says whether the route accepts sessions.
///
/// # Errors
///
/// INVALID_ARGUMENT if two credentials count.
pub(crate) fn find<'a>(headers: &'a HeaderMap, service: &'a Services, sessions: bool) -> Result<Option<Presented<'a>>> {
    credential::find(headers, &service.auth, CredentialPolicy { sessions, header: None })
}
