//! `kubelet-gate check`: everything that `serve` would do before it listens, and what only the API server
//! knows.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{CliError, Exit};
use super::terminal::{BAD, Stream, Terminal};
use crate::serve::check::{Asked, Findings};
use crate::settings::{KubeletFlags, Settings};

/// The arguments of `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 ok, 1 the check itself failed, 64 wrong command line or configuration")]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Leave out what only the API server knows
    #[arg(long)]
    offline: bool,
    /// Print the settings in force too, as a configuration file
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    flags: KubeletFlags,
}

impl Check {
    /// The verdict is the last line of standard output. With `--print` it is on standard error, so that the
    /// settings alone can be written to a file.
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let asked = match self.offline {
            true => Asked::Kubelet,
            false => Asked::KubeletAndApiServer,
        };
        let found = Findings::of(&self.config, &self.flags, asked).map_err(CliError::failed)?;
        print(&found, &mut terminal.err);
        if self.print {
            if let Some(settings) = &found.settings {
                let settings = settings.to_yaml().map_err(CliError::failed)?;
                write!(terminal.out, "{settings}");
            }
            terminal.err.text(&verdict(&found));
        } else {
            terminal.out.text(&verdict(&found));
        }
        Ok(exit(&found))
    }
}

/// The same for a configuration that was just written, without a verdict. `is_here`: for the kubelet
/// that runs on this machine.
pub(super) fn quietly(config: &Path, is_here: bool, err: &mut Stream) -> Result<Exit, CliError> {
    let asked = match is_here {
        true => Asked::KubeletAndApiServer,
        false => Asked::Nothing,
    };
    let found = Findings::of(config, &KubeletFlags::default(), asked).map_err(CliError::failed)?;
    print(&found, err);
    Ok(exit(&found))
}

/// The settings of a configuration that a gate of this machine is to be started with, judged without asking
/// any server; `None` if it cannot be used. Prints every warning and problem.
pub(super) fn judge(
    config: &Path,
    flags: &KubeletFlags,
    err: &mut Stream,
) -> Result<Option<Settings>, CliError> {
    let found = Findings::of(config, flags, Asked::Nothing).map_err(CliError::failed)?;
    print(&found, err);
    Ok(found.settings.filter(|_| found.problems.is_empty()))
}

/// Every warning and problem.
fn print(found: &Findings, err: &mut Stream) {
    for warning in &found.warnings {
        err.warning(warning);
    }
    for problem in &found.problems {
        err.labelled(BAD, "error:", problem);
    }
}

fn exit(found: &Findings) -> Exit {
    match found.problems.is_empty() {
        true => Exit::Good,
        false => Exit::Usage,
    }
}

/// `ok`, `ok, 1 warning`, or `2 errors, 1 warning`.
fn verdict(found: &Findings) -> String {
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let mut verdict = match found.problems.len() {
        0 => "ok".to_owned(),
        problems => counted(problems, "error"),
    };
    if !found.warnings.is_empty() {
        verdict = format!("{verdict}, {}", counted(found.warnings.len(), "warning"));
    }
    verdict
}
