//! The program that is, or would be, the kubelet.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::invocation::{Invocation, Source, program};
use super::root::Root;
use super::snaps::{SNAPS, Snap};
use super::systemd;
use crate::files;

/// Where systemd looks for a program without a folder.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/// Programs that are a kubelet, or start the one that they bring.
const PROGRAMS: [&str; 5] = ["kubelet", "hyperkube", "k3s", "rke2", "kubelite"];
/// The kubelet that RKE2 unpacks.
const RKE2: &str = "/var/lib/rancher/rke2/bin/kubelet";

/// The program of a kubelet, by its path in the node's file system. It is looked up, and not executed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KubeletProgram {
    /// Its path; of a running kubelet, that of the file which it was started from.
    pub(crate) path: PathBuf,
    /// The process whose program it is, if it runs.
    pid: Option<i32>,
    root: Root,
}

impl KubeletProgram {
    /// The program of this kubelet. `None`: it is not known.
    pub(crate) fn of(invocation: &Invocation) -> Option<Self> {
        let pid = invocation.pid();
        let path = match &invocation.source {
            Source::Process(pid) => std::fs::read_link(exe(*pid)).ok()?,
            Source::File(file) | Source::NextStart { file, .. } => {
                match SNAPS.iter().find(|snap| snap.arguments == file) {
                    Some(snap) => PathBuf::from(snap.program),
                    None => of_unit(&invocation.root, file)?,
                }
            }
            Source::Given => return None,
        };
        Some(Self {
            path,
            pid,
            root: invocation.root.clone(),
        })
    }

    /// Its name without its folder.
    pub(crate) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// Opens it. Of a running kubelet this is the program that runs, even if its file was replaced.
    ///
    /// # Errors
    /// It is not there, or no regular file.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self.pid {
            Some(pid) => files::open(exe(pid)),
            None => files::open(self.root.resolve(&self.path)?),
        }
    }
}

fn exe(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("exe")
}

/// The program that a unit starts, by the file of the unit.
fn of_unit(root: &Root, file: &str) -> Option<PathBuf> {
    let name = Path::new(file).file_name()?.to_str()?;
    let words = systemd::started(root, name).ok()??.words;
    if let Some(snap) = Snap::run_by(&words) {
        return Some(PathBuf::from(snap.program));
    }
    let word = words
        .iter()
        .find(|word| PROGRAMS.contains(&program(&word.text)))?;
    if program(&word.text) == "rke2" {
        return Some(PathBuf::from(RKE2));
    }
    if word.text.starts_with('/') {
        return Some(PathBuf::from(&word.text));
    }
    let named = FOLDERS.map(|folder| Path::new(folder).join(&word.text));
    named.into_iter().find(|path| root.has(path))
}
