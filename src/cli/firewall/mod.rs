//! `kubelet-gate firewall`: the seal around the gate, one file per subcommand.

mod admit;
mod apply;
mod configuration;
mod confirm;
mod error;
mod observe;
mod plan;
mod print;
mod remove;
mod status;

use clap::{Args, Subcommand};

use super::exit::{CliError, Exit};
use super::terminal::Terminal;

const EXIT_CODES: &str = "\
Exit codes:
  0   done; status: sealed
  1   failed at run time
  2   apply: refused to seal; status: not sealed
  64  wrong command line or configuration";

/// The arguments of `firewall`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Firewall {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the running gate's own connections through the seal; `serve` does so at each start
    Admit(admit::Admit),
    /// Put the seal on trial: the kernel itself undoes it unless it is confirmed in time
    Apply(apply::Apply),
    /// Make the seal on trial permanent, across reboots too
    Confirm(confirm::Confirm),
    /// Count and name the callers of the kubelet's ports, without changing anything
    Observe(observe::Observe),
    /// Print the rules that apply would load
    Print(print::Print),
    /// Remove the seal, and nothing else
    Remove(remove::Remove),
    /// Tell whether this node is sealed, and try every way around the gate
    Status(status::Status),
}

impl Firewall {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        // What is done to the seal is done, whether or not it is read to the end.
        terminal.let_reader_leave();
        let done = match &self.command {
            Command::Admit(admit) => admit.run(terminal),
            Command::Apply(apply) => apply.run(terminal),
            Command::Confirm(confirm) => confirm.run(terminal),
            Command::Observe(observe) => observe.run(terminal),
            Command::Print(print) => print.run(terminal),
            Command::Remove(remove) => remove.run(terminal),
            Command::Status(status) => status.run(terminal),
        };
        done.map_err(CliError::from)
    }
}
