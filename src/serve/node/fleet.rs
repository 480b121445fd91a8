//! Whether the credential that the gate shows its kubelet is valid for this node only.
//!
//! An attacker who takes over a gate that holds a credential for every kubelet of the cluster has the whole
//! cluster. The credential's user is determined as a kubelet does it, and the API server is asked whether
//! that user may reach another Node.

use std::path::{Path, PathBuf};

use crate::apiserver::{AccessSpec, ApiServer, TokenAnswer, UserInfo};
use crate::authn::{add_authenticated_group, user_of_certificate};
use crate::files::{self, DOCUMENT, TOKEN};
use crate::settings::UpstreamCredentials;
use crate::tls::pem;

/// A credential that other nodes' kubelets accept too.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: {} is a credential of {:?}, who may get nodes/proxy of every other node as well: an attacker \
     who takes over this gate could use it against the whole fleet; use a credential that may nodes/proxy of \
     this Node alone, or set upstream.allowFleetCredential: true", file.display(), user.username
)]
pub(crate) struct FleetCredential {
    pub(in crate::serve) key: &'static str,
    pub(super) file: PathBuf,
    pub(super) user: UserInfo,
}

/// What was found out about one credential.
#[derive(Debug)]
pub(crate) enum Shown {
    /// Other nodes' kubelets accept it too.
    Fleet(FleetCredential),
    /// It is valid for this node only, or belongs to no user.
    Own,
    /// It could not be found out: why.
    Unknown(String),
}

/// Judges each credential that is shown to the kubelet of `node_name`.
pub(crate) async fn shown_to_kubelet(
    credentials: &UpstreamCredentials,
    api_server: &ApiServer,
    node_name: &str,
) -> Vec<Shown> {
    let mut found = Vec::new();
    if let Some((file, _)) = &credentials.client_certificate {
        let key = "upstream.clientCertificateFile";
        found.push(judge(key, file, certificate_user(file).await, api_server, node_name).await);
    }
    if let Some(file) = &credentials.token_file {
        let user = token_user(file, api_server).await;
        found.push(judge("upstream.tokenFile", file, user, api_server, node_name).await);
    }
    found
}

async fn judge(
    key: &'static str,
    file: &Path,
    user: Result<Option<UserInfo>, String>,
    api_server: &ApiServer,
    node_name: &str,
) -> Shown {
    let unknown = |why: String| {
        Shown::Unknown(format!(
            "{key}: {}: cannot be checked for being this node's only: {why}",
            file.display()
        ))
    };
    let user = match user {
        Ok(Some(user)) => user,
        Ok(None) => return Shown::Own,
        Err(why) => return unknown(why),
    };
    // The name of a Node that need not exist: a rule that allows it is not limited to this Node.
    let other = format!("not-{node_name}");
    let question = AccessSpec {
        user: &user,
        verb: "get",
        subresource: "proxy",
        name: &other,
    };
    match api_server.review_access(question).await {
        Err(error) => unknown(error.to_string()),
        Ok(answer) if answer.allowed => Shown::Fleet(FleetCredential {
            key,
            file: file.to_owned(),
            user,
        }),
        Ok(_) => Shown::Own,
    }
}

/// The user that a kubelet finds in this certificate.
async fn certificate_user(file: &Path) -> Result<Option<UserInfo>, String> {
    let bytes = read(file, DOCUMENT).await?;
    let chain = pem::certificates(file, &bytes).map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("it has no certificate")?;
    user_of_certificate(leaf).map_err(|error| error.to_string())
}

/// The user that a kubelet finds for this token.
async fn token_user(file: &Path, api_server: &ApiServer) -> Result<Option<UserInfo>, String> {
    let bytes = read(file, TOKEN).await?;
    let token = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    match api_server.review_token(token.trim(), &[]).await {
        Err(error) => Err(error.to_string()),
        Ok(TokenAnswer::Rejected { .. }) => Ok(None),
        Ok(TokenAnswer::Authenticated { mut user, .. }) => {
            add_authenticated_group(&mut user);
            Ok(Some(user))
        }
    }
}

/// The gate that runs asks on its control thread, which does not wait for a disk.
async fn read(file: &Path, most: u64) -> Result<Vec<u8>, String> {
    let file = file.to_owned();
    let read = files::aside(move || files::read(file, most)).await;
    read.flatten().map_err(|error| error.to_string())
}
