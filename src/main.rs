//! Parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    kubelet_gate::cli::run(std::env::args_os())
}
