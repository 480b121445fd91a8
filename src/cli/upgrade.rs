//! `kubelet-gate upgrade`: has a new process take over from the gate that serves.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::Signal;

use super::exit::{CliError, Exit};
use super::serve::Gate;
use super::terminal::Terminal;
use super::{check, hyphenated};
use crate::serve::handover::process::{OldProcess, Program};

/// The new process serves within this time, or has given up: a little more than the two need at most.
const DEADLINE: Duration = Duration::from_secs(75);

/// The arguments of `upgrade`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 the new process serves, 1 the old process goes on, 64 wrong command line or configuration")]
pub(super) struct Upgrade {
    /// If the gate that serves already runs this program's file, only have it read its files again (SIGHUP)
    #[arg(long)]
    if_changed: bool,
    /// The process that serves [default: MAINPID of the environment, else what firewall.runDirectory says]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    #[command(flatten)]
    gate: Gate,
}

/// Why the new process does not serve.
#[derive(Debug, thiserror::Error)]
enum UpgradeError {
    #[error("process {old} cannot be sent {signal}: {source}; it goes on as before")]
    Signal {
        old: i32,
        signal: &'static str,
        source: std::io::Error,
    },
    #[error("MAINPID={0:?} of the environment is no process id: unset it, or give --pid")]
    MainPid(String),
    #[error("{what}: {source}; process {old} goes on as before")]
    Start {
        old: i32,
        what: String,
        source: std::io::Error,
    },
    #[error(
        "the new process {new} has ended ({status}) and did not take over: its messages are above. Process \
         {old} goes on as before"
    )]
    Ended { old: i32, new: u32, status: ExitStatus },
    #[error(
        "the new process {new} did not serve within {DEADLINE:?}, and was ended. Process {old} goes on as \
         before"
    )]
    Late { old: i32, new: u32 },
}

impl Upgrade {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let judged = check::judge(&self.gate.config, &self.gate.flags, &mut terminal.err)?;
        let Some(settings) = judged else {
            let text = "the configuration cannot be used; the gate that serves goes on as before";
            terminal.err.text(text);
            return Ok(Exit::Usage);
        };
        let given = match self.pid {
            Some(pid) => Some(("--pid", pid)),
            None => main_pid().map_err(CliError::failed)?,
        };
        let old = OldProcess::find(&settings.firewall.run_directory, given).map_err(CliError::failed)?;
        let pid = old.pid();
        let start = |what: &str| {
            let what = what.to_owned();
            move |source| {
                CliError::failed(UpgradeError::Start {
                    old: pid,
                    what,
                    source,
                })
            }
        };
        let program = std::env::current_exe().map_err(start("which file this program is"))?;
        let signal = |signal, name| {
            let failed = |source| {
                let signal = name;
                CliError::failed(UpgradeError::Signal {
                    old: pid,
                    signal,
                    source,
                })
            };
            old.signal(signal).map_err(failed)
        };
        if self.if_changed && Program::at(&program).is_ok_and(|program| old.runs(program)) {
            signal(Signal::HUP, "SIGHUP")?;
            terminal.out.text(&format!(
                "process {pid} runs {} as it is installed: it reads its files again (SIGHUP)",
                program.display()
            ));
            return Ok(Exit::Good);
        }
        let (said, says) = UnixStream::pair().map_err(start("a socket cannot be made"))?;
        signal(Signal::USR2, "SIGUSR2")?;
        terminal.out.text(&format!(
            "process {pid} serves, and was told to hand over (SIGUSR2)"
        ));
        let mut command = Command::new(&program);
        command
            .args(arguments(std::env::args_os()))
            .stdin(OwnedFd::from(says))
            // Ctrl-C in a terminal is for this command.
            .process_group(0);
        let child = command.spawn();
        // The new process' end must be the only one.
        drop(command);
        let mut child = child.map_err(start(&format!("{} cannot be started", program.display())))?;
        let new = child.id();
        terminal.out.text(&format!("the new process is {new}"));
        wait(&mut child, said, pid).map_err(|error| match &error {
            UpgradeError::Ended { status, .. } if status.code() == Some(Exit::Usage as i32) => {
                CliError::usage(error)
            }
            _ => CliError::failed(error),
        })?;
        terminal.out.text(&format!(
            "process {new} serves; process {pid} accepts nothing more, and ends once it has served what it \
             had accepted, or by its upgrade.drainTimeout"
        ));
        Ok(Exit::Good)
    }
}

/// Waits until the new process says that it serves.
fn wait(child: &mut Child, said: UnixStream, old: i32) -> Result<(), UpgradeError> {
    let new = child.id();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| UpgradeError::Start { old, what, source }
    };
    let end = Instant::now() + DEADLINE;
    let mut lines = BufReader::new(&said);
    let mut line = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let reading = match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => said
                .set_read_timeout(Some(left))
                .and_then(|()| lines.read_line(&mut line)),
        };
        match reading {
            Ok(0) => {
                let status = child
                    .wait()
                    .map_err(failed("the new process cannot be waited for"))?;
                return Err(UpgradeError::Ended { old, new, status });
            }
            Ok(_) if line == "serving\n" => return Ok(()),
            Ok(_) => line.clear(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                // It has not taken over: the old process offers its sockets for a shorter time.
                let _ = child.kill();
                let _ = child.wait();
                return Err(UpgradeError::Late { old, new });
            }
        }
    }
}

/// The process that the service manager takes for the gate.
fn main_pid() -> Result<Option<(&'static str, i32)>, UpgradeError> {
    let Some(text) = std::env::var_os("MAINPID").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let pid: Option<i32> = text.parse().ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| UpgradeError::MainPid(text.into_owned()))?;
    Ok(Some(("MAINPID", pid)))
}

/// The arguments of the new process: those of this command, but for its own.
fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["serve".into(), "--take-over".into()];
    // The program and the subcommand come first.
    let mut given = given.into_iter().skip(2);
    while let Some(word) = given.next() {
        let flag = hyphenated(word.clone());
        let flag = flag.to_string_lossy();
        if flag == "--pid" {
            given.next();
        } else if flag != "--if-changed" && !flag.starts_with("--pid=") {
            arguments.push(word);
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (Not seen red.)
    #[test]
    fn the_new_process_gets_what_serve_has_and_nothing_of_upgrade() {
        for (given, passed) in [
            ("--config a", "--config a"),
            (
                "--if-changed --config a --log-format json",
                "--config a --log-format json",
            ),
            ("--pid 7 --config=a", "--config=a"),
            ("--config a --pid=7 --if_changed", "--config a"),
            ("--config a --read_only_port=0", "--config a --read_only_port=0"),
        ] {
            let words = format!("kubelet-gate upgrade {given}");
            let words = words.split(' ').map(OsString::from);
            let expected = format!("serve --take-over {passed}");
            let expected: Vec<_> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(arguments(words), expected, "{given}");
        }
    }
}
