//! The kubelets that the files of a node start.

use std::path::{Path, PathBuf};

use super::invocation::{Invocation, Source, Word, kubelet_arguments, program};
use super::rancher::{self, Product};
use super::root::Root;
use super::systemd::{UnitError, UnitStart};
use super::{microk8s, systemd};

/// The systemd units that start a kubelet in distributions.
const UNITS: [&str; 5] = [
    "kubelet.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
];
/// Where distributions keep a kubelet's configuration file.
const CONFIGURATIONS: [&str; 6] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/config.json",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet/config",
    "/home/kubernetes/kubelet-config.yaml",
    "/var/lib/kubelet/kubelet.conf",
];

/// Why it is not known how a node's kubelet is started.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// A unit cannot be read.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A unit does not start a kubelet, as far as its command shows.
    #[error(
        "{file}: starts {program:?}, which is not known to start a kubelet: name the kubelet's configuration \
         with --kubelet-config and its flags with --kubelet-arg"
    )]
    NoKubelet {
        /// The unit.
        file: String,
        /// What it starts.
        program: String,
    },
    /// No unit was found.
    #[error(
        "{}: no kubelet is started here by one of the systemd units {}: {}",
        root.display(), UNITS.join(", "), way_out(configurations)
    )]
    None {
        /// The node's file system.
        root: PathBuf,
        /// Files that may be the kubelet's configuration.
        configurations: Vec<&'static str>,
    },
}

fn way_out(configurations: &[&str]) -> String {
    match configurations.first() {
        Some(path) => format!(
            "there is {}: if that is its configuration, give --kubelet-config={path}, and its flags with \
             --kubelet-arg",
            configurations.join(" and ")
        ),
        None => "name its configuration with --kubelet-config and its flags with --kubelet-arg".to_owned(),
    }
}

/// The kubelets that a node's files start, by systemd units under the names that distributions use and by
/// MicroK8s' file of arguments; and what cannot be understood. One of the two lists is not empty.
#[must_use]
pub fn in_files(root: &Root) -> (Vec<Invocation>, Vec<FindError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for unit in UNITS {
        match systemd::started(root, unit) {
            Ok(None) => {}
            Ok(Some(started)) => match of_unit(root, started) {
                Ok(invocation) => found.extend(invocation),
                Err(error) => errors.push(error),
            },
            Err(error) => errors.push(FindError::Unit(error)),
        }
    }
    if root.has(microk8s::ARGUMENTS) {
        let source = Source::File(microk8s::ARGUMENTS.to_owned());
        found.push(microk8s::invocation(&[], source, root.clone()));
    }
    if found.is_empty() && errors.is_empty() {
        errors.push(FindError::None {
            root: root.path().to_owned(),
            // A copy of a node may lack its units.
            configurations: CONFIGURATIONS.into_iter().filter(|path| root.has(path)).collect(),
        });
    }
    (found, errors)
}

/// The kubelets that the unit of this name starts: none with k3s' or RKE2's `--disable-agent`. `None`: there
/// is no such unit, or it is not known to start a kubelet.
///
/// # Errors
/// One of its files cannot be read, or it starts nothing.
pub(super) fn in_unit(root: &Root, name: &str) -> Result<Option<Vec<Invocation>>, FindError> {
    let Some(started) = systemd::started(root, name)? else {
        return Ok(None);
    };
    match of_unit(root, started) {
        Ok(invocation) => Ok(Some(invocation.into_iter().collect())),
        Err(FindError::NoKubelet { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kubelet that a unit starts; `None`: none, with k3s' or RKE2's `--disable-agent`.
///
/// # Errors
/// What it starts is not known to be a kubelet.
pub(super) fn of_unit(root: &Root, started: UnitStart) -> Result<Option<Invocation>, FindError> {
    let source = Source::File(started.file.clone());
    let unit = Some(started.unit());
    if let Some(product) = Product::of(&started.words) {
        let environment = &started.environment;
        let invocation = rancher::invocation(product, &started.words, environment, source, root.clone());
        return Ok(invocation.map(|mut invocation| {
            invocation.unit = unit;
            invocation.notes.extend(started.notes);
            invocation.unread.extend(started.unread);
            invocation
        }));
    }
    let Some(arguments) = unwrapped(&started.words).and_then(kubelet_arguments) else {
        let program = started.words.first();
        return Err(FindError::NoKubelet {
            program: program.map_or_else(String::new, |word| word.text.clone()),
            file: started.file,
        });
    };
    Ok(Some(Invocation {
        unit,
        directory: Path::new("/").join(started.directory),
        notes: started.notes,
        unread: started.unread,
        ..Invocation::new(source, arguments.to_vec(), root.clone())
    }))
}

/// The command without the programs that only start another, and their options. Other programs are not
/// skipped: they may add flags to the kubelet's.
fn unwrapped(words: &[Word]) -> Option<&[Word]> {
    const WRAPPERS: [&str; 9] = [
        "nice", "ionice", "numactl", "taskset", "chrt", "env", "stdbuf", "prlimit", "setpriv",
    ];
    let first = words.first()?;
    if !WRAPPERS.contains(&program(&first.text)) {
        return Some(words);
    }
    let option = |word: &Word| word.text.starts_with('-') || word.text.contains('=');
    let is_program = |word: &Word| {
        let program = program(&word.text);
        WRAPPERS.contains(&program) || matches!(program, "kubelet" | "hyperkube")
    };
    let next = words[1..]
        .iter()
        .position(|word| !option(word) && is_program(word))?;
    unwrapped(&words[1 + next..])
}
