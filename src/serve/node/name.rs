//! The name of the Node that the gate asks about.

use std::path::Path;

use super::error::NodeError;
use crate::adopt::kubelet::running_kubelets;
use crate::host::host_name;
use crate::settings::Settings;

/// The Node's name: `nodeName`, the `system:node:NAME` of the gate's own certificate, a running
/// kubelet's `--hostname-override`, `NODE_NAME`, or the host's name if that is allowed. Trimmed and
/// lower-cased, as the kubelet does.
///
/// # Errors
/// None of them gives a name.
pub(crate) fn name(settings: &Settings, certificate_common_name: Option<&str>) -> Result<String, NodeError> {
    let variable = std::env::var("NODE_NAME").ok();
    first_name(settings, certificate_common_name, Path::new("/proc"), variable)
}

/// The first source that is not empty. A kubelet, too, ignores an empty `--hostname-override`.
fn first_name(
    settings: &Settings,
    certificate_common_name: Option<&str>,
    proc: &Path,
    variable: Option<String>,
) -> Result<String, NodeError> {
    let mut kubelets = running_kubelets(proc).into_iter();
    [
        settings.node_name.clone(),
        certificate_common_name
            .and_then(|name| name.strip_prefix("system:node:"))
            .map(str::to_owned),
        kubelets.find_map(|kubelet| kubelet.hostname_override),
        variable,
        settings.node_name_from_host.then(host_name).flatten(),
    ]
    .into_iter()
    .flatten()
    .map(|name| name.trim().to_lowercase())
    .find(|name| !name.is_empty())
    .ok_or(NodeError::NoName)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::KubeletFlags;

    fn named(key: &str, certificate: &str, kubelet: &str, variable: &str, host: bool) -> Option<String> {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nlisten: \
             [\"127.0.0.1:0\"]\n\
             kubeconfig: /k\nupstream: {{url: \"https://127.0.0.1:10250\", certificateFile: \
             /c}}\ntlsCertFile: /c\n\
             tlsPrivateKeyFile: /k\nnodeName: \"{key}\"\nnodeNameFromHost: {host}\n"
        );
        let settings = Settings::parse(&text, Path::new("test.yaml"), &KubeletFlags::default()).unwrap();
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("4711");
        std::fs::create_dir(&process).unwrap();
        std::fs::write(
            process.join("cmdline"),
            format!("kubelet\0--hostname-override={kubelet}"),
        )
        .unwrap();
        let name = first_name(
            &settings,
            Some(certificate),
            proc.path(),
            Some(variable.to_owned()),
        );
        name.map_err(|error| assert!(matches!(error, NodeError::NoName)))
            .ok()
    }

    /// Seen red: with `nodeName` left out, the first row.
    #[test]
    fn the_name_is_the_first_that_is_said_trimmed_and_in_lower_case() {
        let node = "system:node:Worker-B.example";
        assert_eq!(
            named("Worker-A", node, "Worker-C", "Worker-D", true).unwrap(),
            "worker-a"
        );
        assert_eq!(
            named("", node, "Worker-C", "Worker-D", true).unwrap(),
            "worker-b.example"
        );
        for other in ["system:node:", "system:nodes:x", "kubelet-gate", ""] {
            assert_eq!(
                named("", other, " Worker-C\n", "Worker-D", true).unwrap(),
                "worker-c"
            );
        }
        assert_eq!(named("", "", "", "Worker-D", true).unwrap(), "worker-d");
        assert_eq!(named("", "", " ", "", true), host_name());
        assert_eq!(
            named("", "", "", "", false),
            None,
            "the host's name is not the Node's unless that is said"
        );
    }
}
