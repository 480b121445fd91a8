//! Whether the node routes loopback, by which a neighbour reaches what listens on 127.0.0.1.

use std::collections::BTreeMap;

use super::checks::{Check, Gate, Verdict};
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::Invocation;

/// Whether packets from outside may be for 127.0.0.0/8: on a running node as the kernel has it. What its files set is not all:
/// kube-proxy sets it while it runs.
pub(super) fn check(invocation: &Invocation) -> Check {
    const OPEN: &str = "neighbours and pods may reach what listens on 127.0.0.1, the kubelet too (CVE-2020-8558); kube-proxy sets \
                        it for node ports on loopback";
    let runs = invocation.pid().is_some();
    let found = match runs {
        true if invocation.elsewhere => Err("this program is in another network than the kubelet".to_owned()),
        true => in_force().map_err(|error| error.to_string()),
        false => configured(&invocation.root),
    };
    let place = found
        .as_ref()
        .ok()
        .and_then(|found| Some(found.as_ref()?.0.clone()));
    let (verdict, value, why) = match found {
        Ok(Some((_, name))) => (Verdict::Warn, format!("{name}=1"), OPEN.to_owned()),
        Ok(None) if runs => (Verdict::Pass, "0".to_owned(), String::new()),
        Ok(None) => {
            let why = "no file sets it; whether kube-proxy does, for node ports on loopback, only the running node tells";
            (Verdict::Warn, "(not set)".to_owned(), why.to_owned())
        }
        Err(why) => (Verdict::Warn, "(unknown)".to_owned(), why),
    };
    Check {
        id: "route-localnet",
        old: None,
        new: None,
        title: "loopback is not routed",
        value,
        origin: place
            .clone()
            .unwrap_or_else(|| if runs { FOLDER } else { "sysctl.d" }.to_owned()),
        file: place.filter(|_| !runs),
        verdict,
        why,
        gate: Gate::Yes("its seal refuses such packets before anything else sees them"),
    }
}

const FOLDER: &str = "/proc/sys/net/ipv4/conf";

/// A file that says so, and the sysctl.
type Found = Option<(String, String)>;

fn in_force() -> std::io::Result<Found> {
    let mut on = Vec::new();
    for entry in std::fs::read_dir(FOLDER)? {
        let interface = entry?.file_name().to_string_lossy().into_owned();
        match std::fs::read_to_string(format!("{FOLDER}/{interface}/route_localnet")) {
            Ok(value) if value.trim() == "1" => on.push(interface),
            Ok(_) => {}
            // It has just gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    on.sort();
    Ok(on.first().map(|interface| {
        (
            format!("{FOLDER}/{interface}/route_localnet"),
            format!("net.ipv4.conf.{}.route_localnet", on.join(",")),
        )
    }))
}

/// The last of sysctl's files that sets it decides, in the order of their names, whichever folder they are in; of two with the
/// same name the folder that comes first wins.
fn configured(root: &Root) -> Result<Found, String> {
    const FOLDERS: [&str; 4] = [
        "/etc/sysctl.d",
        "/run/sysctl.d",
        "/usr/local/lib/sysctl.d",
        "/usr/lib/sysctl.d",
    ];
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        let names = root.list(folder).map_err(|error| format!("{folder}: {error}"))?;
        for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
            files
                .entry(name.clone())
                .or_insert_with(|| format!("{folder}/{name}"));
        }
    }
    let last = "/etc/sysctl.conf".to_owned();
    let mut found = BTreeMap::new();
    for file in files.into_values().chain([last]) {
        if root.is_masked(&file) {
            continue;
        }
        let text = match root.read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{file}: {error}")),
        };
        for line in text.lines() {
            let Some((name, value)) = line.trim().trim_start_matches('-').split_once('=') else {
                continue;
            };
            let name = name.trim().replace('/', ".");
            if name.starts_with("net.ipv4.conf.") && name.ends_with(".route_localnet") {
                found.insert(name, (file.clone(), value.trim() == "1"));
            }
        }
    }
    let on = found.into_iter().find(|(_, (_, on))| *on);
    Ok(on.map(|(name, (file, _))| (file, name)))
}
