//! The command line: one file per subcommand.

#[cfg(feature = "lab")]
mod certs;
mod check;
mod explain;
#[cfg(feature = "lab")]
mod lab;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};

/// Done.
pub const GOOD: u8 = 0;
/// Failed at run time.
pub const FAILED: u8 = 1;
/// Bad usage or configuration.
pub const USAGE: u8 = 64;

/// A mutual-TLS authenticating reverse proxy for the Kubernetes kubelet.
#[derive(Debug, Parser)]
#[command(name = "kubelet-gate", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a development PKI: CAs, serving pairs, client certificates good and bad
    #[cfg(feature = "lab")]
    Certs(certs::Certs),
    /// Validate everything that serve would use, print the effective settings, change nothing
    Check(check::Check),
    /// Say which checks a request needs, and why
    Explain(explain::Explain),
    /// Run a gate on this machine with an embedded, wide open kubelet and an API server
    #[cfg(feature = "lab")]
    Lab(lab::Lab),
    /// Run the gate
    Serve(serve::Serve),
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Output {
    /// One JSON document.
    Json,
    /// For people.
    #[default]
    Table,
}

/// Parses the arguments, runs the command, and says how it went: 0 good, 1 failed at run time, 64 bad usage or
/// configuration.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about an output that is gone.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { GOOD } else { USAGE });
        }
    };
    ExitCode::from(match arguments.command {
        #[cfg(feature = "lab")]
        Command::Certs(certs) => certs.run(),
        Command::Check(check) => check.run(),
        Command::Explain(explain) => explain.run(),
        #[cfg(feature = "lab")]
        Command::Lab(lab) => lab.run(),
        Command::Serve(serve) => serve.run(),
    })
}

/// Prints an error and its causes to standard error.
fn complain(error: &dyn std::error::Error) {
    eprintln!("error: {}", crate::error::chain(error));
}
