//! What the Node is called, if it can be told for sure.

use super::kubeconfig::Client;
use crate::adopt::inspect::Inspection;
use crate::authn::user_of_certificate;

/// The longest name that the API server takes.
const LONGEST: usize = 253;

/// The Node's name and who says so.
///
/// # Errors
/// Nothing says it, two say different things, or no Node can be called so.
pub(super) fn found(inspection: &Inspection, client: Option<&Client>) -> Result<(String, String), String> {
    let overridden = inspection.options.text("--hostname-override");
    let overridden = Some(overridden.trim().to_lowercase()).filter(|name| !name.is_empty());
    let certified = client.and_then(|client| {
        let user = user_of_certificate(client.chain.first()?).ok()??;
        let name = user.username.strip_prefix("system:node:")?.trim().to_lowercase();
        Some((name, client.file.as_str()))
    });
    let (name, from) = match (certified, overridden) {
        (Some((name, file)), Some(other)) if name != other => {
            return Err(format!(
                "the node's own certificate, {file}, is of the Node {name:?}, and the kubelet's --hostname-override is {other:?}; one \
                 of them is not this node's (kubectl get nodes)"
            ));
        }
        (Some((name, file)), _) => (name, format!("By the node's own certificate, {file}.")),
        (None, Some(name)) => (name, "By the kubelet's --hostname-override.".to_owned()),
        (None, None) => {
            let host = inspection
                .invocation
                .root
                .read("/etc/hostname")
                .unwrap_or_default();
            let host = host.trim().to_lowercase();
            let perhaps = match host.as_str() {
                "" => String::new(),
                host => format!("; the host is called {host:?}"),
            };
            return Err(format!(
                "neither the certificate in the kubelet's kubeconfig nor --hostname-override says what the Node is called (kubectl \
                 get nodes){perhaps}"
            ));
        }
    };
    if is_subdomain(&name) {
        return Ok((name, from));
    }
    let from = from.trim_end_matches('.').replacen("By", "by", 1);
    Err(format!(
        "{from} it is {name:?}, but no Node can be called so: at most {LONGEST} lower-case letters, digits, - and . (RFC 1123)"
    ))
}

/// As the API server wants it of a Node: labels of letters, digits and hyphens within, with dots between.
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
