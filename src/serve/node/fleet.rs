//! Whether what the gate shows its kubelet is good for this node's kubelet alone.
//!
//! A gate that held a credential for every kubelet of the cluster would, taken over, be worse than no gate. Who is behind
//! the credential is found as a kubelet finds it, and the API server is asked whether that user may reach another Node.

use std::path::{Path, PathBuf};

use crate::apiserver::{AccessSpec, ApiServer, TokenAnswer, UserInfo};
use crate::authn::{add_authenticated_group, user_of_certificate};
use crate::settings::UpstreamCredentials;
use crate::tls::pem;

/// A credential that other nodes' kubelets accept too.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: {} is a credential of {user}, who may get nodes/proxy of every other node as well: whoever takes this gate over \
     could use it against the whole fleet; give one that may nodes/proxy of this Node alone, or set upstream.allowFleetCredential: true", file.display()
)]
pub(crate) struct FleetCredential {
    key: &'static str,
    file: PathBuf,
    user: String,
}

/// What became of one credential.
#[derive(Debug)]
pub(crate) enum Shown {
    /// It is good for others too.
    Fleet(FleetCredential),
    /// It is this node's own, or nobody's.
    Own,
    /// Nobody could say: why.
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
        found.push(judge(key, file, certificate_user(file), api_server, node_name).await);
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
    // A Node that may or may not exist: what is asked for is a rule that is not about this one.
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
            user: format!("{:?}", user.username),
        }),
        Ok(_) => Shown::Own,
    }
}

/// Who a kubelet takes the holder of this certificate for.
fn certificate_user(file: &Path) -> Result<Option<UserInfo>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let chain = pem::certificates(file, &bytes).map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("it has no certificate")?;
    user_of_certificate(leaf).map_err(|error| error.to_string())
}

/// Who a kubelet takes the holder of this token for.
async fn token_user(file: &Path, api_server: &ApiServer) -> Result<Option<UserInfo>, String> {
    let token = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    match api_server.review_token(token.trim(), &[]).await {
        Err(error) => Err(error.to_string()),
        Ok(TokenAnswer::Rejected { .. }) => Ok(None),
        Ok(TokenAnswer::Authenticated { mut user, .. }) => {
            add_authenticated_group(&mut user);
            Ok(Some(user))
        }
    }
}
