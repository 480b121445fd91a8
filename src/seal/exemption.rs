//! How the seal recognizes the gate's own connections.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::foreign;
use crate::files::{self, DOCUMENT};
use crate::host::Mark;

/// Bits that no wide-spread network plugin uses: clear of kube-proxy's 0xc000, portmap's 0x2000, Cilium's
/// 0x0f00, the AWS plugin's 0x80 and everything from 0x10000 up, which Calico, Weave and Tailscale take.
pub const FREE_BITS: u32 = 0x0000_107f;

/// How the seal recognizes the gate's own connections: their sockets have all of this. Never written into a
/// plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exemption {
    /// The gate's user id; never 0.
    pub uid: u32,
    /// What the gate sets on its sockets (`SO_MARK`).
    pub mark: Mark,
    /// The gate's cgroup below the root of cgroup v2, without a leading slash, such as
    /// `system.slice/kubelet-gate.service`; `None` where there is no cgroup v2.
    pub cgroup: Option<String>,
}

// === impl Exemption ===

impl Exemption {
    /// Of this process: its user, a new random mark in `mask` or in bits that are free, its cgroup. `None` if
    /// it cannot have one: it runs as root, or may not set marks (`CAP_NET_ADMIN`).
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn of_this_process(mask: Option<u32>) -> Result<Option<Self>, aws_lc_rs::error::Unspecified> {
        let uid = rustix::process::getuid().as_raw();
        if uid == 0 || !may_mark(FREE_BITS) {
            return Ok(None);
        }
        let mark = Mark::random(mask.unwrap_or_else(free_bits))?;
        Ok(Some(Self {
            uid,
            mark,
            cgroup: own_cgroup(),
        }))
    }

    /// Whether this process can have it: it has the same user and cgroup, and may set the mark.
    pub(crate) fn suits_this_process(&self) -> bool {
        let uid = rustix::process::getuid().as_raw();
        self.uid == uid && self.cgroup == own_cgroup() && may_mark(self.mark.value)
    }
}

fn own_cgroup() -> Option<String> {
    unified(&files::read_text("/proc/self/cgroup", DOCUMENT).unwrap_or_default())
}

fn may_mark(mark: u32) -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, None).is_ok_and(|socket| socket.set_mark(mark).is_ok())
}

/// Of [`FREE_BITS`], those that no rule of this node looks at. If too few are left `firewall apply` names
/// their users.
fn free_bits() -> u32 {
    const FEWEST: u32 = 4;
    let used = foreign::marks_in_use().unwrap_or_else(|error| {
        tracing::warn!("which bits of the packet mark are in use cannot be seen: {error}");
        0
    });
    let free = FREE_BITS & !used;
    if free.count_ones() < FEWEST {
        FREE_BITS
    } else {
        free
    }
}

/// The process' place below the root of cgroup v2, from `/proc/self/cgroup`. The root itself would exempt
/// every process, and is also what a container sees that has a cgroup namespace of its own.
fn unified(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let outside = path.is_empty() || path.starts_with("..") || path.ends_with(" (deleted)");
    (!outside).then(|| path.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cgroup_of_the_gates_own_exempts() {
        for (cgroups, path) in [
            (
                "0::/system.slice/kubelet-gate.service\n",
                Some("system.slice/kubelet-gate.service"),
            ),
            ("12:cpu:/a\n1:name=systemd:/b\n0::/c/d\n", Some("c/d")),
            ("0::/\n", None),
            ("0::/../../kubepods\n", None),
            ("0::/gone (deleted)\n", None),
            ("4:memory:/a\n", None),
            ("", None),
        ] {
            assert_eq!(unified(cgroups).as_deref(), path, "{cgroups:?}");
        }
    }

    #[test]
    fn a_mark_is_random_within_its_bits_and_never_shown() {
        let marks: Vec<Mark> = (0..200).map(|_| Mark::random(FREE_BITS).unwrap()).collect();
        assert!(
            marks
                .iter()
                .all(|mark| mark.value & !FREE_BITS == 0 && mark.value != 0)
        );
        assert!(marks.iter().any(|mark| *mark != marks[0]));
        let shown = format!(
            "{:?}",
            Mark {
                value: 0x1055,
                mask: FREE_BITS
            }
        );
        assert!(!shown.contains("1055"), "{shown}");
    }
}
