//! Arguments → configuration → run → exit code.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            keyward::telemetry::print_problems(problems);
            ExitCode::FAILURE
        }
    }
}
