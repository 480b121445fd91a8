//! Whether the node routes loopback: then machines and pods beside it reach what listens on 127.0.0.1.

use std::collections::BTreeMap;

use super::check::{Check, CheckResult, Compensation};
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::Invocation;
use crate::files::{self, DOCUMENT};

/// Where the kernel has the settings of each interface.
const FOLDER: &str = "/proc/sys/net/ipv4/conf";

/// The sysctl that is on, and the file that says so.
struct RoutedLoopback {
    file: String,
    name: String,
}

/// Why it is not known whether loopback is routed.
#[derive(Debug, thiserror::Error)]
enum LocalnetError {
    #[error("this program is in another network namespace than the kubelet")]
    Elsewhere,
    #[error("{file}: {source}")]
    Read { file: String, source: std::io::Error },
}

fn unread(file: &str) -> impl FnOnce(std::io::Error) -> LocalnetError {
    let file = file.to_owned();
    |source| LocalnetError::Read { file, source }
}

/// Whether packets from other machines may be for 127.0.0.0/8: on a running node, by the kernel's own
/// settings. Files do not tell all, since kube-proxy sets it while it runs.
pub(super) fn check(invocation: &Invocation) -> Check {
    const OPEN: &str = "machines on the same network and pods may reach what listens on 127.0.0.1, the \
                        kubelet too (CVE-2020-8558); kube-proxy sets it for node ports on loopback";
    let runs = invocation.pid().is_some();
    let found = match runs {
        true if invocation.elsewhere => Err(LocalnetError::Elsewhere),
        true => in_force(),
        false => configured(&invocation.root),
    };
    let place = found.as_ref().ok().and_then(Option::as_ref);
    let place = place.map(|routed| routed.file.clone());
    let (value, judgement) = match found {
        Ok(Some(routed)) => (format!("{}=1", routed.name), CheckResult::warn(OPEN)),
        Ok(None) if runs => ("0".to_owned(), CheckResult::PASS),
        Ok(None) => {
            let why = "no file sets it; only the running node tells whether kube-proxy does, for node ports \
                       on loopback";
            ("(not set)".to_owned(), CheckResult::warn(why))
        }
        Err(error) => ("(unknown)".to_owned(), CheckResult::warn(error.to_string())),
    };
    Check {
        id: "route-localnet",
        old: None,
        new: None,
        title: "loopback should not be routed",
        key: "route_localnet".to_owned(),
        value,
        origin: place
            .clone()
            .unwrap_or_else(|| if runs { FOLDER } else { "sysctl.d" }.to_owned()),
        file: place.filter(|_| !runs),
        verdict: judgement.verdict,
        why: judgement.why,
        gate: Compensation::Full("its seal refuses such packets before any other rule sees them"),
    }
}

fn in_force() -> Result<Option<RoutedLoopback>, LocalnetError> {
    let mut on = Vec::new();
    for entry in std::fs::read_dir(FOLDER).map_err(unread(FOLDER))? {
        let entry = entry.map_err(unread(FOLDER))?;
        let interface = entry.file_name().to_string_lossy().into_owned();
        let file = format!("{FOLDER}/{interface}/route_localnet");
        match files::read_text(&file, DOCUMENT) {
            Ok(value) if value.trim() == "1" => on.push(interface),
            Ok(_) => {}
            // The interface has just gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unread(&file)(error)),
        }
    }
    on.sort();
    Ok(on.first().map(|interface| RoutedLoopback {
        file: format!("{FOLDER}/{interface}/route_localnet"),
        name: format!("net.ipv4.conf.{}.route_localnet", on.join(",")),
    }))
}

/// As sysctl reads its files: in the order of their names, whichever folder they are in, the last that sets
/// it decides. Of two files with the same name, the one in the first folder counts.
fn configured(root: &Root) -> Result<Option<RoutedLoopback>, LocalnetError> {
    const FOLDERS: [&str; 4] = [
        "/etc/sysctl.d",
        "/run/sysctl.d",
        "/usr/local/lib/sysctl.d",
        "/usr/lib/sysctl.d",
    ];
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        let names = root.list(folder).map_err(unread(folder))?;
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
            Err(error) => return Err(unread(&file)(error)),
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
    Ok(on.map(|(name, (file, _))| RoutedLoopback { file, name }))
}
