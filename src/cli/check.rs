//! `kubelet-gate check`: everything that `serve` would do before it listens, and what only the API server knows.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{FAILED, GOOD, USAGE, complain};
use crate::serve::check::Findings;
use crate::settings::{KubeletFlags, Settings};

/// The arguments of `check`.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Ask nobody: leave out what only the API server knows
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    flags: KubeletFlags,
}

impl Check {
    pub(super) fn run(&self) -> u8 {
        let (settings, code) = match checked(&self.config, &self.flags, self.offline) {
            Ok(checked) => checked,
            Err(code) => return code,
        };
        match settings.to_yaml() {
            Ok(yaml) => print!("{yaml}"),
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        }
        code
    }
}

/// The same for a configuration that was just written, without printing what would be in force.
pub(super) fn quietly(config: &Path, offline: bool) -> u8 {
    match checked(config, &KubeletFlags::default(), offline) {
        Ok((_, code)) | Err(code) => code,
    }
}

/// Tells every warning and problem; yields the settings, if they can be read at all, and the exit code.
fn checked(config: &Path, flags: &KubeletFlags, offline: bool) -> Result<(Settings, u8), u8> {
    let settings = Settings::load(config, flags).map_err(|error| {
        complain(&error);
        USAGE
    })?;
    let found = Findings::of(&settings, offline).map_err(|error| {
        complain(&error);
        FAILED
    })?;
    for warning in &found.warnings {
        eprintln!("warning: {warning}");
    }
    for problem in &found.problems {
        complain(problem.as_ref());
    }
    let code = if found.problems.is_empty() { GOOD } else { USAGE };
    Ok((settings, code))
}
