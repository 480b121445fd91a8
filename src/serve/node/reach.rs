//! What the kubelet refuses to a credential of the gate that was made for another purpose.
//!
//! A fleet credential, such as the API server's own for kubelets, has the rights of its role. That of the API
//! server's (`system:kubelet-api-admin`) names the subresources of its time: newer ones are out of reach.

use std::collections::BTreeMap;

use super::fleet::FleetCredential;
use crate::apiserver::{AccessSpec, ApiServer};
use crate::attributes::subresources;

/// Requests that a client may send through the gate, by the verb that the kubelet asks about. For HEAD
/// it asks with an empty one.
const READS: [(&str, &str); 2] = [("GET", "get"), ("HEAD", "")];
const READ: [&str; 9] = [
    "/configz",
    "/containerLogs",
    "/healthz",
    "/logs",
    "/metrics",
    "/pods",
    "/stats",
    "/statusz",
    "/flagz",
];
const CREATED: [&str; 2] = ["/checkpoint", "/exec"];

/// What to tell the operator: which requests the kubelet of `node_name` refuses to this credential, if it has
/// the API server authorize its callers; or that it could not be found out.
pub(crate) async fn out_of_reach(
    credential: &FleetCredential,
    api_server: &ApiServer,
    node_name: &str,
) -> Option<String> {
    let (key, file) = (credential.key, credential.file.display());
    let reads = READS
        .iter()
        .flat_map(|(method, verb)| READ.iter().map(move |path| (*method, *verb, *path)));
    let created = CREATED.iter().map(|path| ("POST", "create", *path));
    let mut answers: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (method, verb, path) in reads.chain(created) {
        let mut is_allowed = false;
        // The first that is allowed decides, as at the kubelet.
        for subresource in subresources(path) {
            let subresource = subresource.as_str();
            let allowed = match answers.get(&(verb, subresource)) {
                Some(allowed) => *allowed,
                None => {
                    let question = AccessSpec {
                        user: &credential.user,
                        verb,
                        subresource,
                        name: node_name,
                    };
                    match api_server.review_access(question).await {
                        Ok(answer) => answer.allowed,
                        Err(error) => {
                            return Some(format!(
                                "{key}: {file}: which requests the kubelet refuses to it cannot be asked: \
                                 {error}"
                            ));
                        }
                    }
                }
            };
            answers.insert((verb, subresource), allowed);
            is_allowed |= allowed;
            if allowed {
                break;
            }
        }
        if !is_allowed {
            let names: Vec<&str> = subresources(path).iter().map(|one| one.as_str()).collect();
            let names = names.join(" or nodes/");
            refused
                .entry(method)
                .or_default()
                .push(format!("{path} (nodes/{names})"));
        }
    }
    if refused.is_empty() {
        return None;
    }
    let refused: Vec<String> = refused
        .into_iter()
        .map(|(method, paths)| match (method, paths.len()) {
            ("HEAD", count) if count == READ.len() => "HEAD of every path (the verb \"\")".to_owned(),
            (method, _) => format!("{method} of {}", paths.join(", ")),
        })
        .collect();
    Some(format!(
        "{key}: {file}: the newest kubelets, where the API server authorizes their callers, refuse the user \
         {:?} {}; the gate answers such requests with 502, whatever the client may do: grant these rights to \
         that user, or use a credential for this node with the ClusterRole in NEXT.md of init",
        credential.user.username,
        refused.join("; ")
    ))
}
