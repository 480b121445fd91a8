//! The kubelet that `inspect`, `init` and `prove` are about.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::{Root, contained, in_files, running, running_as};

/// The kubelet that a command is about.
#[derive(Args, Debug)]
pub(super) struct WhichKubelet {
    /// The root of a node's file system, mounted or copied. Default: the running kubelet
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// The process id of the kubelet, if several run or it runs in a container
    #[arg(long, value_name = "PID", conflicts_with = "root")]
    pub(super) pid: Option<i32>,
    /// The kubelet's configuration file. Default: the one that its flags name
    #[arg(long, value_name = "FILE")]
    kubelet_config: Option<String>,
    /// A flag of the kubelet, such as --kubelet-arg=--anonymous-auth=false; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    kubelet_arg: Vec<String>,
}

impl WhichKubelet {
    /// The file system that the kubelet is in.
    pub(super) fn root(&self) -> Root {
        let path = self.root.as_deref().unwrap_or_else(|| Path::new("/"));
        Root::new(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Every kubelet that the arguments mean, and what cannot be understood.
    pub(super) fn find(&self) -> (Vec<Invocation>, Vec<String>) {
        if self.kubelet_config.is_some() || !self.kubelet_arg.is_empty() {
            let config = self.kubelet_config.as_deref().map(|path| match &self.root {
                // Without a root the path is one of this machine.
                None => std::path::absolute(path)
                    .map_or_else(|_| path.to_owned(), |path| path.display().to_string()),
                Some(_) => path.to_owned(),
            });
            let config = config.map(|path| format!("--config={path}"));
            let words: Vec<String> = config
                .into_iter()
                .chain(self.kubelet_arg.iter().cloned())
                .collect();
            return (vec![Invocation::given(&words, self.root())], Vec::new());
        }
        if self.root.is_some() {
            let root = self.root();
            if !root.path().is_dir() {
                return (
                    Vec::new(),
                    vec![format!(
                        "--root {}: there is no such folder",
                        root.path().display()
                    )],
                );
            }
            let (found, errors) = in_files(&root);
            return (found, errors.iter().map(ToString::to_string).collect());
        }
        chosen(self.pid)
    }
}

/// The kubelets that run here, or the one of the process that is named, in whichever namespaces it is; and
/// why there is none.
pub(super) fn chosen(pid: Option<i32>) -> (Vec<Invocation>, Vec<String>) {
    let proc = Path::new("/proc");
    let found: Vec<Invocation> = match pid {
        Some(pid) => running_as(proc, pid).into_iter().collect(),
        None => running(proc),
    };
    if !found.is_empty() {
        return (found, Vec::new());
    }
    let which = pid.map_or_else(String::new, |pid| format!(" with process id {pid}"));
    let others: Vec<String> = contained(proc).iter().map(ToString::to_string).collect();
    let others = match others.as_slice() {
        [] => String::new(),
        others => format!(
            " (in process namespaces of their own are the processes {}, which call themselves kubelets: \
             --pid chooses one)",
            others.join(", ")
        ),
    };
    let error = format!(
        "no running kubelet{which} is seen in /proc{others}: run this as root in the node's process \
         namespace, or name the node's file system with --root, or the kubelet's configuration with \
         --kubelet-config and --kubelet-arg"
    );
    (Vec::new(), vec![error])
}

/// The kubelets that were found, for an error.
pub(super) fn listed(invocations: &[Invocation]) -> String {
    let all: Vec<String> = invocations
        .iter()
        .map(|invocation| invocation.source.to_string())
        .collect();
    format!("there are {} kubelets ({})", all.len(), all.join(", "))
}
