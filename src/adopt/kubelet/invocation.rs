//! How a kubelet was started, or will be: found among the processes, in the files of a node, or given.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::microk8s;
use super::rancher::{self, Product};
use super::root::Root;
use super::systemd;

/// Nobody has as many arguments; what is longer is cut, and said.
const LONGEST_COMMAND: u64 = 4 * 1024 * 1024;
/// Where distributions keep a kubelet's configuration file.
const CONFIGURATIONS: [&str; 6] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/config.json",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet/config",
    "/home/kubernetes/kubelet-config.yaml",
    "/var/lib/kubelet/kubelet.conf",
];

/// Where a kubelet's start was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A running process.
    Process(i32),
    /// A file that starts it: a systemd unit, or MicroK8s' arguments.
    File(String),
    /// The command line of this program.
    Given,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::File(file) => f.write_str(file),
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

/// The systemd unit that a kubelet belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unit {
    /// Its file.
    pub file: String,
    /// With `IPAddressDeny=any`, the only ones who reach what it listens on, by its `IPAddressAllow`.
    pub allows_only: Option<Vec<String>>,
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
    /// Its unit, if that is known.
    pub unit: Option<Unit>,
    /// It runs in a network namespace other than this program's: its addresses and ports are not those that are seen here.
    pub elsewhere: bool,
    /// What is unusual.
    pub notes: Vec<String>,
    /// What could not be read, and may say anything.
    pub unread: Vec<String>,
}

impl Invocation {
    pub(super) fn new(source: Source, words: Vec<Word>, root: Root) -> Self {
        Self {
            source,
            words,
            root,
            directory: PathBuf::from("/"),
            unit: None,
            elsewhere: false,
            notes: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// A kubelet with these arguments in this file system.
    #[must_use]
    pub fn given(words: &[String], root: Root) -> Self {
        Self::new(Source::Given, placed(words, &Source::Given.to_string()), root)
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
    let text = String::from_utf8_lossy(argv.strip_suffix(b"\0").unwrap_or(&argv));
    let source = Source::Process(pid);
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let words = placed(&words, &source.to_string());
    let root = Root::new(process.join("root"));
    let product = Product::of(&words);
    if kubelet_arguments(&words).is_none()
        && !product.is_some_and(Product::embeds_kubelet)
        && !microk8s::is(&words)
    {
        return None;
    }
    let unit = unit_of(process).and_then(|name| systemd::started(&root, &name).ok().flatten());
    let mut invocation = if let Some(arguments) = kubelet_arguments(&words) {
        Invocation::new(source, arguments.to_vec(), root)
    } else if let Some(product) = product {
        rancher::of_process(product, &words, process, unit.as_ref(), source, root)?
    } else {
        microk8s::invocation(&words, source, root)
    };
    if argv.len() as u64 == LONGEST_COMMAND {
        let why = "its arguments are longer than 4 MiB; what comes after is not seen";
        invocation.unread.push(why.to_owned());
    }
    if std::str::from_utf8(&argv).is_err() {
        let note = "some arguments are not UTF-8; what is not is shown as \u{fffd}";
        invocation.notes.push(note.to_owned());
    }
    if product.is_none() {
        invocation.directory = working_directory(process);
    }
    invocation.unit = unit.as_ref().map(Unit::of);
    let network = |process: &Path| std::fs::read_link(process.join("ns/net")).ok();
    invocation.elsewhere = network(process)
        .zip(network(Path::new("/proc/thread-self")))
        .is_some_and(|(theirs, ours)| theirs != ours);
    Some(invocation)
}

impl Unit {
    fn of(started: &systemd::Started) -> Self {
        Self {
            file: started.file.clone(),
            allows_only: started.allows_only.clone(),
        }
    }
}

/// The name of the unit that a process belongs to, by its control group.
fn unit_of(process: &Path) -> Option<String> {
    let groups = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let mut names = groups.lines().flat_map(|line| line.split('/'));
    names.rfind(|name| name.ends_with(".service")).map(str::to_owned)
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
fn kubelet_arguments(words: &[Word]) -> Option<&[Word]> {
    match (
        program(&words.first()?.text),
        words.get(1).map(|word| word.text.as_str()),
    ) {
        ("kubelet", _) => Some(&words[1..]),
        ("hyperkube", Some("kubelet" | "/kubelet")) => Some(&words[2..]),
        _ => None,
    }
}

/// What follows programs that only start another, with their own options; nothing else may stand before a kubelet, for it may
/// add flags.
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

/// The kubelets that the files of a node start, by systemd units under the names that distributions use and by MicroK8s' file of
/// arguments; and what cannot be understood, each with the reason. There is one or the other.
pub fn in_files(root: &Root) -> (Vec<Invocation>, Vec<String>) {
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
                Ok(invocation) => found.extend(invocation),
                Err(error) => errors.push(error),
            },
            Err(error) => errors.push(error),
        }
    }
    if root.has(microk8s::ARGUMENTS) {
        let source = Source::File(microk8s::ARGUMENTS.to_owned());
        found.push(microk8s::invocation(&[], source, root.clone()));
    }
    if found.is_empty() && errors.is_empty() {
        // A copy of a node may be without its units.
        let there: Vec<&str> = CONFIGURATIONS.into_iter().filter(|path| root.has(path)).collect();
        let how = match there.first() {
            Some(path) => format!(
                "there is {}: if that is its configuration, --kubelet-config={path}, and its flags with --kubelet-arg",
                there.join(" and ")
            ),
            None => {
                "name its configuration with --kubelet-config and its flags with --kubelet-arg".to_owned()
            }
        };
        errors.push(format!(
            "{}: no kubelet is started here, as far as systemd units tell ({}): {how}",
            root.path().display(),
            UNITS.join(", ")
        ));
    }
    (found, errors)
}

fn of_unit(root: &Root, started: systemd::Started) -> Result<Option<Invocation>, String> {
    let source = Source::File(started.file.clone());
    let unit = Some(Unit::of(&started));
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
    let words = &started.words;
    let Some(arguments) = unwrapped(words).and_then(kubelet_arguments) else {
        return Err(format!(
            "{}: it starts no kubelet that can be understood but {:?}: name its configuration with --kubelet-config and \
             its flags with --kubelet-arg",
            started.file,
            words.first().map_or("nothing", |word| word.text.as_str())
        ));
    };
    Ok(Some(Invocation {
        unit,
        directory: Path::new("/").join(started.directory),
        notes: started.notes,
        unread: started.unread,
        ..Invocation::new(source, arguments.to_vec(), root.clone())
    }))
}
