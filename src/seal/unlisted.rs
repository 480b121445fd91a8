//! Firewalls that no listing of nft or iptables shows: eBPF programs of Cilium's host policies, of Calico's
//! host endpoints, or of another program.
//!
//! They cannot be read, only noticed, by what they leave behind: interfaces, pinned
//! objects, attached programs.

use std::fs;
use std::path::Path;

use super::tool;
use crate::files::{self, BUNDLE};

/// Interfaces of network plugins that filter by eBPF.
const INTERFACES: [(&str, &str); 6] = [
    ("cilium_host", "Cilium"),
    ("cilium_net", "Cilium"),
    ("cilium_vxlan", "Cilium"),
    ("cilium_geneve", "Cilium"),
    ("bpfin.cali", "Calico in eBPF mode"),
    ("bpfout.cali", "Calico in eBPF mode"),
];
/// Interfaces of pods: what is attached there is not about the node's own ports.
const OF_PODS: [&str; 4] = ["veth", "lxc", "cali", "lo"];
/// Interfaces that are looked at.
const MOST: usize = 32;

/// What tells of such a firewall on this node, one text for each sign; empty if nothing does.
#[must_use]
pub fn signs() -> Vec<String> {
    let devices = files::read_text("/proc/thread-self/net/dev", BUNDLE).unwrap_or_default();
    let names = interfaces(&devices);
    let mut signs: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let (_, whose) = INTERFACES.iter().find(|(known, _)| known == name)?;
            Some(format!("interface {name} of {whose}"))
        })
        .collect();
    signs.extend(pinned(Path::new("/sys/fs/bpf")));
    let run = |tool: &str, arguments: &[&str]| tool::run(tool, arguments, "", "listing programs").ok();
    let links = run("ip", &["-details", "link", "show"]).unwrap_or_default();
    signs.extend(express_paths(&links));
    let of_node = |name: &&&str| !OF_PODS.iter().any(|of_pod| name.starts_with(of_pod));
    for name in names.iter().filter(of_node).take(MOST) {
        for direction in ["ingress", "egress"] {
            let filters = run("tc", &["filter", "show", "dev", name, direction]).unwrap_or_default();
            if filters
                .lines()
                .any(|line| line.split(' ').any(|word| word == "bpf"))
            {
                signs.push(format!("an eBPF program on interface {name}, {direction}"));
            }
        }
    }
    // Of a newer kernel only this lists them all.
    signs.extend(attached(&run("bpftool", &["net", "show"]).unwrap_or_default()));
    signs
}

/// The names in `/proc/net/dev`.
fn interfaces(devices: &str) -> Vec<&str> {
    let named = devices.lines().filter_map(|line| line.split_once(':'));
    named.map(|(name, _)| name.trim()).collect()
}

/// What is pinned in the file system of eBPF.
fn pinned(root: &Path) -> Option<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let globals = root.join("tc/globals");
    let first = names(&globals).into_iter().min().map(|name| globals.join(name));
    let of_plugin = names(root)
        .into_iter()
        .filter(|name| name.starts_with("cilium") || name.starts_with("cali"))
        .min()
        .map(|name| root.join(name));
    of_plugin.or(first).map(|path| format!("{}", path.display()))
}

/// Programs on the express data path, from `ip -details link`.
fn express_paths(links: &str) -> Vec<String> {
    let mut name = "";
    let mut found = Vec::new();
    for line in links.lines() {
        if !line.starts_with(' ') {
            name = line.split(": ").nth(1).unwrap_or_default();
        }
        if line.contains("prog/xdp ") {
            found.push(format!("an XDP program on interface {name}"));
        }
    }
    found
}

/// Programs that `bpftool net` lists on interfaces of the node.
fn attached(listing: &str) -> Vec<String> {
    let mut kind = "";
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(title) = line.strip_suffix(':') {
            kind = title;
        } else if matches!(kind, "xdp" | "tc")
            && !line.is_empty()
            && !OF_PODS.iter().any(|of_pod| line.starts_with(of_pod))
        {
            found.push(format!("{kind}: {line}"));
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// (Not seen red.)
    #[test]
    fn what_is_attached_or_pinned_is_named() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n    lo: 1 2 3\n\
                       cilium_host: 0 0\n";
        assert_eq!(interfaces(devices), ["lo", "cilium_host"]);
        let links = "1: lo: <LOOPBACK,UP> mtu 65536\n    link/loopback 00:00\n\
                     2: eth0: <UP> mtu 1500 xdp qdisc mq\n    link/ether 02:00\n    prog/xdp id 41 name fw\n";
        assert_eq!(express_paths(links), ["an XDP program on interface eth0"]);
        let programs = "xdp:\neth0(2) driver id 5\n\ntc:\neth0(2) tcx/ingress cil_from_netdev prog_id 7\n\
                        lxc12(9) tcx/ingress cil_from_container prog_id 8\n\nflow_dissector:\nid 9\n";
        assert_eq!(
            attached(programs),
            [
                "xdp: eth0(2) driver id 5",
                "tc: eth0(2) tcx/ingress cil_from_netdev prog_id 7"
            ]
        );
        let root = tempfile::tempdir().unwrap();
        assert_eq!(pinned(root.path()), None);
        fs::create_dir_all(root.path().join("tc/globals")).unwrap();
        assert_eq!(pinned(root.path()), None, "an empty folder is no program");
        fs::write(root.path().join("tc/globals/cali_v4_ct"), "").unwrap();
        assert!(pinned(root.path()).unwrap().ends_with("tc/globals/cali_v4_ct"));
        fs::create_dir(root.path().join("cilium")).unwrap();
        assert!(pinned(root.path()).unwrap().ends_with("/cilium"));
    }
}
