//! Everything a gate needs in front of a kubelet that is there already: its configuration, a systemd unit, and what to do
//! next. What cannot be found is left out and said; nothing is guessed.

mod configuration;
mod kubeconfig;
mod next;
mod paths;

use std::net::IpAddr;

use crate::inspect::{Inspection, Role};

use self::configuration::Configuration;
use self::paths::Paths;

/// Where the files are to be installed on the node.
pub const INSTALLED: &str = "/etc/kubelet-gate";
/// The gate's own port on a node whose 10250 is the kubelet's.
const PORT: u16 = 19443;
/// The tombstone's, where 10255 is the kubelet's.
const TOMBSTONE: u16 = 19255;
const UNIT: &str = include_str!("../../config/systemd/kubelet-gate.service");
const USERS: &str = include_str!("../../config/systemd/kubelet-gate.sysusers");

/// A file to be written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its name, without a folder.
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

/// Writes everything for the kubelet that was looked at. `addresses` are the node's, if this is the node.
#[must_use]
pub fn draft(inspection: &Inspection, naming: Naming, addresses: &[IpAddr]) -> Draft {
    let paths = Paths::new(&inspection.invocation, naming);
    let configuration = Configuration::of(inspection, &paths, addresses);
    let mut files = vec![Written {
        name: "kubelet-gate.yaml",
        text: configuration.text.clone(),
        private: false,
    }];
    files.extend(configuration.kubeconfig.clone().map(|text| Written {
        name: kubeconfig::NAME,
        text,
        private: true,
    }));
    files.push(Written {
        name: "kubelet-gate.service",
        text: unit(inspection),
        private: false,
    });
    files.push(Written {
        name: "kubelet-gate.sysusers",
        text: USERS.to_owned(),
        private: false,
    });
    files.push(Written {
        name: "NEXT.md",
        text: next::text(inspection, &configuration),
        private: false,
    });
    Draft {
        files,
        missing: configuration.missing,
        remarks: configuration.remarks,
    }
}

/// The unit, started after the one that starts this kubelet.
fn unit(inspection: &Inspection) -> String {
    let source = inspection.invocation.source.to_string();
    let name = source
        .rsplit('/')
        .next()
        .filter(|name| name.ends_with(".service"));
    match name {
        Some(name) => UNIT.replacen("kubelet.service", name, 1),
        None => UNIT.to_owned(),
    }
}

/// The node's name, by the client certificate that it shows the API server.
fn node_of_certificate(inspection: &Inspection) -> Option<(String, String)> {
    let client = inspection
        .certificates
        .iter()
        .find(|certificate| certificate.role == Role::Client)?;
    let name = client
        .subject
        .split("CN=system:node:")
        .nth(1)?
        .split([',', '+'])
        .next()?;
    Some((name.trim().to_lowercase(), client.file.clone()))
}
