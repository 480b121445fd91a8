//! How a kubelet was started, or will be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::root::Root;

/// Where it was found how a kubelet is started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A running process.
    Process(i32),
    /// A file that starts it: a systemd unit, or MicroK8s' arguments.
    File(String),
    /// The unit of a running kubelet, which starts the next one.
    NextStart {
        /// The process that runs.
        pid: i32,
        /// The unit's file.
        file: String,
    },
    /// The command line of this program.
    Given,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::File(file) => f.write_str(file),
            Self::NextStart { pid, file } => write!(f, "{file}, the next start of process {pid}"),
            Self::Given => f.write_str("the command line"),
        }
    }
}

/// An argument, and where it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Word {
    /// The argument.
    pub text: String,
    /// A process, a file.
    pub place: Arc<str>,
}

/// The systemd unit that a kubelet belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeletUnit {
    /// Its file.
    pub file: String,
    /// With `IPAddressDeny=any`, the only addresses that reach its ports, from `IPAddressAllow`.
    pub allows_only: Option<Vec<String>>,
}

/// What the unit of a running kubelet starts next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NextInvocation {
    /// A kubelet, in this way.
    Known(Box<Invocation>),
    /// Why that is not known.
    Unknown(String),
}

/// A configuration file that is copied into the folder of `--config-dir` before the kubelet reads that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DropInCopy {
    /// Where it is copied to, over what is there.
    pub to: PathBuf,
    /// The file itself.
    pub from: PathBuf,
}

/// How one kubelet is started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invocation {
    /// Where it was found.
    pub source: Source,
    /// What follows the program's name.
    pub words: Vec<Word>,
    /// The file system that it sees.
    pub root: Root,
    /// Its working directory there.
    pub directory: PathBuf,
    /// What is copied into its folder of drop-ins before it starts.
    pub copies: Vec<DropInCopy>,
    /// Its unit, if that is known.
    pub unit: Option<KubeletUnit>,
    /// What its unit starts next, if a process of a unit was found.
    pub next: Option<NextInvocation>,
    /// It runs in another network namespace than this program, which therefore cannot see its addresses and
    /// ports.
    pub elsewhere: bool,
    /// What may surprise the operator.
    pub notes: Vec<String>,
    /// Sources that could not be read, and may hold any option.
    pub unread: Vec<String>,
}

impl Invocation {
    pub(super) fn new(source: Source, words: Vec<Word>, root: Root) -> Self {
        Self {
            source,
            words,
            root,
            directory: PathBuf::from("/"),
            copies: Vec::new(),
            unit: None,
            next: None,
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

    /// The drop-ins that the kubelet reads, in its order, if these are in the folder now: a copy takes the
    /// place of what has its name.
    #[must_use]
    pub(super) fn with_copies(&self, found: Vec<PathBuf>) -> Vec<PathBuf> {
        let now = found.into_iter().map(|path| (path.clone(), path));
        let copied = self
            .copies
            .iter()
            .map(|copy| (copy.to.clone(), copy.from.clone()));
        // Paths sort by their components, as the kubelet walks the folder.
        let all: BTreeMap<PathBuf, PathBuf> = now.chain(copied).collect();
        all.into_values().collect()
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

/// What follows the kubelet's name in a command, if the program is one.
pub(super) fn kubelet_arguments(words: &[Word]) -> Option<&[Word]> {
    match (
        program(&words.first()?.text),
        words.get(1).map(|word| word.text.as_str()),
    ) {
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
