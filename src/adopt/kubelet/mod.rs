//! How this node's kubelet is started, and its effective options.

mod environment;
pub mod invocation;
pub(crate) mod kubeconfig;
mod kubelet;
mod microk8s;
pub mod options;
mod rancher;
mod root;
mod systemd;

pub(crate) use self::kubelet::{PORT, READ_ONLY_PORT};
pub use self::kubelet::{RunningKubelet, binds, listening_ports, running_kubelets};
pub use self::root::Root;
pub(crate) use self::root::plain;
