//! The kubelets that the files of a node start.

use std::path::{Path, PathBuf};

use super::command::{Launch, Recognised};
use super::invocation::{Invocation, Source, kubelet_arguments};
use super::rancher::{self, Product, Start};
use super::recognised::{self, Known};
use super::root::Root;
use super::snaps::{SNAPS, Snap};
use super::systemd;
use super::systemd::{UnitError, UnitStart};

/// The systemd units that start a kubelet in distributions.
const UNITS: [&str; 9] = [
    "kubelet.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "k0sworker.service",
    "k0scontroller.service",
    "snap.kubelet.daemon.service",
    "microshift.service",
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
    /// It starts a kubelet in a way that is recognised and not read.
    #[error(
        "{file}: starts {what}: {why}. No verdict is given: run this where the kubelet runs, or name its \
         configuration with --kubelet-config and its flags with --kubelet-arg"
    )]
    Recognised {
        /// The unit, or the node's file system.
        file: String,
        /// What it is.
        what: String,
        /// Why it is not read.
        why: String,
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
/// snaps' files of arguments; and what cannot be understood. One of the two lists is not empty.
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
    for snap in SNAPS.iter().filter(|snap| root.has(snap.arguments)) {
        let source = Source::File(snap.arguments.to_owned());
        found.push(snap.invocation(source, root.clone()));
    }
    if let Some(system) = recognised::system(root).filter(|_| found.is_empty() && errors.is_empty()) {
        errors.push(FindError::Recognised {
            file: root.path().display().to_string(),
            what: system.what,
            why: system.why,
        });
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

/// The kubelets that the unit of this name starts: none with `--disable-agent`, or of a k0s controller.
/// `None`: there is no such unit, or it is not known to start a kubelet.
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

/// The kubelet that a unit starts; `None`: none, with k3s' or RKE2's `--disable-agent`, or of a k0s
/// controller.
///
/// # Errors
/// What it starts is not known to be a kubelet.
pub(super) fn of_unit(root: &Root, started: UnitStart) -> Result<Option<Invocation>, FindError> {
    let file = started.file.clone();
    let source = Source::File(file.clone());
    let unit = Some(started.unit());
    let directory = Path::new("/").join(&started.directory);
    let launch = Launch::of(started.words, started.environment, root.clone())
        .map_err(|recognised| unread(file.clone(), recognised))?;
    let Launch {
        words,
        environment,
        root,
        ..
    } = launch;
    let found = if let Some(product) = Product::of(&words) {
        rancher::invocation(product, &words, &environment, source, root, Start::Next)
    } else if let Some(snap) = Snap::run_by(&words) {
        Some(snap.invocation(source, root))
    } else if let Some(arguments) =
        kubelet_arguments(&words).filter(|_| !recognised::is_script(&words[0].text, &root))
    {
        Some(Invocation {
            directory,
            ..Invocation::new(source, arguments.to_vec(), root)
        })
    } else {
        return match recognised::of(&words, &root) {
            Some(Known::NoKubelet) => Ok(None),
            Some(Known::Kubelet(recognised)) => Err(unread(file, recognised)),
            None => Err(FindError::NoKubelet {
                program: words.first().map_or_else(String::new, |word| word.text.clone()),
                file,
            }),
        };
    };
    Ok(found.map(|mut invocation| {
        invocation.unit = unit;
        invocation.notes.extend(started.notes);
        invocation.unread.extend(started.unread);
        invocation.unread.extend(launch.unread);
        invocation
    }))
}

fn unread(file: String, Recognised { what, why }: Recognised) -> FindError {
    let what = format!("{what}, not known to start a kubelet with just the flags that follow");
    FindError::Recognised { file, what, why }
}
