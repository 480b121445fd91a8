//! The kubelets that run, from their processes.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files::of_unit;
use super::invocation::{Invocation, NextInvocation, Source, kubelet_arguments, placed};
use super::rancher::{self, Product};
use super::root::Root;
use super::systemd::{UnitError, UnitStart};
use super::{snaps, systemd};
use crate::files::{self, DOCUMENT};

/// Longest command line that is read, in bytes. A longer one is cut, which is noted.
const LONGEST_COMMAND: u64 = 4 * 1024 * 1024;

/// Every kubelet among the processes under `proc`, those inside a k3s among them.
#[must_use]
pub fn running(proc: &Path) -> Vec<Invocation> {
    let Ok(entries) = std::fs::read_dir(proc) else {
        return Vec::new();
    };
    let mut found: Vec<Invocation> = entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            if !of_the_node(&process) {
                return None;
            }
            of_process(pid, &process)
        })
        .collect();
    found.sort_by_key(Invocation::pid);
    found
}

/// The kubelet of this process, in whichever namespaces it is: one that an operator has named.
#[must_use]
pub fn running_as(proc: &Path, pid: i32) -> Option<Invocation> {
    of_process(pid, &proc.join(pid.to_string()))
}

/// The processes in other process namespaces that call themselves kubelets and are no pod's, such as those of
/// nodes in containers. They are not believed unless an operator names one.
#[must_use]
pub fn contained(proc: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let mut found: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let process = proc.join(pid.to_string());
            !of_the_node(&process) && !is_of_a_pod(&process) && of_process(*pid, &process).is_some()
        })
        .collect();
    found.sort_unstable();
    found
}

pub(super) fn of_process(pid: i32, process: &Path) -> Option<Invocation> {
    let mut argv = Vec::new();
    let file = files::open(process.join("cmdline")).ok()?;
    file.take(LONGEST_COMMAND).read_to_end(&mut argv).ok()?;
    let text = String::from_utf8_lossy(argv.strip_suffix(b"\0").unwrap_or(&argv));
    let source = Source::Process(pid);
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let words = placed(&words, &source.to_string());
    let root = Root::new(process.join("root"));
    let product = Product::of(&words);
    if kubelet_arguments(&words).is_none()
        && !product.is_some_and(Product::embeds_kubelet)
        && !snaps::is_kubelite(&words)
    {
        return None;
    }
    let name = unit_of(process);
    let started = name.as_deref().map(|name| systemd::started(&root, name));
    let unit = started
        .as_ref()
        .and_then(|started| started.as_ref().ok()?.as_ref());
    let mut invocation = if let Some(arguments) = kubelet_arguments(&words) {
        Invocation::new(source, arguments.to_vec(), root)
    } else if let Some(product) = product {
        rancher::of_process(product, &words, process, unit, source, root)?
    } else {
        snaps::of_kubelite(&words, source, root)
    };
    if argv.len() as u64 == LONGEST_COMMAND {
        let why = "its arguments are longer than 4 MiB; the rest is not read";
        invocation.unread.push(why.to_owned());
    }
    if std::str::from_utf8(&argv).is_err() {
        let note = "some arguments are not UTF-8; such bytes are shown as \u{fffd}";
        invocation.notes.push(note.to_owned());
    }
    if product.is_none() {
        invocation.directory = working_directory(process);
    }
    invocation.unit = unit.map(UnitStart::unit);
    invocation.next = name
        .zip(started)
        .map(|(name, started)| next(pid, &name, started, &invocation.root));
    let network = |process: &Path| std::fs::read_link(process.join("ns/net")).ok();
    invocation.elsewhere = network(process)
        .zip(network(Path::new("/proc/thread-self")))
        .is_some_and(|(theirs, ours)| theirs != ours);
    Some(invocation)
}

/// What the unit of a process starts next.
fn next(pid: i32, name: &str, started: Result<Option<UnitStart>, UnitError>, root: &Root) -> NextInvocation {
    let started = match started {
        Ok(Some(started)) => started,
        Ok(None) => {
            return NextInvocation::Unknown(format!("{name}: there is no such unit, or it is masked"));
        }
        Err(error) => return NextInvocation::Unknown(error.to_string()),
    };
    let file = started.file.clone();
    match of_unit(root, started) {
        Ok(Some(invocation)) => NextInvocation::Known(Box::new(Invocation {
            source: Source::NextStart { pid, file },
            ..invocation
        })),
        Ok(None) => NextInvocation::Unknown(format!("{file}: it starts no kubelet")),
        Err(error) => NextInvocation::Unknown(error.to_string()),
    }
}

/// The name of the unit that a process belongs to, by its control group.
pub(super) fn unit_of(process: &Path) -> Option<String> {
    let groups = files::read_text(process.join("cgroup"), DOCUMENT).ok()?;
    let mut names = groups.lines().flat_map(|line| line.split('/'));
    names.rfind(|name| name.ends_with(".service")).map(str::to_owned)
}

/// Whether a process belongs to a pod, by its control group: the kubelet keeps its pods below `kubepods`. A
/// service below that, as on a node that is itself a pod, is that node's.
pub(super) fn is_of_a_pod(process: &Path) -> bool {
    let groups = files::read_text(process.join("cgroup"), DOCUMENT).unwrap_or_default();
    // With a `cgroupRoot` and systemd's names: `kubelet-kubepods-besteffort.slice`.
    let of_pods = |name: &str| name.starts_with("kubepods") || name.contains("-kubepods");
    groups.lines().any(|line| {
        let mut names = line.rsplit('/');
        let nearest = names.find(|name| of_pods(name) || name.ends_with(".service"));
        nearest.is_some_and(of_pods)
    })
}

/// Whether a process can be the node's kubelet, whatever name it gives itself: root owns it, no user of the
/// node could have started it as root (`exec -a kubelet su`), and it is in this program's process namespace.
/// A pod's process is in another one, unless the pod has the node's (`hostPID`). If the namespace cannot be
/// read (without `CAP_SYS_PTRACE`), the process counts, so that no kubelet is overlooked.
fn of_the_node(process: &Path) -> bool {
    let ours = rustix::process::getuid().as_raw();
    let owner = std::fs::metadata(process).map(|metadata| metadata.uid());
    let namespaces = (
        std::fs::read_link(process.join("ns/pid")),
        std::fs::read_link("/proc/self/ns/pid"),
    );
    let same = !matches!(namespaces, (Ok(theirs), Ok(ours)) if theirs != ours);
    let program = std::fs::metadata(process.join("exe"));
    let is_setuid = program.is_ok_and(|program| program.mode() & 0o6000 != 0);
    same && !is_setuid && owner.is_ok_and(|owner| owner == 0 || owner == ours)
}

/// The process' working directory, below its own root.
fn working_directory(process: &Path) -> PathBuf {
    let root = std::fs::read_link(process.join("root")).unwrap_or_default();
    let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
    let below = directory.strip_prefix(&root).unwrap_or(&directory);
    Path::new("/").join(below)
}
