//! The command line: one file per subcommand, and what they share: how they end (`exit`), what they write
//! (`terminal`, `table`, `wrap`), and the values of `--output` (`output`).

#[cfg(feature = "lab")]
mod certs;
mod check;
mod exit;
mod explain;
mod firewall;
mod init;
mod inspect;
#[cfg(feature = "lab")]
mod lab;
mod output;
mod progress;
mod prove;
mod readonly_census;
mod serve;
mod status;
mod table;
mod terminal;
mod upgrade;
mod weaknesses;
mod which_kubelet;
mod wrap;

use std::ffi::OsString;
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use self::exit::{CliError, Exit};
use self::terminal::Terminal;
use crate::serve::containment::HELPER;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed at run time
  2   done, and the result needs attention: open, missing, unsealed or refused
  64  wrong command line or configuration";

/// A mutual-TLS authenticating reverse proxy for the Kubernetes kubelet.
#[derive(Debug, Parser)]
#[command(name = "kubelet-gate", version, about, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a development PKI: authorities, serving certificates, valid and invalid client certificates
    #[cfg(feature = "lab")]
    Certs(certs::Certs),
    /// Check a configuration and every file that it names, without changing anything
    Check(check::Check),
    /// Show which rights a request needs, or why the gate refuses it
    Explain(explain::Explain),
    /// Close every way around the gate with firewall rules, the seal
    Firewall(firewall::Firewall),
    /// Do for a running gate what its sandbox forbids it; `serve` starts this
    #[command(name = HELPER, hide = true)]
    Helper,
    /// Write a gate's configuration, firewall rules and next steps for this node's kubelet
    Init(init::Init),
    /// Report what this node's kubelet leaves open, and what a gate compensates
    Inspect(inspect::Inspect),
    /// Run a gate on this machine, with an open kubelet and an API server to try it on
    #[cfg(feature = "lab")]
    Lab(lab::Lab),
    /// Probe this node's kubelet ports as attack tools do, and report what gets through
    Prove(prove::Prove),
    /// List the callers of the read-only port, as the running gate has counted them
    ReadonlyCensus(readonly_census::ReadonlyCensus),
    /// Run the gate
    Serve(serve::Serve),
    /// Show what the running gate does: whether it is ready, its listeners, streams and seal
    Status(status::Status),
    /// Have a new process take over from the gate that serves, so that no request fails
    Upgrade(upgrade::Upgrade),
}

/// Parses the arguments, runs the command, and yields its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // anstream gives a dumb terminal colours where `CI` is set.
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        ColorChoice::Never.write_global();
    }
    let arguments = match Arguments::try_parse_from(arguments.into_iter().map(hyphenated)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about an output that is gone.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { Exit::Good } else { Exit::Usage }.into();
        }
    };
    let mut terminal = Terminal::new();
    let exit = match arguments.command.run(&mut terminal) {
        Ok(exit) => exit,
        Err(error) => terminal.exit_with(&error),
    };
    terminal.finish(exit).into()
}

impl Command {
    fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        match self {
            #[cfg(feature = "lab")]
            Self::Certs(certs) => certs.run(terminal),
            Self::Check(check) => check.run(terminal),
            Self::Explain(explain) => explain.run(terminal),
            Self::Firewall(firewall) => firewall.run(terminal),
            Self::Helper => match crate::serve::helper::run() {
                Ok(()) => Ok(Exit::Good),
                Err(error) => Err(CliError::failed(error)),
            },
            Self::Init(init) => init.run(terminal),
            Self::Inspect(inspect) => inspect.run(terminal),
            #[cfg(feature = "lab")]
            Self::Lab(lab) => lab.run(terminal),
            Self::Prove(prove) => prove.run(terminal),
            Self::ReadonlyCensus(census) => census.run(terminal),
            Self::Serve(serve) => serve.run(),
            Self::Status(status) => status.run(terminal),
            Self::Upgrade(upgrade) => upgrade.run(terminal),
        }
    }
}

/// The kubelet reads `_` in a flag's name as `-`, and start scripts rely on it.
fn hyphenated(word: OsString) -> OsString {
    let Some(flag) = word.to_str().filter(|word| word.starts_with("--")) else {
        return word;
    };
    let end = flag.find('=').unwrap_or(flag.len());
    (flag[..end].replace('_', "-") + &flag[end..]).into()
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
