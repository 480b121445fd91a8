//! `kubelet-gate serve`: runs the gate.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::exit::{CliError, Exit, runtime};
use super::terminal::colours;
use crate::repeats::{self, Repeats};
use crate::serve::Inherited;
use crate::serve::run::{Configuration, run};
use crate::serve::{StartError, containment};
use crate::settings::{KubeletFlags, Settings};

/// The arguments of `serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 stopped by a signal, 1 failed at run time, 64 wrong command line or configuration")]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) gate: Gate,
    /// Take over from the gate that serves with this configuration, which kubelet-gate upgrade has told so
    #[arg(long)]
    take_over: bool,
}

/// The arguments by which a gate is started.
#[derive(Args, Debug)]
pub(super) struct Gate {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The format of the log on standard error
    ///
    /// The environment variable KUBELET_GATE_LOG sets what is logged, for example "debug". The default is
    /// "info".
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(flatten)]
    pub(super) flags: KubeletFlags,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    /// One JSON object per line
    Json,
    /// Text for people
    #[default]
    Text,
}

impl Serve {
    pub(super) fn run(&self) -> Result<Exit, CliError> {
        // Before there is a second thread.
        let inherited = Inherited::from_systemd().map_err(CliError::usage)?;
        let Gate {
            config,
            log_format,
            flags,
        } = &self.gate;
        let settings = Settings::load(config, flags).map_err(CliError::usage)?;
        log_to_stderr(*log_format);
        log_panics();
        // No thread runs before the sandbox, which binds the threads that are started in it.
        let surroundings =
            containment::enter(&settings, config, self.take_over).map_err(|error| match error {
                StartError::Helper(_) => CliError::failed(error),
                _ => CliError::usage(error),
            })?;
        return_memory();
        gather_entropy();
        // The control runtime: accepting, reviews, the admin port, reloads. Workers have runtimes of their
        // own.
        let runtime = runtime().map_err(CliError::failed)?;
        let configuration = Configuration {
            path: config,
            flags,
            settings,
            surroundings,
            inherited,
            take_over: self.take_over,
        };
        let served = run(&runtime, configuration);
        // A worker that does not end must not keep the process: systemd would have to kill it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        repeats::report_all();
        let stopped = served.map_err(|error| match error.is_configuration() {
            true => CliError::usage(error),
            false => CliError::failed(error),
        })?;
        let how = if stopped.left { "left" } else { "stopped" };
        tracing::info!(cut = stopped.cut, "{how}");
        Ok(Exit::Good)
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
        LogFormat::Json => builder.json().finish().with(Repeats).try_init(),
        LogFormat::Text => {
            let builder = builder.with_ansi(colours(&io::stderr()));
            builder.finish().with(Repeats).try_init()
        }
    };
}

/// A panic is a line of the log, in its format, and repeats no more than other lines do.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        tracing::error!("panic at {place}: {message}");
    }));
}

/// Starts the allocator's own thread, which returns memory after a flood. It does not start with the program,
/// for then it would be outside the sandbox.
fn return_memory() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "memory is returned as requests come");
    }
}

/// The first random number of a process costs aws-lc some 45 ms of CPU. Asked for here, on another core if
/// there is one, it is ready before the first client's handshake needs it.
fn gather_entropy() {
    let gather = || {
        let mut byte = [0u8; 1];
        // Code that needs randomness asks again, and handles its own failure.
        let _ = aws_lc_rs::rand::fill(&mut byte);
    };
    if let Err(error) = std::thread::Builder::new().name("entropy".into()).spawn(gather) {
        tracing::debug!(%error, "entropy is gathered by the first handshake");
    }
}
