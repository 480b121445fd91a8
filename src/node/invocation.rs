//! How a kubelet was started, or will be: found among the processes, in the files of a node, or given.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::rancher::{self, Product};
use super::root::Root;
use super::systemd;

/// Nobody has as many arguments; what is longer is cut, and said.
const LONGEST_COMMAND: u64 = 4 * 1024 * 1024;

/// Where a kubelet's start was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A running process.
    Process(i32),
    /// A systemd unit.
    Unit(String),
    /// The command line of this program.
    Given,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Unit(file) => f.write_str(file),
            Self::Given => f.write_str("the command line"),
        }
    }
}

/// An argument, and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Word {
    /// The argument.
    pub text: String,
    /// A process, a file.
    pub place: Arc<str>,
}

/// A kubelet's start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invocation {
    /// Where it was found.
    pub source: Source,
    /// What follows the program's name.
    pub words: Vec<Word>,
    /// The file system it sees.
    pub root: Root,
    /// Its working directory there.
    pub directory: PathBuf,
    /// What could not be read or is unusual.
    pub notes: Vec<String>,
}

impl Invocation {
    /// A kubelet with these arguments in this file system.
    #[must_use]
    pub fn given(words: &[String], root: Root) -> Self {
        Self {
            words: placed(words, &Source::Given.to_string()),
            source: Source::Given,
            root,
            directory: PathBuf::from("/"),
            notes: Vec::new(),
        }
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self.source {
            Source::Process(pid) => Some(pid),
            _ => None,
        }
    }
}

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

fn of_process(pid: i32, process: &Path) -> Option<Invocation> {
    let mut argv = Vec::new();
    let file = File::open(process.join("cmdline")).ok()?;
    file.take(LONGEST_COMMAND).read_to_end(&mut argv).ok()?;
    let mut notes = Vec::new();
    if argv.len() as u64 == LONGEST_COMMAND {
        notes.push("its arguments are longer than 4 MiB; what comes after is not seen".to_owned());
    }
    if std::str::from_utf8(&argv).is_err() {
        notes.push("some arguments are not UTF-8; what is not is shown as \u{fffd}".to_owned());
    }
    let words: Vec<String> = argv
        .strip_suffix(b"\0")
        .unwrap_or(&argv)
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let root = Root::new(process.join("root"));
    let source = Source::Process(pid);
    if let Some(arguments) = kubelet_arguments(&words) {
        return Some(Invocation {
            words: placed(arguments, &source.to_string()),
            directory: working_directory(process),
            source,
            root,
            notes,
        });
    }
    let product = Product::of(&words)?;
    product
        .embeds_kubelet()
        .then(|| rancher::invocation(product, &words, source, root))
}

/// Whether a process may be believed to be the node's kubelet, whatever it calls itself: it is root's, and in the process
/// namespace of this one. A pod's is in one of its own, unless it was given the node's (`hostPID`). A namespace that cannot be
/// seen (without `CAP_SYS_PTRACE`) is no reason to overlook a kubelet.
fn of_the_node(process: &Path) -> bool {
    let ours = rustix::process::getuid().as_raw();
    let owner = std::fs::metadata(process).map(|metadata| metadata.uid());
    let namespaces = (
        std::fs::read_link(process.join("ns/pid")),
        std::fs::read_link("/proc/self/ns/pid"),
    );
    let same = !matches!(namespaces, (Ok(theirs), Ok(ours)) if theirs != ours);
    same && owner.is_ok_and(|owner| owner == 0 || owner == ours)
}

/// As the process itself sees it, whose root may be another.
fn working_directory(process: &Path) -> PathBuf {
    let root = std::fs::read_link(process.join("root")).unwrap_or_default();
    let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
    let below = directory.strip_prefix(&root).unwrap_or(&directory);
    Path::new("/").join(below)
}

/// What follows the kubelet's name in a command, if the program is one.
fn kubelet_arguments(words: &[String]) -> Option<&[String]> {
    match (program(words.first()?), words.get(1).map(String::as_str)) {
        ("kubelet", _) => Some(&words[1..]),
        ("hyperkube", Some("kubelet" | "/kubelet")) => Some(&words[2..]),
        _ => None,
    }
}

/// The name of a program, without its folder.
pub(super) fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

pub(super) fn placed(words: &[String], place: &str) -> Vec<Word> {
    let place: Arc<str> = place.into();
    let word = |text: &String| Word {
        text: text.clone(),
        place: Arc::clone(&place),
    };
    words.iter().map(word).collect()
}

/// The kubelets that the files of a node start: by systemd units under the names that distributions use.
///
/// # Errors
/// There is none, or one cannot be read: each with the reason.
pub fn in_files(root: &Root) -> Result<Vec<Invocation>, Vec<String>> {
    const UNITS: [&str; 5] = [
        "kubelet.service",
        "k3s.service",
        "k3s-agent.service",
        "rke2-server.service",
        "rke2-agent.service",
    ];
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for unit in UNITS {
        match systemd::started(root, unit) {
            Ok(None) => {}
            Ok(Some(started)) => match of_unit(root, started) {
                Ok(invocation) => found.push(invocation),
                Err(error) => errors.push(error),
            },
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        Err(errors)
    } else if found.is_empty() {
        Err(vec![format!(
            "{}: no kubelet is started here, as far as systemd units tell ({}): name its configuration with \
             --kubelet-config and its flags with --kubelet-arg",
            root.path().display(),
            UNITS.join(", ")
        )])
    } else {
        Ok(found)
    }
}

fn of_unit(root: &Root, started: systemd::Started) -> Result<Invocation, String> {
    let systemd::Started {
        file,
        words,
        directory,
        notes,
    } = started;
    let source = Source::Unit(file.clone());
    if let Some(product) = Product::of(&words) {
        let mut invocation = rancher::invocation(product, &words, source, root.clone());
        invocation.notes.extend(notes);
        return Ok(invocation);
    }
    // Behind nice, numactl and their like.
    let at = (0..words.len()).find(|at| kubelet_arguments(&words[*at..]).is_some());
    let Some(arguments) = at.and_then(|at| kubelet_arguments(&words[at..])) else {
        return Err(format!(
            "{file}: it starts no kubelet that can be understood but {:?}: name its configuration with --kubelet-config and \
             its flags with --kubelet-arg",
            words.first().map_or("nothing", String::as_str)
        ));
    };
    Ok(Invocation {
        words: placed(arguments, &file),
        source,
        root: root.clone(),
        directory: Path::new("/").join(directory),
        notes,
    })
}
