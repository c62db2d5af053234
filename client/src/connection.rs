//! A connection for generated clients of other services.

use std::{fmt, sync::Arc};

use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{credential::Credential, endpoint::Endpoint, error::is_transport};

/// A connection to one address. It adds the client's credential, if that has one, to each call.
pub struct Connection(Arc<Endpoint>);

impl Connection {
    pub(crate) fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self(Arc::clone(endpoint))
    }

    /// What a generated client is made with.
    pub fn service(&self) -> InterceptedService<Channel, Credential> {
        InterceptedService::new(self.0.channel.clone(), self.0.credential.clone())
    }

    /// Records a failed call. Returns whether another address may answer it, because this one could not be reached or
    /// could not decide. This address is then skipped until a probe of it succeeds.
    pub fn note_failure(&self, status: &Status) -> bool {
        let undecided = is_transport(status) || status.code() == Code::Unavailable;
        if undecided {
            self.0.mark_down();
        }
        undecided
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}
