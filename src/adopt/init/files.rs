//! The files that may be written.

pub(super) const CONFIGURATION: &str = "kubelet-gate.yaml";
pub(super) const KUBECONFIG: &str = "kubeconfig";
pub(super) const SERVICE: &str = "kubelet-gate.service";
pub(super) const SOCKET: &str = "kubelet-gate.socket";
pub(super) const SYSUSERS: &str = "kubelet-gate.sysusers";
pub(super) const RULES: &str = "firewall.nft";
pub(super) const NEXT: &str = "NEXT.md";

/// The name of every file that may be written.
pub(super) const NAMES: [&str; 7] = [CONFIGURATION, KUBECONFIG, SERVICE, SOCKET, SYSUSERS, RULES, NEXT];

/// A file to be written.
#[derive(Clone, Debug)]
pub(crate) struct DraftFile {
    /// Its name, one of [`NAMES`].
    pub(crate) name: &'static str,
    /// What is in it.
    pub(crate) text: String,
    /// Only its owner may read it: it holds or names secrets.
    pub(super) private: bool,
}
