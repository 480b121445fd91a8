//! How this node's kubelet is started, and its effective options.
//!
//! ```text
//! listening    running kubelets, and where they listen         listening.rs
//! options      flags, files and defaults combined              options/
//! processes    kubelets that run                               processes.rs
//! files        kubelets that a node's files start              files.rs
//! rancher      k3s and RKE2                                    rancher/
//! snaps        MicroK8s and Canonical Kubernetes               snaps.rs
//! command      programs that only start another                command.rs
//! shell        the little of a shell that is read              shell.rs
//! recognised   what starts a kubelet and is not read           recognised.rs
//! systemd      what a unit starts                              systemd/
//! kubeconfig   the kubelet's kubeconfig                        kubeconfig.rs
//! next_start   what decides a running kubelet's next start      next_start.rs
//! invocation   how one kubelet is started, as all these say    invocation.rs
//! program      the program that is the kubelet                 program.rs
//! root         the node's file system                          root.rs
//! ```

mod command;
mod environment;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod invocation;
pub(crate) mod kubeconfig;
mod listening;
mod next_start;
pub mod options;
mod processes;
mod program;
mod rancher;
mod recognised;
mod root;
mod shell;
mod snaps;
mod systemd;

pub use self::files::{FindError, in_files};
pub(crate) use self::listening::{
    PORT, READ_ONLY_PORT, RunningKubelet, binds, listening_ports, overlap, running_kubelets,
};
pub(crate) use self::next_start::{
    NextStart, WatchedKubelet, kubelets_of_the_node, next_starts_of, next_starts_of_the_node,
};
pub use self::processes::{contained, running, running_as};
pub(crate) use self::program::KubeletProgram;
pub use self::root::Root;
pub(crate) use self::root::plain;
pub use self::systemd::UnitError;
pub(crate) use self::systemd::{SocketLine, SocketUnit, socket_unit};
