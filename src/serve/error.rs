//! Why a gate cannot start.

use super::admin::socket::AdminSocketError;
use super::inherited::InheritedError;
use super::node::NodeError;
use super::sockets::BindError;
use crate::apiserver::{ApiServerError, KubeconfigError};
use crate::audit::AuditError;
use crate::authn::DenyListError;
use crate::forward::KubeletError;
use crate::host::SandboxError;
use crate::tls::ServingError;

/// Why a gate cannot start. The operator can correct each of these.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin socket.
    #[error(transparent)]
    AdminSocket(#[from] AdminSocketError),
    /// The API server client's files.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
    /// The audit sink.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A deny list.
    #[error(transparent)]
    DenyList(#[from] DenyListError),
    /// A socket that this process got.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The files of `upstream:`.
    #[error(transparent)]
    Kubelet(#[from] KubeletError),
    /// Neither a kubeconfig nor a service account.
    #[error(
        "authorization.mode is Webhook or authentication.webhook is enabled, but there is neither a \
         kubeconfig nor an in-cluster service account to ask the API server with; set kubeconfig"
    )]
    NoApiServer,
    /// The node's name, or its ports.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness(#[from] aws_lc_rs::error::Unspecified),
    /// `sources` leave out where the API server was served.
    #[error("{0}; add it, or write sources.excludeApiServer: true if that is meant")]
    WithoutApiServer(String),
    /// The helper process.
    #[error("the helper process, which runs programs for the gate, cannot be started: {0}")]
    Helper(String),
    /// `sandbox: Required`.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The serving pair or the client CA.
    #[error(transparent)]
    Serving(#[from] ServingError),
}
