//! Parse, dispatch, exit code.

use std::process::ExitCode;

/// After a flood it returns memory to the operating system, which glibc's does not:
/// docs/decisions/014-memory-after-a-flood.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    kubelet_gate::cli::run(std::env::args_os())
}
