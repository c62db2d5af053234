//! Why a receiver gave no response.

/// Why there is no response. The texts are shown to whoever set the URL, so they do not contain the addresses that a
/// name resolved to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The URL is not allowed, or no longer.
    #[error("the URL {0}")]
    Refused(&'static str),
    /// The name has no address.
    #[error("the host's name could not be resolved")]
    Unresolved,
    /// One of the host's addresses may not be connected to.
    #[error("the host has an address that is not public")]
    NotPublic,
    /// No TCP connection could be made.
    #[error("could not connect: {0}")]
    Unreachable(String),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The response is not HTTP, or the connection ended within it.
    #[error("the receiver's answer could not be read: {0}")]
    InvalidResponse(String),
    /// The timeout passed.
    #[error("no answer in time")]
    TimedOut,
    /// Nothing was sent: every endpoint of the host has reached its limit of attempts.
    #[error("too many requests to its addresses are under way")]
    ConcurrencyLimited,
}
