//! The command line: one file per subcommand.

#[cfg(feature = "lab")]
mod certs;
mod check;
mod explain;
mod firewall;
mod init;
mod inspect;
#[cfg(feature = "lab")]
mod lab;
mod prove;
mod readonly_census;
mod serve;
mod which_kubelet;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};

/// Done.
pub const GOOD: u8 = 0;
/// Failed at run time.
pub const FAILED: u8 = 1;
/// Done, and something was found that needs somebody.
pub const FINDINGS: u8 = 2;
/// Bad usage or configuration.
pub const USAGE: u8 = 64;

/// A mutual-TLS authenticating reverse proxy for the Kubernetes kubelet.
#[derive(Debug, Parser)]
#[command(name = "kubelet-gate", version, about)]
#[command(
    after_help = "Exit codes: 0 good, 1 failed at run time, 2 something was found, not sealed or refused, 64 bad usage or configuration"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a development PKI: CAs, serving pairs, client certificates good and bad
    #[cfg(feature = "lab")]
    Certs(certs::Certs),
    /// Validate everything that serve would use, and change nothing
    Check(check::Check),
    /// Say which checks a request needs, or why it is refused (exit 1); as with requireCreate: true, the default
    Explain(explain::Explain),
    /// Seal the ways around the gate: print, observe, apply, confirm, status, remove
    Firewall(firewall::Firewall),
    /// Write a gate's configuration, unit and plan for this node's kubelet
    Init(init::Init),
    /// Tell what this node's kubelet is open to, and what a gate makes up for
    Inspect(inspect::Inspect),
    /// Run a gate on this machine with an embedded, wide open kubelet and an API server
    #[cfg(feature = "lab")]
    Lab(lab::Lab),
    /// Probe this node's own kubelet ports as known attack tools do, and report what gets through
    Prove(prove::Prove),
    /// List who still asks the read-only port, as the running gate has counted them
    ReadonlyCensus(readonly_census::ReadonlyCensus),
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

/// How what was found on a node is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum ReportFormat {
    /// One JSON document.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// For people.
    #[default]
    Table,
}

/// Parses the arguments, runs the command, and says how it went: 0 good, 1 failed at run time, 2 findings, 64 bad
/// usage or configuration.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments.into_iter().map(hyphenated)) {
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
        Command::Firewall(firewall) => firewall.run(),
        Command::Init(init) => init.run(),
        Command::Inspect(inspect) => inspect.run(),
        #[cfg(feature = "lab")]
        Command::Lab(lab) => lab.run(),
        Command::Prove(prove) => prove.run(),
        Command::ReadonlyCensus(census) => census.run(),
        Command::Serve(serve) => serve.run(),
    })
}

/// The kubelet reads `_` in a flag's name as `-`, and start scripts rely on it.
fn hyphenated(word: OsString) -> OsString {
    let Some(flag) = word.to_str().filter(|word| word.starts_with("--")) else {
        return word;
    };
    let end = flag.find('=').unwrap_or(flag.len());
    (flag[..end].replace('_', "-") + &flag[end..]).into()
}

/// Prints an error and its causes to standard error. If nobody reads that any more, what was begun goes on all the same.
fn complain(error: &dyn std::error::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", crate::error::chain(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_in_a_flags_name_are_hyphens_and_nowhere_else() {
        for (written, read) in [
            ("--client_ca_file", "--client-ca-file"),
            ("--tls_cert_file=/a_b--c_d", "--tls-cert-file=/a_b--c_d"),
            ("/run/ns_a/pod", "/run/ns_a/pod"),
            ("-a_b", "-a_b"),
        ] {
            assert_eq!(hyphenated(written.into()), OsString::from(read));
        }
        let words = ["kubelet-gate", "check", "--config=a_b", "--client_ca_file", "x_y"].map(OsString::from);
        assert!(Arguments::try_parse_from(words.into_iter().map(hyphenated)).is_ok());
    }
}
