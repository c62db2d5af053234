//! The thread that encodes pages of keys and events. To encode a thousand of them takes milliseconds, in which a thread
//! that serves calls could answer thousands of verifications.

use std::{io, thread};

use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::domain::error::{Error, Result};

/// The nice value of the thread: on a busy processor it gets about a tenth of the time of a thread that answers Verify.
const NICENESS: i32 = 10;

/// Encodes pages. Its tasks end when it is dropped.
pub struct Bulk {
    runtime: Handle,
    /// Ends the thread when it is dropped; none if the runtime is not owned by this.
    _end: Option<oneshot::Sender<()>>,
}

impl Bulk {
    /// Starts a thread of lower priority.
    ///
    /// # Errors
    ///
    /// Why the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("bulk".to_owned()).spawn(move || {
            // On Linux this is the priority of the calling thread alone.
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::warn!(%error, "the thread of lists keeps its priority");
            }
            // An error means that the sender was dropped.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { runtime: handle, _end: Some(end) })
    }

    /// Uses a runtime that exists.
    pub fn on(runtime: Handle) -> Self {
        Self { runtime, _end: None }
    }

    /// Runs work there. If the caller stops waiting, the work stops at its next await.
    ///
    /// # Errors
    ///
    /// INTERNAL if it panicked; UNAVAILABLE if the process is stopping.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        AbortOnDropHandle::new(self.runtime.spawn(work)).await.map_err(|error| {
            if error.is_panic() { Error::internal("making a page panicked") } else { Error::unavailable("stopping") }
        })
    }
}
