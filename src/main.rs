//! Arguments → configuration → run → exit code.

mod cli;

use std::process::ExitCode;

/// Zeroes freed memory, because libraries free buffers that held credentials without clearing them.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<mimalloc::MiMalloc> = zeroizing_alloc::ZeroAlloc(mimalloc::MiMalloc);

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    use_small_pages();
    cli::run()
}

/// Turns transparent huge pages off for this process. With them, memory that is freed in part stays in use in steps of
/// 2 MiB: a short flood of requests takes five times as much, and keeps it.
#[cfg(target_os = "linux")]
fn use_small_pages() {
    // Only a kernel without huge pages refuses this.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
