//! A run of an exec plugin: by the helper process of a gate that runs, else as a child of this process.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::host::Helper;
use crate::host::children::{self, Group};

/// The largest output that is read. A token and a certificate with its key are far smaller.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;
/// How much of the plugin's standard error is kept. The rest is read and dropped.
const MAX_STDERR_BYTES: u64 = 4096;

/// The one plugin that the helper runs.
static ONLY: OnceLock<Option<PluginCommand>> = OnceLock::new();

/// A plugin as the kubeconfig names it.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
pub(crate) struct PluginCommand {
    /// A path if it has a separator; otherwise it is searched in PATH.
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// One run of it.
#[derive(Deserialize, Serialize)]
pub(crate) struct PluginRun {
    pub(super) command: PluginCommand,
    /// The value of `KUBERNETES_EXEC_INFO`.
    pub(super) info: String,
    pub(super) deadline: Duration,
}

/// How a plugin ended, and what it said.
#[derive(Deserialize, Serialize)]
pub(crate) struct PluginEnd {
    pub(super) success: bool,
    pub(super) status: String,
    pub(super) output: Vec<u8>,
    /// The beginning of its standard error.
    pub(super) complaint: Vec<u8>,
}

/// Why it did not end by itself.
#[derive(Deserialize, Serialize)]
pub(crate) enum PluginFailure {
    NotStarted(String),
    Late,
    Lost(String),
}

/// Its process. However the run ends, its whole process group is killed.
struct Running {
    child: Child,
    group: Group,
}

// === impl PluginCommand ===

impl PluginCommand {
    /// Only this plugin, or none at all, is run by this process or for it from now on.
    pub(crate) fn allow_only(command: Option<Self>) {
        // The first call decides.
        let _ = ONLY.set(command);
    }

    /// Whether it may be run.
    pub(super) fn is_allowed(&self) -> bool {
        ONLY.get().is_none_or(|only| only.as_ref() == Some(self))
    }
}

// === impl PluginRun ===

impl PluginRun {
    /// The kind of the question to the helper.
    pub(crate) const KIND: &str = "plugin";

    /// Runs it.
    pub(super) async fn run(&self) -> Result<PluginEnd, PluginFailure> {
        match Helper::of_this_process() {
            None => self.run_here().await,
            Some(helper) => helper
                .ask_async(Self::KIND, self, self.deadline)
                .await
                .unwrap_or_else(|error| Err(PluginFailure::Lost(error.to_string()))),
        }
    }

    /// Runs it for a gate, until the gate closes `connection`. Blocks.
    pub(crate) fn run_for(&self, connection: &UnixStream) -> Result<PluginEnd, PluginFailure> {
        if !self.command.is_allowed() {
            let why = "it is another one than the kubeconfig named when the gate started; restart needed";
            return Err(PluginFailure::NotStarted(why.to_owned()));
        }
        let lost = |error: io::Error| PluginFailure::Lost(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(lost)?.block_on(async {
            let connection = connection.try_clone().map_err(lost)?;
            connection.set_nonblocking(true).map_err(lost)?;
            let mut connection = tokio::net::UnixStream::from_std(connection).map_err(lost)?;
            let ended = tokio::select! {
                ended = self.run_here() => ended,
                // The gate says nothing more: it has given up.
                _ = connection.read_u8() => Err(PluginFailure::Lost("it was given up".to_owned())),
            };
            // The answer is written by a thread that waits.
            let _ = connection
                .into_std()
                .and_then(|connection| connection.set_nonblocking(false));
            ended
        })
    }

    async fn run_here(&self) -> Result<PluginEnd, PluginFailure> {
        let PluginCommand { program, args, env } = &self.command;
        let spawn = || {
            Command::new(program)
                .args(args)
                .envs(env.iter().map(|(name, value)| (name, value)))
                .env("KUBERNETES_EXEC_INFO", &self.info)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
        };
        let (child, group) = children::start(spawn, Child::id)
            .map_err(|error| PluginFailure::NotStarted(error.to_string()))?;
        let (status, output, complaint) = timeout(self.deadline, Running { child, group }.finish())
            .await
            .map_err(|_| PluginFailure::Late)?
            .map_err(|error| PluginFailure::Lost(error.to_string()))?;
        Ok(PluginEnd {
            success: status.success(),
            status: status.to_string(),
            output,
            complaint,
        })
    }
}

// === impl Running ===

impl Running {
    /// Waits for its end; yields its output, and its standard error cut short.
    async fn finish(mut self) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let output = async {
            let mut output = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_OUTPUT_BYTES + 1).read_to_end(&mut output).await?;
            }
            if output.len() as u64 > MAX_OUTPUT_BYTES {
                return Err(io::Error::other("it printed more than 1 MiB; it was killed"));
            }
            Ok(output)
        };
        let (output, complaint) = tokio::try_join!(output, read_some(stderr))?;
        Ok((self.child.wait().await?, output, complaint))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If it has not been waited for, the number is still its own.
        if self.child.id().is_some() {
            self.group.kill();
        }
    }
}

/// Keeps the beginning and reads to the end, so that the writer does not stall.
async fn read_some(stderr: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else { return Ok(kept) };
    (&mut stderr)
        .take(MAX_STDERR_BYTES)
        .read_to_end(&mut kept)
        .await?;
    tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    Ok(kept)
}
