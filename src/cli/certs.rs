//! `kubelet-gate certs`: writes the lab's PKI to files, for curl and for a real kubelet.

use std::path::PathBuf;

use clap::Args;

use super::exit::{CliError, Exit};
use super::terminal::Terminal;
use fakes::pki::Pki;

/// The arguments of `certs`.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 done, 1 a file cannot be written, 64 wrong command line")]
pub(super) struct Certs {
    /// The directory to write to; files of an earlier run are replaced
    #[arg(long, value_name = "DIR", default_value = "certs-dev")]
    dir: PathBuf,
}

impl Certs {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let pki = Pki::generate().map_err(CliError::failed)?;
        for file in pki.write(&self.dir).map_err(CliError::failed)? {
            terminal.out.text(&file.display().to_string());
        }
        Ok(Exit::Good)
    }
}
