//! `kubelet-gate serve`: run the gate.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use super::{FAILED, GOOD, USAGE, complain};
use crate::serve::run::run;
use crate::settings::{KubeletFlags, Settings};

/// The arguments of `serve`.
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines are written to standard error; KUBELET_GATE_LOG filters them, such as debug (default info)
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(flatten)]
    flags: KubeletFlags,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    /// One JSON object per line
    Json,
    /// For people
    #[default]
    Text,
}

impl Serve {
    pub(super) fn run(&self) -> u8 {
        let settings = match Settings::load(&self.config, &self.flags) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error);
                return USAGE;
            }
        };
        log_to_stderr(self.log_format);
        no_core_dumps();
        gather_entropy();
        // The control runtime: accepting, reviews, the admin port, reloads. Workers have runtimes of their own.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        };
        let code = serve(&runtime, settings);
        // A worker that does not end must not keep the process: systemd would have to kill it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        code
    }
}

fn serve(runtime: &Runtime, settings: Settings) -> u8 {
    match run(runtime, settings) {
        Ok(stopped) => {
            tracing::info!(cut = stopped.cut, "stopped");
            GOOD
        }
        Err(error) => {
            complain(&error);
            if error.is_configuration() { USAGE } else { FAILED }
        }
    }
}

pub(super) fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("KUBELET_GATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    // A second subscriber in one process (a test's) is no reason to fail.
    let _ = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let colours =
                io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).try_init()
        }
    };
}

/// Keys and tokens are in this process' memory.
pub(super) fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    ) {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

/// The first random number of a process costs aws-lc some 45 ms of CPU. Asked for here, it is there before the first
/// client's handshake needs it, on a core of its own if there is one.
fn gather_entropy() {
    let gather = || {
        let mut byte = [0u8; 1];
        // Whoever really needs randomness asks again, and fails for itself.
        let _ = aws_lc_rs::rand::fill(&mut byte);
    };
    if let Err(error) = std::thread::Builder::new().name("entropy".into()).spawn(gather) {
        tracing::debug!(%error, "entropy is gathered by the first handshake");
    }
}
