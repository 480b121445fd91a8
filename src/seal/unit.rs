//! The systemd unit that loads the confirmed plan at boot.

use std::path::{Path, PathBuf};

use super::boot::Boot;
use super::error::FirewallError;
use super::file::{self, FileError};
use super::tool;
use crate::files::{self, DOCUMENT};

/// What the unit is called.
const NAME: &str = "kubelet-gate-firewall.service";
/// The unit, in its directory.
#[derive(Clone, Debug)]
pub struct Unit {
    directory: PathBuf,
}

impl Unit {
    /// Where systemd looks for what an administrator installs.
    pub const DIRECTORY: &str = "/etc/systemd/system";

    /// The unit in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Whether systemd runs on this machine and reads this directory.
    #[must_use]
    pub fn is_read_by_systemd(&self) -> bool {
        self.directory == Path::new(Self::DIRECTORY) && Path::new("/run/systemd/system").is_dir()
    }

    /// Whether the next boot runs `boot`, as far as the unit's files tell.
    #[must_use]
    pub fn loads(&self, boot: &Boot) -> bool {
        let Ok(text) = files::read_text(self.path(), DOCUMENT) else {
            return false;
        };
        let enabled = || self.directory.join("sysinit.target.wants").join(NAME).exists();
        let named = |(path, _): &(PathBuf, String)| text.contains(&quoted(&path.display().to_string()));
        boot.files.iter().all(named) && (!self.is_read_by_systemd() || enabled())
    }

    pub(super) fn install(&self, boot: &Boot) -> Result<(), FileError> {
        file::replace(&self.path(), &text(boot), file::READABLE)
    }

    pub(super) fn delete(&self) -> Result<(), FileError> {
        file::delete(&self.path())
    }

    pub(super) fn enable(&self) -> Result<(), FirewallError> {
        tool::run("systemctl", &["daemon-reload"], "", "reading the units")?;
        tool::run("systemctl", &["enable", NAME], "", "enabling the unit").map(drop)
    }

    pub(super) fn disable(&self) -> Result<(), FirewallError> {
        if !self.path().is_file() {
            return Ok(());
        }
        tool::run("systemctl", &["disable", NAME], "", "disabling the unit").map(drop)
    }
}

/// The unit's text: no gate, no configuration, only the packet filter's own program and its file.
fn text(boot: &Boot) -> String {
    let commands = boot.commands.iter().map(|words| {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        format!("ExecStart={}\n", words.join(" "))
    });
    format!(
        "# Written by kubelet-gate firewall confirm; taken away by kubelet-gate firewall remove.\n\
         [Unit]\n\
         Description=kubelet-gate: the kubelet's ports stay closed to all but the gate, before anything \
         listens there\n\
         DefaultDependencies=no\n\
         RequiresMountsFor=/var/lib\n\
         # Firewalls that delete every rule when they start. Whether they start is theirs: no Wants= here.\n\
         After=systemd-modules-load.service local-fs.target nftables.service iptables.service\n\
         After=ip6tables.service netfilter-persistent.service firewalld.service ufw.service ipset.service\n\
         Before=network-pre.target kubelet.service k3s.service k3s-agent.service rke2-server.service \
         rke2-agent.service\n\
         Before=snap.microk8s.daemon-kubelite.service shutdown.target\n\
         Conflicts=shutdown.target\n\
         Wants=network-pre.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         {}\n\
         [Install]\n\
         WantedBy=sysinit.target kubelet.service\n",
        commands.collect::<String>()
    )
}

/// A word as a unit file wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_unit_runs_the_packet_filter_and_no_gate() {
        let directory = tempfile::tempdir().unwrap();
        let unit = Unit::new(directory.path());
        let boot = |file: &str| Boot {
            files: vec![(file.into(), "table\n".into())],
            commands: vec![vec!["/usr/sbin/nft".into(), "-f".into(), file.into()]],
        };
        assert!(!unit.loads(&boot("/a b/confirmed-1.nft")));
        unit.install(&boot("/a b/confirmed-1.nft")).unwrap();
        let text = fs::read_to_string(unit.path()).unwrap();
        assert!(
            text.contains("\nExecStart=/usr/sbin/nft -f \"/a b/confirmed-1.nft\"\n"),
            "{text}"
        );
        assert!(!text.contains("kubelet-gate serve"), "{text}");
        let after: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("After="))
            .flat_map(|names| names.split(' '))
            .collect();
        for firewall in ["nftables", "netfilter-persistent", "firewalld", "ufw"] {
            assert!(after.contains(&format!("{firewall}.service").as_str()), "{text}");
        }
        assert!(unit.loads(&boot("/a b/confirmed-1.nft")));
        assert!(!unit.loads(&boot("/a b/confirmed-2.nft")), "another plan's");
        unit.delete().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        unit.delete().unwrap();
    }
}
