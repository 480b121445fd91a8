//! Who may read and change the files that make a kubelet what it is: section 4.1 of the benchmark.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::checks::{Check, Gate, Verdict};
use crate::node::Root;
use crate::node::options::Effective;

/// Mode and owner of the kubeconfig, the client CA and the configuration file; of each only if there is one.
pub(super) fn checks(options: &Effective, root: &Root) -> Vec<Check> {
    [
        (
            "kubeconfig-permissions",
            "4.1.5",
            "4.1.6",
            "the kubelet's kubeconfig",
            options.text("--kubeconfig"),
        ),
        (
            "client-ca-permissions",
            "4.1.7",
            "4.1.8",
            "the client CA file",
            options.text("authentication.x509.clientCAFile"),
        ),
        (
            "config-permissions",
            "4.1.9",
            "4.1.10",
            "the kubelet's configuration file",
            options.text("--config"),
        ),
    ]
    .into_iter()
    .filter(|row| !row.4.is_empty())
    .filter_map(|(id, mode_id, owner_id, title, path)| check(root, id, mode_id, owner_id, title, path))
    .collect()
}

fn check(
    root: &Root,
    id: &'static str,
    mode_id: &'static str,
    owner_id: &'static str,
    title: &'static str,
    path: &str,
) -> Option<Check> {
    // What cannot be read at all is noted elsewhere.
    let about = root.resolve(Path::new(path)).and_then(std::fs::metadata).ok()?;
    let (mode, owner, group) = (about.mode() & 0o7777, about.uid(), about.gid());
    // The CA is public; nobody else may change it.
    let too_open = if id == "client-ca-permissions" {
        mode & 0o133
    } else {
        mode & 0o177
    };
    let (verdict, why) = if owner != 0 || group != 0 {
        (
            Verdict::Fail,
            format!("{path} belongs to {owner}:{group}, not to root ({owner_id})"),
        )
    } else if mode & 0o022 != 0 {
        (
            Verdict::Fail,
            format!("{path} may be changed by others ({mode_id})"),
        )
    } else if too_open != 0 {
        (
            Verdict::Warn,
            format!("{path} is more open than it has to be ({mode_id})"),
        )
    } else {
        (Verdict::Pass, String::new())
    };
    Some(Check {
        id,
        old: Some(mode_id),
        new: Some(mode_id),
        title,
        value: format!("{mode:04o} {owner}:{group}"),
        origin: path.to_owned(),
        file: Some(path.to_owned()),
        verdict,
        why,
        gate: Gate::No,
    })
}
