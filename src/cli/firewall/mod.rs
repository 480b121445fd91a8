//! `kubelet-gate firewall`: the seal around the gate, one file per subcommand.

mod admit;
mod apply;
mod configuration;
mod confirm;
mod observe;
mod plan;
mod print;
mod remove;
mod status;

use clap::{Args, Subcommand};

use super::exit::{CliError, Exit};
use super::terminal::Terminal;

/// The arguments of `firewall`.
#[derive(Args, Debug)]
pub(super) struct Firewall {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the running gate's own connections through a seal that is in force; serve does it where it may
    Admit(admit::Admit),
    /// Try the seal: the kernel itself undoes it unless it is confirmed in time
    Apply(apply::Apply),
    /// Make the running trial the seal that holds, also after a reboot
    Confirm(confirm::Confirm),
    /// Count and name the callers of the kubelet's ports, without changing anything
    Observe(observe::Observe),
    /// Print the rules that apply would load
    Print(print::Print),
    /// Take the seal away; everything else stays as it is
    Remove(remove::Remove),
    /// Is this node sealed? 0 if so, 2 if not
    Status(status::Status),
}

impl Firewall {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        match &self.command {
            Command::Admit(admit) => admit.run(terminal),
            Command::Apply(apply) => apply.run(terminal),
            Command::Confirm(confirm) => confirm.run(terminal),
            Command::Observe(observe) => observe.run(terminal),
            Command::Print(print) => print.run(terminal),
            Command::Remove(remove) => remove.run(terminal),
            Command::Status(status) => status.run(terminal),
        }
    }
}
