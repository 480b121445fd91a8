//! Everything that a gate in front of an existing kubelet needs, as text.

use std::net::SocketAddr;

use super::configuration::DraftConfiguration;
use super::destination::Destination;
use super::files::{CONFIGURATION, DraftFile, KUBECONFIG, NEXT, RULES, SERVICE, SOCKET, SYSUSERS};
use super::next;
use super::paths::Paths;
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::{binds, next_starts_of};
use crate::adopt::socket_unit::addresses;
use crate::seal::{Firewall, Plan};
use crate::settings::{Backend, KubeletFlags, Settings};

const UNIT: &str = include_str!("../../../config/systemd/kubelet-gate.service");
const SOCKETS: &str = include_str!("../../../config/systemd/kubelet-gate.socket");
const USERS: &str = include_str!("../../../config/systemd/kubelet-gate.sysusers");

/// What was written for a kubelet.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// The files, the configuration first.
    pub(crate) files: Vec<DraftFile>,
    /// What was not found, and has to be filled in before the gate can start.
    pub(crate) missing: Vec<String>,
    /// What will not work as it is.
    pub(crate) problems: Vec<String>,
    /// What may surprise the operator.
    pub(crate) remarks: Vec<String>,
}

impl Draft {
    /// Everything for the kubelet that was inspected.
    #[must_use]
    pub(crate) fn of(inspection: &Inspection, destination: &Destination<'_>) -> Self {
        let paths = Paths::new(&inspection.invocation, destination.naming);
        let configuration = DraftConfiguration::of(inspection, &paths, destination);
        let public = |name, text| DraftFile {
            name,
            text,
            private: false,
        };
        let mut files = vec![public(CONFIGURATION, configuration.text.clone())];
        files.extend(configuration.kubeconfig.clone().map(|text| DraftFile {
            name: KUBECONFIG,
            text,
            private: true,
        }));
        // A unit on the node would not find the files by the paths that are right on this machine.
        let settings = settings(&configuration, destination);
        let mut remarks = configuration.findings.remarks.clone();
        if !paths.differ() {
            files.push(public(SERVICE, service(inspection, destination.iptables)));
            match &settings {
                Some(settings) => match addresses(settings, &next_starts_of(&inspection.invocation)) {
                    Ok(addresses) => files.push(public(SOCKET, sockets(inspection, &addresses))),
                    Err(why) => remarks.push(format!(
                        "{SOCKET} is not written: {why}. Without it a restart closes the gate's ports for a \
                         moment; systemctl reload, which takes a new program up, does not"
                    )),
                },
                None => remarks.push(format!(
                    "{SOCKET} is not written: the configuration is not complete; run this again once it is"
                )),
            }
            files.push(public(SYSUSERS, USERS.to_owned()));
        }
        files.extend(rules(inspection, settings.as_ref()).map(|text| public(RULES, text)));
        let names: Vec<&str> = files.iter().map(|file| file.name).collect();
        let next = next::text(inspection, &configuration, &paths, destination, &names);
        files.push(public(NEXT, next));
        Self {
            files,
            missing: configuration.missing,
            problems: configuration.findings.problems,
            remarks,
        }
    }
}

/// The service, with what iptables needs where that carries the seal.
fn service(inspection: &Inspection, iptables: bool) -> String {
    let text = after_kubelet(UNIT, inspection);
    match iptables {
        false => text,
        true => text.replace(
            "CAP_NET_ADMIN CAP_SYS_PTRACE",
            "CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_PTRACE",
        ),
    }
}

/// The socket unit with these addresses.
fn sockets(inspection: &Inspection, addresses: &[SocketAddr]) -> String {
    let mut lines = Vec::new();
    for line in after_kubelet(SOCKETS, inspection).lines() {
        if !line.starts_with("ListenStream=") {
            lines.push(line.to_owned());
        }
        if line == "[Socket]" {
            lines.extend(addresses.iter().map(|address| format!("ListenStream={address}")));
        }
    }
    lines.join("\n") + "\n"
}

/// A unit, started after the one that starts this kubelet.
fn after_kubelet(unit: &str, inspection: &Inspection) -> String {
    let file = inspection.invocation.unit.as_ref().map(|unit| unit.file.as_str());
    let name = file
        .and_then(|file| file.rsplit('/').next())
        .filter(|name| name.ends_with(".service"))
        // The characters that systemd allows in a name: a space or newline would add a second one.
        .filter(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
        });
    match name {
        Some(name) => {
            let line = |name| format!("After=network-online.target {name}");
            unit.replacen(&line("kubelet.service"), &line(name), 1)
        }
        None => unit.to_owned(),
    }
}

/// What the gate makes of the configuration, if that is complete.
fn settings(configuration: &DraftConfiguration, destination: &Destination<'_>) -> Option<Settings> {
    let file = destination.out.join(CONFIGURATION);
    Settings::parse(&configuration.text, &file, &KubeletFlags::default()).ok()
}

/// The rules that would seal the node.
fn rules(inspection: &Inspection, settings: Option<&Settings>) -> Option<String> {
    let bound = binds(&inspection.options).unwrap_or_default();
    let ports: Vec<u16> = bound.iter().map(SocketAddr::port).collect();
    let plan = Plan::of(settings?, &ports, Backend::Nftables).ok()?;
    let rules = Firewall::of(Backend::Nftables).print(&plan);
    Some(format!(
        "# For reading. `kubelet-gate firewall apply` loads these rules, on trial first, and exempts the \
         gate from them.\n{rules}"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::adopt::kubelet::Root;
    use crate::adopt::kubelet::invocation::{Invocation, KubeletUnit, Source};

    /// Seen red: with the unit's name taken from where the kubelet was found, which for one that runs is its
    /// process.
    #[test]
    fn the_gates_unit_comes_after_that_of_a_kubelet_that_runs() {
        let empty = tempfile::tempdir().unwrap();
        let after = |unit: Option<&str>| {
            let mut invocation = Invocation::given(&[], Root::new(empty.path()));
            invocation.source = Source::Process(1);
            invocation.unit = unit.map(|file| KubeletUnit {
                file: file.to_owned(),
                allows_only: None,
            });
            let inspection = Inspection::of(invocation, time::OffsetDateTime::UNIX_EPOCH).unwrap();
            let unit = service(&inspection, false);
            let line = unit
                .lines()
                .find_map(|line| line.strip_prefix("After=network-online.target "));
            line.unwrap().to_owned()
        };
        assert_eq!(after(Some("/etc/systemd/system/k3s.service")), "k3s.service");
        assert_eq!(
            after(Some("/lib/systemd/system/kubelet@1.service")),
            "kubelet@1.service"
        );
        assert_eq!(after(None), "kubelet.service");
        assert_eq!(after(Some("/x/a\nExecStart=.service")), "kubelet.service");
        assert_eq!(after(Some("/x/a b.service")), "kubelet.service");
    }
}
