//! The credential that this client calls Keyward with.

use std::{fmt, sync::Arc};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};
use zeroize::Zeroizing;

/// Adds the client's credential to each call. Without one, only a client certificate identifies the caller.
#[derive(Clone)]
pub struct Credential(Option<Arc<MetadataValue<Ascii>>>);

impl Credential {
    /// No credential.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// This text as a bearer credential; none if a header cannot hold it.
    pub(crate) fn bearer(text: &str) -> Option<Self> {
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let header = Zeroizing::new(format!("Bearer {text}"));
        let mut value: MetadataValue<Ascii> = header.parse().ok().filter(|_| visible)?;
        // Not printed, and not kept in the compression tables of connections.
        value.set_sensitive(true);
        Some(Self(Some(Arc::new(value))))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", MetadataValue::clone(value));
        }
        Ok(request)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Credential(…)" } else { "Credential(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_visible_text_and_is_never_printed() {
        for bad in ["", " ", "kw_a b", "kw_ä", "kw_\n", "kw_\0"] {
            assert!(Credential::bearer(bad).is_none(), "{bad:?}");
        }
        let mut credential = Credential::bearer("kw_secret").unwrap();
        let request = credential.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer kw_secret");
        assert!(!format!("{credential:?} {:?}", request.metadata()).contains("kw_secret"));
    }
}
