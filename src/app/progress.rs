//! What the start waits for, as the probes show it.

use tokio::sync::watch;

/// What the start waits for. Clones share it.
#[derive(Debug, Clone)]
pub struct StartProgress(watch::Sender<&'static str>);

impl Default for StartProgress {
    fn default() -> Self {
        Self(watch::Sender::new("The service is starting"))
    }
}

impl StartProgress {
    /// Sets what the start waits for, as a public sentence.
    pub fn waits_for(&self, message: &'static str) {
        self.0.send_replace(message);
    }

    /// The current sentence, and its changes.
    pub fn message(&self) -> watch::Receiver<&'static str> {
        self.0.subscribe()
    }
}
