//! `kubelet-gate check`: everything that `serve` would do before it listens, and what only the API server
//! knows.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{FAILED, GOOD, USAGE, complain};
use crate::serve::check::Findings;
use crate::settings::KubeletFlags;

/// The arguments of `check`.
#[derive(Args, Debug)]
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
    pub(super) fn run(&self) -> u8 {
        match self.tell() {
            Ok(code) => code,
            Err(error) => {
                complain(error.as_ref());
                FAILED
            }
        }
    }

    /// The verdict is the last line of standard output. With `--print` it is on standard error, so that the
    /// settings alone can be written to a file.
    fn tell(&self) -> Result<u8, Box<dyn std::error::Error>> {
        let found = Findings::of(&self.config, &self.flags, self.offline)?;
        say(&found);
        if self.print {
            if let Some(settings) = &found.settings {
                io::stdout().write_all(settings.to_yaml()?.as_bytes())?;
            }
            writeln!(io::stderr(), "{}", verdict(&found))?;
        } else {
            writeln!(io::stdout(), "{}", verdict(&found))?;
        }
        Ok(code(&found))
    }
}

/// The same for a configuration that was just written, without a verdict.
pub(super) fn quietly(config: &Path, offline: bool) -> u8 {
    match Findings::of(config, &KubeletFlags::default(), offline) {
        Ok(found) => {
            say(&found);
            code(&found)
        }
        Err(error) => {
            complain(&error);
            FAILED
        }
    }
}

/// Every warning and problem. If standard error is closed, the exit code still says how it went.
fn say(found: &Findings) {
    let mut stderr = io::stderr().lock();
    for warning in &found.warnings {
        let _ = writeln!(stderr, "warning: {warning}");
    }
    for problem in &found.problems {
        let _ = writeln!(stderr, "error: {problem}");
    }
}

fn code(found: &Findings) -> u8 {
    if found.problems.is_empty() { GOOD } else { USAGE }
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
