//! What a node is called, so that reports on different nodes are kept apart.

use super::certificates::Certificate;
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::options::Effective;
use crate::host;

/// The Node's name, as far as it can be read: from the kubelet's own certificate, its `--hostname-override`,
/// the node's `/etc/hostname`, or this machine if the files are its own. A copy without any of these is
/// called as its folder is.
pub(super) fn name(invocation: &Invocation, options: &Effective, certificates: &[Certificate]) -> String {
    let root = &invocation.root;
    let certified = certificates
        .iter()
        .find_map(|certificate| certificate.node.clone());
    let overridden = options.text("--hostname-override").to_owned();
    let hostname = root.read("/etc/hostname").ok().and_then(|text| {
        let mut lines = text.lines().map(str::trim);
        lines
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .map(ToOwned::to_owned)
    });
    let is_here = invocation.pid().is_some() || root.is_here();
    let machine = is_here.then(host::host_name).flatten();
    let folder = std::path::absolute(root.path())
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    [certified, Some(overridden), hostname, machine, folder]
        .into_iter()
        .flatten()
        .map(|name| name.trim().to_lowercase())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unnamed".to_owned())
}
