//! The gate's unit, and the systemd that reads it: an old one ignores what it does not know, with a
//! line in the journal and no more. A unit without its capabilities, or without its sandbox, is
//! then taken for a whole one.

use std::path::Path;

use crate::files::{self, DOCUMENT};
use crate::seal::tool;

const UNITS: [&str; 2] = ["kubelet-gate.service", "kubelet-gate.socket"];
/// Where a unit is looked for, as systemd does, the first that is found.
const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Beginnings of lines, and the first version of systemd that knows them.
const KNOWN_SINCE: [(&str, u32); 21] = [
    ("AmbientCapabilities=", 229),
    ("ExecStartPost=-+", 231),
    ("LockPersonality=", 235),
    ("MemoryDenyWriteExecute=", 231),
    ("PrivateMounts=", 239),
    ("ProtectClock=", 245),
    ("ProtectControlGroups=", 232),
    ("ProtectHostname=", 242),
    ("ProtectKernelLogs=", 244),
    ("ProtectKernelModules=", 232),
    ("ProtectKernelTunables=", 232),
    ("ProtectProc=", 247),
    ("ProtectSystem=strict", 232),
    ("RemoveIPC=", 232),
    ("RestrictNamespaces=", 233),
    ("RestrictRealtime=", 231),
    ("RestrictSUIDSGID=", 242),
    ("StartLimitIntervalSec=", 230),
    ("StateDirectory=", 235),
    ("TriggerLimitIntervalSec=", 230),
    ("Type=notify-reload", 253),
];
/// A list of system calls that may be made: an unknown set in it is left out, and nearly none may be made.
const SYSTEM_CALLS: (&str, u32) = ("SystemCallFilter=@system-service", 239);

/// What the systemd of this machine does not know of the gate's units. Nothing where there
/// is no systemd, or no unit.
pub(super) fn unknown_directives() -> Vec<String> {
    let find = |unit: &str| {
        DIRECTORIES.iter().find_map(|directory| {
            let path = Path::new(directory).join(unit);
            files::read_text(&path, DOCUMENT).ok().map(|text| (path, text))
        })
    };
    let units: Vec<_> = UNITS.into_iter().filter_map(find).collect();
    if units.is_empty() {
        return Vec::new();
    }
    let said = tool::run("systemctl", &["--version"], "", "asking for its version");
    let Some(version) = said.ok().as_deref().and_then(version) else {
        return Vec::new();
    };
    let units = units.iter();
    units
        .flat_map(|(path, unit)| unknown(path, unit, version))
        .collect()
}

/// `systemd 252 (252.38-1~deb12u1)` → 252.
fn version(said: &str) -> Option<u32> {
    let number = said.strip_prefix("systemd ")?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

fn unknown(path: &Path, unit: &str, version: u32) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(unit.lines()) {
        let line = line.trim_start();
        let place = || format!("{}:{number}", path.display());
        if line.starts_with(SYSTEM_CALLS.0) && version < SYSTEM_CALLS.1 {
            found.push(format!(
                "{}: systemd {version} does not know the set @system-service (it is there from {} on), and \
                 would refuse nearly every system call: remove the line",
                place(),
                SYSTEM_CALLS.1
            ));
        }
        let known = KNOWN_SINCE
            .iter()
            .find(|(beginning, _)| line.starts_with(beginning));
        let Some((directive, since)) = known.filter(|(_, since)| version < *since) else {
            continue;
        };
        let way_out = match *directive {
            "AmbientCapabilities=" => {
                ", so that the gate may not read the node's keys; take config/systemd/before-229"
            }
            _ => "",
        };
        found.push(format!(
            "{}: systemd {version} ignores {directive} (it is known from {since} on){way_out}",
            place()
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = include_str!("../../config/systemd/kubelet-gate.service");
    const BEFORE_229: &str = include_str!("../../config/systemd/before-229/kubelet-gate.service");
    const SOCKET: &str = include_str!("../../config/systemd/kubelet-gate.socket");
    const IPTABLES: &str = include_str!("../../config/systemd/kubelet-gate.service.d/iptables.conf");
    const DROP_IN: &str = include_str!("../../config/systemd/kubelet-gate.service.d/notify-reload.conf");

    fn unknown_of(unit: &str, version: u32) -> Vec<String> {
        unknown(
            Path::new("/etc/systemd/system/kubelet-gate.service"),
            unit,
            version,
        )
    }

    #[test]
    fn the_version_is_read_from_what_systemctl_says() {
        assert_eq!(version("systemd 219\n+PAM +AUDIT\n"), Some(219));
        assert_eq!(version("systemd 252 (252.38-1~deb12u1)\n"), Some(252));
        assert_eq!(version("systemctl: not found"), None);
    }

    #[test]
    fn each_unit_is_known_to_the_systemd_that_it_is_for() {
        assert_eq!(unknown_of(NOW, 252), Vec::<String>::new());
        assert_eq!(unknown_of(BEFORE_229, 219), Vec::<String>::new());
        assert_eq!(unknown_of(SOCKET, 230), Vec::<String>::new());
        assert_eq!(unknown_of(SOCKET, 229).len(), 1);
        assert_eq!(unknown_of(IPTABLES, 229), Vec::<String>::new());
        assert_eq!(unknown_of(DROP_IN, 253), Vec::<String>::new());
        assert_eq!(unknown_of(DROP_IN, 252).len(), 1);
    }

    #[test]
    fn what_an_older_systemd_ignores_is_named_with_its_line() {
        let found = unknown_of(NOW, 219);
        let capabilities = found.iter().find(|line| line.contains("AmbientCapabilities="));
        let line = NOW
            .lines()
            .position(|line| line.starts_with("AmbientCapabilities="))
            .unwrap_or(0)
            + 1;
        assert_eq!(
            capabilities.map(String::as_str),
            Some(&*format!(
                "/etc/systemd/system/kubelet-gate.service:{line}: systemd 219 ignores \
                     AmbientCapabilities= (it is known from 229 on), so that the gate may not read the \
                     node's keys; take config/systemd/before-229"
            ))
        );
        // Ubuntu 18.04.
        let found = unknown_of(NOW, 237);
        assert!(
            found.iter().any(|line| line.contains("@system-service")),
            "{found:?}"
        );
        assert!(
            !found.iter().any(|line| line.contains("StateDirectory=")),
            "{found:?}"
        );
    }
}
