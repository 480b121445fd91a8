//! `kubelet-gate firewall`: the seal around the gate, one file per subcommand.

mod admit;
mod apply;
mod confirm;
mod error;
mod observe;
mod output;
mod print;
mod remove;
mod status;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use self::error::CommandError;
use self::output::say;
use crate::adopt::kubelet;
use crate::seal::{self, Plan, PortKind, State};
use crate::settings::{Backend, KubeletFlags, Settings};

/// The gate answers at once.
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
    /// Count and name the callers of the kubelet's ports, without changing anything
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
    /// The one of the two iptables that this node uses
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
        outcome.unwrap_or_else(|error| {
            error.tell();
            error.code()
        })
    }
}

impl Configuration {
    fn load(&self) -> Result<Settings, CommandError> {
        Ok(Settings::load(&self.file, &KubeletFlags::default())?)
    }

    /// A command line about this configuration, to be pasted.
    fn command(&self, rest: &str) -> String {
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        format!("kubelet-gate firewall {rest} --config {}", file.display())
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The packet filter to use, and the plan for it.
fn planned(settings: &Settings, name: Option<BackendName>) -> Result<(seal::Firewall, Plan), CommandError> {
    let wanted = match name {
        None => settings.firewall.backend,
        Some(name) => Some(name.backend()),
    };
    let (backend, firewall) = seal::Firewall::find(wanted).map_err(CommandError::NoFirewall)?;
    let listening = kubelet::listening_ports(&kubelet::running_kubelets(Path::new("/proc")));
    Ok((firewall, Plan::of(settings, &listening, backend)?))
}

fn state(settings: &Settings) -> State {
    State::new(&settings.firewall.state_directory)
}

/// Says what happens to each port, a line each.
fn say_ports(plan: &Plan) {
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
            PortKind::Healthz => "closed from outside, open on this node".into(),
            _ => "everything else refused, on this node too".into(),
        });
        say(format_args!(
            "  {:>5} {:15} {}",
            port.port,
            port.kind.name(),
            becomes.join("; ")
        ));
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
