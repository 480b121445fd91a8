//! `firewall status`: the rules as the kernel has them, and what happens to whoever tries to get around the gate.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Args;
use serde::Serialize;

use super::dial::Line;
use super::{Configuration, UNITS, failed, state, told};
use crate::cli::{FAILED, FINDINGS, GOOD, Output};
use crate::firewall::{Confirmed, Firewall, Plan, Reached, RunningGate, State, connections, judge, run_tool};
use crate::node;
use crate::settings::Settings;

/// A user that nothing of the gate is.
const SOMEBODY: u32 = 65534;

/// The arguments of `firewall status`.
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    configuration: Configuration,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Do not try from a network namespace of its own, which takes a pair of interfaces for a second
    #[arg(long)]
    no_namespace: bool,
    /// Where the unit is that loads the seal at boot
    #[arg(long, value_name = "DIRECTORY", default_value = UNITS)]
    unit_directory: PathBuf,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Nothing speaks against it.
    sealed: bool,
    /// Who carries it.
    backend: Option<&'static str>,
    /// Seconds until the trial ends.
    trial_seconds: Option<u64>,
    /// What speaks against it.
    problems: Vec<String>,
    /// What should be known and is no way in by itself.
    notes: Vec<String>,
    /// Every way that was tried.
    tried: Vec<Tried>,
}

/// A way around the gate, tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tried {
    from: &'static str,
    address: SocketAddr,
    reached: String,
    sealed: bool,
}

impl Status {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let settings = self.configuration.load()?;
        let mut report = Report::default();
        if let Some((plan, gate)) = report.rules(&settings, &self.unit_directory)? {
            report.connections(&plan, &gate, self.no_namespace)?;
        }
        report.sealed = report.problems.is_empty() && report.tried.iter().all(|tried| tried.sealed);
        match self.output {
            Output::Json => println!(
                "{}",
                serde_json::to_string(&report).map_err(|error| told(FAILED, &error))?
            ),
            Output::Table => report.print(),
        }
        Ok(if report.sealed { GOOD } else { FINDINGS })
    }
}

impl Report {
    /// Compares the kernel with what was confirmed. Yields what there is to try, and around whom.
    fn rules(
        &mut self,
        settings: &Settings,
        units: &std::path::Path,
    ) -> Result<Option<(Plan, RunningGate)>, u8> {
        let state = state(settings);
        let confirmed = state.confirmed().map_err(|error| told(FAILED, &error))?;
        let trial = state.trial().map_err(|error| told(FAILED, &error))?;
        let Some(plan) = confirmed
            .as_ref()
            .map(|confirmed| &confirmed.plan)
            .or(trial.as_ref())
        else {
            self.problems
                .push("nothing was ever applied on this node: begin with firewall apply".into());
            return Ok(None);
        };
        let firewall = Firewall::of(plan.backend);
        self.backend = Some(plan.backend.name());
        let remaining = firewall.trial_remaining().map_err(failed)?;
        self.trial_seconds = remaining.map(|remaining| remaining.as_secs());
        // While a trial lasts it is the trial's plan that is in force.
        let plan = match (remaining, trial.clone()) {
            (Some(_), Some(trial)) => trial,
            _ => plan.clone(),
        };
        if let Some(remaining) = remaining {
            self.problems.push(format!(
                "on trial: the kernel undoes it in {} s unless it is confirmed",
                remaining.as_secs()
            ));
        }
        match &confirmed {
            None if remaining.is_none() => self
                .problems
                .push("the trial ended without being confirmed".into()),
            None => {}
            Some(confirmed) => {
                self.drift(confirmed, &firewall)?;
                if !State::unit_installed(units) {
                    self.notes.push(format!(
                        "{} has no kubelet-gate-firewall.service: after a reboot the ports are open until somebody applies again",
                        units.display()
                    ));
                }
            }
        }
        let gate =
            RunningGate::read(&settings.firewall.run_directory).map_err(|error| told(FAILED, &error))?;
        let gate = match gate {
            Some(gate) if gate.lives() => {
                self.exemption(&gate, &firewall)?;
                gate
            }
            _ => {
                self.notes
                    .push("no gate runs: nobody gets to the kubelet at all".into());
                let (listen, read_only_listen) =
                    (settings.listen.clone(), settings.read_only_port.listen.clone());
                let (pid, uid, exemption, admin) = (0, u32::MAX, None, None);
                RunningGate {
                    pid,
                    uid,
                    exemption,
                    listen,
                    read_only_listen,
                    admin,
                }
            }
        };
        Ok(Some((plan, gate)))
    }

    fn drift(&mut self, confirmed: &Confirmed, firewall: &Firewall) -> Result<(), u8> {
        match firewall.fingerprint().map_err(failed)? {
            None => self
                .problems
                .push("the rules are gone: somebody flushed them, or they were not loaded at boot".into()),
            Some(fingerprint) if fingerprint == confirmed.fingerprint => {}
            Some(_) => {
                let now = firewall.version().map_err(failed)?;
                self.problems.push(if now == confirmed.tool {
                    "the rules are not what was confirmed: somebody changed them; apply and confirm again".into()
                } else {
                    format!(
                        "the rules cannot be compared: they were confirmed with {}, this is {now}; apply and confirm again",
                        confirmed.tool
                    )
                });
            }
        }
        Ok(())
    }

    fn exemption(&mut self, gate: &RunningGate, firewall: &Firewall) -> Result<(), u8> {
        let Some(exemption) = &gate.exemption else {
            self.problems.push(
                "the gate runs as root or may not mark its connections: it cannot be let through".into(),
            );
            return Ok(());
        };
        if exemption.cgroup.is_none() {
            self.notes.push(
                "no cgroup v2: the gate is known by its uid and mark alone, which whoever has CAP_SETUID and CAP_NET_RAW on \
                 this node can find out by trying"
                    .into(),
            );
        }
        if !firewall.admitted(exemption).map_err(failed)? {
            self.notes.push(
                "the running gate is not let through to the kubelet: kubelet-gate firewall admit".into(),
            );
        }
        Ok(())
    }

    /// Dials every port from every side that there is.
    fn connections(&mut self, plan: &Plan, gate: &RunningGate, no_namespace: bool) -> Result<(), u8> {
        let addresses = node::addresses().map_err(|error| told(FAILED, &error))?;
        let dialled = plan.dialled(&addresses);
        let root = rustix::process::geteuid().is_root();
        self.attempts("this user", &mut dial(&[], None), &dialled, gate);
        if root {
            self.attempts("another user", &mut dial(&[], Some(SOMEBODY)), &dialled, gate);
        } else {
            self.notes
                .push("not tried as another user, nor from another network: run it as root".into());
        }
        if root && !no_namespace {
            match Elsewhere::make() {
                Ok(elsewhere) => {
                    let dialled = plan.dialled(&reachable(&addresses));
                    self.attempts(
                        "another network",
                        &mut dial(&elsewhere.enter(), None),
                        &dialled,
                        gate,
                    );
                }
                Err(why) => self.notes.push(format!("not tried from another network: {why}")),
            }
        }
        let open = connections::ungated(plan, gate.uid).map_err(|error| told(FAILED, &error))?;
        for connection in open {
            self.notes.push(format!(
                "open past the gate since before the seal: {} to {}; firewall apply --cut resets it",
                connection.peer, connection.kubelet
            ));
        }
        Ok(())
    }

    fn attempts(
        &mut self,
        from: &'static str,
        dial: &mut Command,
        addresses: &[SocketAddr],
        gate: &RunningGate,
    ) {
        let mut dialling = || -> std::io::Result<Vec<Tried>> {
            let mut child = dial.args(addresses.iter().map(ToString::to_string)).spawn()?;
            let lines = lines(&mut child);
            let tried = lines.map(|lines| lines.iter().map(|line| tried(from, line, gate)).collect());
            // It holds its connections until then.
            drop(child.stdin.take());
            child.wait()?;
            tried
        };
        match dialling() {
            Ok(tried) => self.tried.extend(tried),
            Err(error) => self.problems.push(format!("not tried from {from}: {error}")),
        }
    }

    fn print(&self) {
        println!("{}", if self.sealed { "sealed" } else { "NOT SEALED" });
        for problem in &self.problems {
            println!("  - {problem}");
        }
        if !self.tried.is_empty() {
            println!("{:<16} {:<30} {:<24} ", "FROM", "TO", "REACHED");
        }
        for tried in &self.tried {
            let verdict = if tried.sealed { "ok" } else { "BYPASS" };
            println!(
                "{:<16} {:<30} {:<24} {verdict}",
                tried.from,
                tried.address.to_string(),
                tried.reached
            );
        }
        for note in &self.notes {
            println!("note: {note}");
        }
    }
}

/// This program, dialling from somewhere; `wrapper` brings it there.
fn dial(wrapper: &[String], uid: Option<u32>) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "kubelet-gate".into());
    let mut words = wrapper.iter().map(Into::into).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .args(["firewall", "dial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command
}

fn lines(child: &mut Child) -> std::io::Result<Vec<Line>> {
    let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    let mut text = String::new();
    BufReader::new(stdout).read_line(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn tried(from: &'static str, line: &Line, gate: &RunningGate) -> Tried {
    let reached = match (line.here, &line.error) {
        (Some(here), _) => judge(here, gate),
        (None, Some(error)) => Reached::Unknown(error.clone()),
        (None, None) => Reached::Nobody,
    };
    Tried {
        from,
        address: line.address,
        sealed: matches!(reached, Reached::Nobody | Reached::Gate),
        reached: match reached {
            Reached::Nobody => "nobody".into(),
            Reached::Gate => "the gate".into(),
            Reached::Kubelet => "the kubelet".into(),
            Reached::Unknown(why) => why,
        },
    }
}

/// What another network can dial: loopback addresses would be its own.
fn reachable(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let there = [IpAddr::from(NODE_END)];
    addresses
        .iter()
        .copied()
        .filter(|address| address.is_ipv4() && !address.is_loopback())
        .chain(there)
        .collect()
}

/// The node's end of the pair; link-local, so that it is nobody's.
const NODE_END: [u8; 4] = [169, 254, 253, 249];
const OTHER_END: &str = "169.254.253.250/30";

/// A network namespace with one interface, whose other end is on the node; gone when dropped.
struct Elsewhere {
    name: String,
    interface: String,
}

impl Elsewhere {
    fn make() -> Result<Self, String> {
        let pid = std::process::id();
        let elsewhere = Self {
            name: format!("kubelet-gate-{pid}"),
            interface: format!("kg{pid}"),
        };
        let (name, interface) = (elsewhere.name.as_str(), elsewhere.interface.as_str());
        let node_end = format!("{}/30", IpAddr::from(NODE_END));
        let gateway = IpAddr::from(NODE_END).to_string();
        let commands: [&[&str]; 7] = [
            &["netns", "add", name],
            &[
                "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", name,
            ],
            &["addr", "add", &node_end, "dev", interface],
            &["link", "set", interface, "up"],
            &["-n", name, "addr", "add", OTHER_END, "dev", "eth0"],
            &["-n", name, "link", "set", "eth0", "up"],
            &["-n", name, "route", "add", "default", "via", &gateway],
        ];
        for command in commands {
            run_tool("ip", command, "", "making a network namespace").map_err(|error| error.to_string())?;
        }
        Ok(elsewhere)
    }

    fn enter(&self) -> Vec<String> {
        ["nsenter", &format!("--net=/run/netns/{}", self.name), "--"]
            .map(str::to_owned)
            .to_vec()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // The pair goes with either of its ends; what was not made cannot be taken away.
        let _ = run_tool(
            "ip",
            &["link", "del", &self.interface],
            "",
            "removing an interface",
        );
        let _ = run_tool(
            "ip",
            &["netns", "del", &self.name],
            "",
            "removing a network namespace",
        );
    }
}
