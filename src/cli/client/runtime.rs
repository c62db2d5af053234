//! The runtime of a command: one thread, since a command does one thing.

/// Runs a command's work.
///
/// # Panics
///
/// The system gives no sockets to a new process at all.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(work);
            // A prompt's thread may still wait for a line.
            runtime.shutdown_background();
            done
        }
        Err(error) => panic!("the runtime did not start: {error}"),
    }
}
