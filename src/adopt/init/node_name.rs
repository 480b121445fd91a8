//! The name of the Node, if it is certain.

use super::kubeconfig::NodeCertificate;
use crate::adopt::inspect::Inspection;
use crate::authn::user_of_certificate;

/// The longest name that the API server accepts.
const LONGEST: usize = 253;

/// Why the Node's name is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeNameError {
    #[error(
        "the node's own certificate, {file}, names the Node {certified:?}, and the kubelet's \
         --hostname-override names {overridden:?}: find the right one with kubectl get nodes"
    )]
    Two {
        file: String,
        certified: String,
        overridden: String,
    },
    #[error(
        "neither the certificate in the kubelet's kubeconfig nor --hostname-override names the Node: see \
         kubectl get nodes{}",
        host(.0)
    )]
    None(String),
    #[error(
        "{from} names {name:?}, which no Node can have as its name: at most {LONGEST} lower-case letters, \
         digits, - and . (RFC 1123)"
    )]
    Invalid { from: String, name: String },
}

fn host(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!("; the host is called {name:?}"),
    }
}

/// The Node's name, and a comment on where it comes from.
///
/// # Errors
/// No source names it, two sources differ, or no Node can have the name.
pub(super) fn found(
    inspection: &Inspection,
    client: Option<&NodeCertificate>,
) -> Result<(String, String), NodeNameError> {
    let overridden = inspection.options.text("--hostname-override");
    let overridden = Some(overridden.trim().to_lowercase()).filter(|name| !name.is_empty());
    let certified = client.and_then(|client| {
        let user = user_of_certificate(client.chain.first()?).ok()??;
        let name = user.username.strip_prefix("system:node:")?.trim().to_lowercase();
        Some((name, client.file.as_str()))
    });
    let (name, from) = match (certified, overridden) {
        (Some((name, file)), Some(other)) if name != other => {
            return Err(NodeNameError::Two {
                file: file.to_owned(),
                certified: name,
                overridden: other,
            });
        }
        (Some((name, file)), _) => (name, format!("the node's own certificate, {file}")),
        (None, Some(name)) => (name, "the kubelet's --hostname-override".to_owned()),
        (None, None) => {
            let host = inspection
                .invocation
                .root
                .read("/etc/hostname")
                .unwrap_or_default();
            return Err(NodeNameError::None(host.trim().to_lowercase()));
        }
    };
    match is_subdomain(&name) {
        true => Ok((name, format!("From {from}."))),
        false => Err(NodeNameError::Invalid { from, name }),
    }
}

/// Whether the API server accepts this name of a Node: labels of letters and digits, with hyphens inside and
/// dots between them.
fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
    };
    name.len() <= LONGEST && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_called_as_a_host_in_dns_is() {
        for name in [
            "a",
            "worker-1",
            "ip-192-0-2-14.ec2.internal",
            "0.1",
            &"a".repeat(253),
        ] {
            assert!(is_subdomain(name), "{name}");
        }
        for name in [
            "",
            ".",
            "a.",
            "-a",
            "a-",
            "a..b",
            "A",
            "a_b",
            "a b",
            "a\n- b",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(!is_subdomain(name), "{name:?}");
        }
    }
}
