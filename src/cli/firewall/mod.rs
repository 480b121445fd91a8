//! `kubelet-gate firewall`: the seal around the gate, one file per subcommand.

/// Takes the place of std's, which panics where the reader has gone (`confirm | head -1`): what is done is done, and is
/// to be finished.
macro_rules! println {
    ($($words:tt)*) => {
        $crate::cli::firewall::printed(std::io::Write::write_fmt(
            &mut std::io::stdout().lock(),
            format_args!("{}\n", format_args!($($words)*)),
        ))
    };
}

/// The same, without the end of the line.
macro_rules! print {
    ($($words:tt)*) => {
        $crate::cli::firewall::printed(std::io::Write::write_fmt(
            &mut std::io::stdout().lock(),
            format_args!($($words)*),
        ))
    };
}

/// The same to standard error. If that is gone, too, the exit code has to do.
macro_rules! eprintln {
    ($($words:tt)*) => {
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr().lock(),
            format_args!("{}\n", format_args!($($words)*)),
        ))
    };
}

mod admit;
mod apply;
mod confirm;
mod observe;
mod print;
mod refusals;
mod remove;
mod status;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use super::{FAILED, USAGE, complain};
use crate::seal::{self, Exemption, FirewallError, Plan, RunningGate, State};
use crate::settings::Backend;

use crate::adopt::kubelet;
use crate::settings::{KubeletFlags, Settings};

/// Where systemd looks for what an administrator installs.
const UNITS: &str = "/etc/systemd/system";
/// The gate has every answer at hand.
const ADMIN: Duration = Duration::from_secs(5);

/// The arguments of `firewall`.
#[derive(Args, Debug)]
pub(super) struct Firewall {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the running gate's own connections through a seal that is in force; serve does it itself where it may
    Admit(admit::Admit),
    /// Try the seal: the kernel itself undoes it unless it is confirmed in time
    Apply(apply::Apply),
    /// Make the running trial the seal that holds, also after a reboot
    Confirm(confirm::Confirm),
    /// Count and name who calls the kubelet's ports, without changing anything
    Observe(observe::Observe),
    /// Print the rules that apply would load
    Print(print::Print),
    /// Take the seal away; everything else stays as it is
    Remove(remove::Remove),
    /// Is this node sealed? 0 if so, 2 if not
    Status(status::Status),
}

/// The file that every subcommand is about.
#[derive(Args, Debug)]
struct Configuration {
    /// The configuration file of the gate
    #[arg(long = "config", value_name = "FILE")]
    file: PathBuf,
}

/// `--backend`, over `firewall.backend`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum BackendName {
    /// nft
    Nftables,
    /// Whichever of the two iptables this node uses
    Iptables,
    /// iptables-nft
    IptablesNft,
    /// iptables-legacy
    IptablesLegacy,
}

impl Firewall {
    pub(super) fn run(&self) -> u8 {
        let outcome = match &self.command {
            Command::Admit(admit) => admit.run(),
            Command::Apply(apply) => apply.run(),
            Command::Confirm(confirm) => confirm.run(),
            Command::Observe(observe) => observe.run(),
            Command::Print(print) => print.run(),
            Command::Remove(remove) => remove.run(),
            Command::Status(status) => status.run(),
        };
        outcome.unwrap_or_else(|code| code)
    }
}

impl Configuration {
    /// The settings; what is wrong with them is told.
    fn load(&self) -> Result<Settings, u8> {
        Settings::load(&self.file, &KubeletFlags::default()).map_err(|error| told(USAGE, &error))
    }

    /// A command line about this configuration, to be pasted.
    fn command(&self, rest: &str) -> String {
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        format!("kubelet-gate firewall {rest} --config {}", file.display())
    }
}

/// Says what went wrong, and yields the exit code.
fn told(code: u8, error: &dyn std::error::Error) -> u8 {
    complain(error);
    code
}

/// Says so if it cannot be printed, but for a reader that has gone.
fn printed(outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&error);
    }
}

/// The exit code of what the packet filter does not do.
fn failed(error: FirewallError) -> u8 {
    told(FAILED, &error)
}

fn runtime() -> Result<Runtime, u8> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| told(FAILED, &error))
}

/// The packet filter to use, and the plan for it.
fn planned(settings: &Settings, name: Option<BackendName>) -> Result<(seal::Firewall, Plan), Vec<String>> {
    let wanted = match name {
        None => settings.firewall.backend,
        Some(name) => Some(name.backend()),
    };
    let (backend, firewall) = seal::Firewall::find(wanted)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let listening = kubelet::listening_ports(&kubelet::running_kubelets(Path::new("/proc")));
    let plan = Plan::of(settings, &listening, backend).map_err(|error| vec![error.to_string()])?;
    Ok((firewall, plan))
}

/// What the running gate is let through by.
fn exemption(settings: &Settings) -> Result<Option<Exemption>, u8> {
    let gate = RunningGate::read(&settings.firewall.run_directory).map_err(|error| told(FAILED, &error))?;
    Ok(gate.and_then(|gate| gate.exemption))
}

fn state(settings: &Settings) -> State {
    State::new(&settings.firewall.state_directory)
}

/// One line for each port: what becomes of it.
fn told_ports(plan: &Plan) {
    for port in &plan.ports {
        let to =
            |family: &str, to: Option<u16>| to.map(|to| format!("{family} brought to the gate's port {to}"));
        let mut becomes: Vec<String> = [to("IPv4", port.redirect_ipv4), to("IPv6", port.redirect_ipv6)]
            .into_iter()
            .flatten()
            .collect();
        if !port.gate_addresses.is_empty() {
            let held: Vec<String> = port.gate_addresses.iter().map(ToString::to_string).collect();
            becomes.push(format!("the gate's own on {}", held.join(", ")));
        }
        becomes.push(match port.kind {
            seal::PortKind::Healthz => "closed from outside, open on this node".into(),
            _ => "everything else refused, on this node too".into(),
        });
        println!(
            "  {:>5} {:15} {}",
            port.port,
            port.kind.name(),
            becomes.join("; ")
        );
    }
}

// === impl BackendName ===

impl BackendName {
    fn backend(self) -> Backend {
        match self {
            Self::Nftables => Backend::Nftables,
            Self::Iptables => seal::iptables_in_use(),
            Self::IptablesNft => Backend::IptablesNft,
            Self::IptablesLegacy => Backend::IptablesLegacy,
        }
    }
}
