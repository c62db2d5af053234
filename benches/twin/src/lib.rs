//! Keyward's messages and service, generated without Keyward's code.

pub mod proto {
    //! Package `keyward.v1`.
    #![allow(clippy::pedantic, clippy::large_enum_variant, reason = "generated code")]
    tonic::include_proto!("keyward.v1");
}

use std::future::Future;

/// Runs a server on tokio's default runtime, like `#[tokio::main]`, or on one thread.
///
/// # Errors
///
/// Why the server ended.
pub fn block_on<F: Future>(one_thread: bool, work: F) -> std::io::Result<F::Output> {
    let mut builder = if one_thread {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    Ok(builder.enable_all().build()?.block_on(work))
}
