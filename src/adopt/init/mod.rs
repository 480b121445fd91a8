//! Everything a gate needs in front of a kubelet that is there already: its configuration, a systemd unit, and what to do
//! next. What cannot be found is left out and said; nothing is guessed.

mod configuration;
mod credential;
mod findings;
mod kubeconfig;
mod listening;
mod next;
mod node_name;
mod paths;
mod serving;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::binds;
use crate::seal::{Firewall, Plan};
use crate::settings::Backend;
use crate::settings::{KubeletFlags, Settings};

use self::configuration::Configuration;
use self::paths::Paths;

/// Where the files are to be installed on the node.
const INSTALLED: &str = "/etc/kubelet-gate";
/// Beyond this a comment, or a line for people, goes on in the next.
const WIDTH: usize = 118;
const UNIT: &str = include_str!("../../../config/systemd/kubelet-gate.service");
const USERS: &str = include_str!("../../../config/systemd/kubelet-gate.sysusers");

const CONFIGURATION: &str = "kubelet-gate.yaml";
const SERVICE: &str = "kubelet-gate.service";
const SYSUSERS: &str = "kubelet-gate.sysusers";
const NEXT: &str = "NEXT.md";
const RULES: &str = "firewall.nft";

/// The name of every file that may be written.
pub const NAMES: [&str; 6] = [CONFIGURATION, kubeconfig::NAME, SERVICE, SYSUSERS, RULES, NEXT];

/// A file to be written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its name, one of [`NAMES`].
    pub name: &'static str,
    /// What is in it.
    pub text: String,
    /// It holds, or names, what only its owner may read.
    pub private: bool,
}

/// What was written for a kubelet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The files, the configuration first.
    pub files: Vec<Written>,
    /// What was not found, and has to be filled in before the gate can start.
    pub missing: Vec<String>,
    /// What will not work as it is.
    pub problems: Vec<String>,
    /// What its owner should know before.
    pub remarks: Vec<String>,
}

/// Whose paths the configuration names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Naming {
    /// Those by which this process finds the files.
    Here,
    /// Those by which the node finds them.
    Node,
}

/// What is known of the place that is written for.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Whose paths the configuration names.
    pub naming: Naming,
    /// The folder that is written into, absolute.
    pub out: &'a Path,
    /// This program.
    pub program: &'a Path,
    /// The node's addresses, if this is the node.
    pub addresses: &'a [IpAddr],
    /// Whether the node has IPv6, if this is the node.
    pub ipv6: Option<bool>,
}

/// Writes everything for the kubelet that was looked at.
#[must_use]
pub fn draft(inspection: &Inspection, here: &Here<'_>) -> Draft {
    let paths = Paths::new(&inspection.invocation, here.naming);
    let configuration = Configuration::of(inspection, &paths, here);
    let public = |name, text| Written {
        name,
        text,
        private: false,
    };
    let mut files = vec![public(CONFIGURATION, configuration.text.clone())];
    files.extend(configuration.kubeconfig.clone().map(|text| Written {
        name: kubeconfig::NAME,
        text,
        private: true,
    }));
    // A unit of the node's would not find the files by the paths that are right here.
    if !paths.differ() {
        files.push(public(SERVICE, unit(inspection)));
        files.push(public(SYSUSERS, USERS.to_owned()));
    }
    files.extend(rules(inspection, &configuration, here).map(|text| public(RULES, text)));
    let names: Vec<&str> = files.iter().map(|file| file.name).collect();
    let next = next::text(inspection, &configuration, &paths, here, &names);
    files.push(public(NEXT, next));
    Draft {
        files,
        missing: configuration.missing,
        problems: configuration.findings.problems,
        remarks: configuration.findings.remarks,
    }
}

/// The unit, started after the one that starts this kubelet.
fn unit(inspection: &Inspection) -> String {
    let file = inspection.invocation.unit.as_ref().map(|unit| unit.file.as_str());
    let name = file
        .and_then(|file| file.rsplit('/').next())
        .filter(|name| name.ends_with(".service"))
        // What systemd allows in a name: nothing that would make it two.
        .filter(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
        });
    match name {
        Some(name) => UNIT.replacen("kubelet.service", name, 1),
        None => UNIT.to_owned(),
    }
}

/// The rules that would seal the node, if the configuration is whole.
fn rules(inspection: &Inspection, configuration: &Configuration, here: &Here<'_>) -> Option<String> {
    let file = here.out.join(CONFIGURATION);
    let settings = Settings::parse(&configuration.text, &file, &KubeletFlags::default()).ok()?;
    let bound = binds(&inspection.options).unwrap_or_default();
    let ports: Vec<u16> = bound.iter().map(SocketAddr::port).collect();
    let plan = Plan::of(&settings, &ports, Backend::Nftables).ok()?;
    let rules = Firewall::of(Backend::Nftables).print(&plan);
    Some(format!(
        "# To be read: `kubelet-gate firewall apply` loads these, on trial first, and lets the gate itself through.\n{rules}"
    ))
}

/// The words of a text in lines that are not too long.
fn filled(first: &str, rest: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut start = true;
    for word in text.split(' ') {
        if !start && line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = rest.to_owned();
            start = true;
        }
        if !start {
            line.push(' ');
        }
        line.push_str(word);
        start = false;
    }
    lines + &line + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::adopt::kubelet::Root;
    use crate::adopt::kubelet::invocation::{Invocation, Source, Unit};

    /// Seen red: with the unit's name taken from where the kubelet was found, which for one that runs is its process.
    #[test]
    fn the_gates_unit_comes_after_that_of_a_kubelet_that_runs() {
        let empty = tempfile::tempdir().unwrap();
        let after = |unit: Option<&str>| {
            let mut invocation = Invocation::given(&[], Root::new(empty.path()));
            invocation.source = Source::Process(1);
            invocation.unit = unit.map(|file| Unit {
                file: file.to_owned(),
                allows_only: None,
            });
            let inspection = Inspection::of(invocation, time::OffsetDateTime::UNIX_EPOCH).unwrap();
            let unit = super::unit(&inspection);
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
