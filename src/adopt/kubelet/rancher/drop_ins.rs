//! The user's `config=` and `config-dir=`. Since they have drop-ins, k3s and RKE2 take both out of the
//! kubelet's arguments, copy what they name into their own folder of drop-ins, and start the kubelet with
//! `--config-dir` for that folder alone.

use std::path::{Path, PathBuf};

use crate::adopt::kubelet::invocation::{DropInCopy, Word};
use crate::adopt::kubelet::root::Root;

/// What the file of `config=` is called there.
const FILE: &str = "10-cli-config.conf";
/// What the folder of `config-dir=` is called there.
const FOLDER: &str = "20-cli-config-dir";
/// Deepest nesting of folders that is read.
const DEPTH: usize = 32;

/// The user's arguments for the kubelet without those two.
pub(super) struct TakenOut {
    /// What is passed to the kubelet.
    pub(super) rest: Vec<Word>,
    config: Option<String>,
    folder: Option<String>,
}

impl TakenOut {
    /// As k3s splits them.
    pub(super) fn of(name: &str, given: &[Word], unread: &mut Vec<String>) -> Self {
        let mut taken = Self {
            rest: Vec::new(),
            config: None,
            folder: None,
        };
        let mut words = given.iter().peekable();
        while let Some(word) = words.next() {
            let text = word.text.strip_prefix("--").unwrap_or(&word.text);
            let (key, value) = match (text.split_once('='), words.peek()) {
                (Some((key, value)), _) => (key, value),
                (None, Some(next)) => (text, next.text.as_str()),
                (None, None) => (text, ""),
            };
            let slot = match key {
                "config" => &mut taken.config,
                "config-dir" => &mut taken.folder,
                _ => {
                    if let (None, Some(next)) = (text.split_once('='), words.peek()) {
                        unread.push(format!(
                            "{}: kubelet-arg {key:?} has no value: {name} takes the argument behind it, \
                             {:?}, for its value and drops it; write {key}=true",
                            word.place,
                            super::arguments::name(&next.text)
                        ));
                    }
                    taken.rest.push(word.clone());
                    continue;
                }
            };
            if !text.contains('=') {
                words.next();
            }
            if value.is_empty() {
                unread.push(format!(
                    "{}: kubelet-arg {key} has no value: {name} starts no kubelet",
                    word.place
                ));
            } else {
                *slot = Some(value.to_owned());
            }
        }
        taken
    }

    /// What the next start copies into `folder`, over what is there.
    pub(super) fn copies(
        &self,
        name: &str,
        folder: &str,
        root: &Root,
        unread: &mut Vec<String>,
    ) -> Vec<DropInCopy> {
        let mut copies = Vec::new();
        if let Some(from) = elsewhere(self.config.as_deref(), folder) {
            match root.read(from) {
                Ok(_) if from.starts_with('/') => copies.push(DropInCopy {
                    to: Path::new(folder).join(FILE),
                    from: from.into(),
                }),
                Ok(_) => unread.push(relative("config", name, from)),
                Err(error) => unread.push(format!(
                    "kubelet-arg config={from}: {error}; {name} copies it to {folder}/{FILE} at its next \
                     start, and starts no kubelet without it"
                )),
            }
        }
        if let Some(from) = elsewhere(self.folder.as_deref(), folder) {
            if from.starts_with('/') {
                let to = Path::new(folder).join(FOLDER);
                let mut copy = FolderCopy {
                    name,
                    root,
                    copies: &mut copies,
                    unread,
                };
                copy.folder(Path::new(from), &to, 0);
            } else {
                unread.push(relative("config-dir", name, from));
            }
        }
        copies
    }

    /// A note if the file of `config=` is not what was copied for the last start.
    pub(super) fn changed_since(&self, name: &str, folder: &str, root: &Root) -> Option<String> {
        let from = elsewhere(self.config.as_deref(), folder)?;
        let copy = format!("{folder}/{FILE}");
        let (ours, theirs) = (root.read(from).ok()?, root.read(&copy).ok());
        (theirs.as_ref() != Some(&ours))
            .then(|| format!("{from} is not what {copy} is: {name} copies it there at its next start"))
    }
}

/// What is known without a folder of drop-ins: nothing, if the user has either argument. Older releases pass
/// both to the kubelet, beside flags that win over the files; newer ones lay the files over their own.
pub(super) fn doubt_without_folder(name: &str, given: &[Word], folder: &str, unread: &mut Vec<String>) {
    let asks = |word: &&Word| matches!(super::arguments::name(&word.text), "config" | "config-dir");
    if let Some(word) = given.iter().find(asks) {
        unread.push(format!(
            "{}: kubelet-arg {:?}: {folder} is not there, so whether this {name} has drop-ins (1.32) is not \
             known; it decides whether its own flags or this configuration wins",
            word.place,
            super::arguments::name(&word.text)
        ));
    }
}

/// A path that is not in the folder itself, from which nothing is copied.
fn elsewhere<'a>(path: Option<&'a str>, folder: &str) -> Option<&'a str> {
    path.filter(|path| !path.starts_with(folder))
}

fn relative(key: &str, name: &str, path: &str) -> String {
    format!(
        "kubelet-arg {key}={path}: a relative path, which begins at the working directory of {name}; write \
         it from /"
    )
}

struct FolderCopy<'a> {
    name: &'a str,
    root: &'a Root,
    copies: &'a mut Vec<DropInCopy>,
    unread: &'a mut Vec<String>,
}

impl FolderCopy<'_> {
    /// Links are copied as links, which may lead elsewhere from there.
    fn folder(&mut self, from: &Path, to: &Path, depth: usize) {
        let mut failed = |why: &str| {
            let name = self.name;
            self.unread.push(format!(
                "kubelet-arg config-dir, {}: {why}; {name} copies it to {} at its next start",
                from.display(),
                to.display()
            ));
        };
        if !self.root.is_folder(from) {
            return failed("not a folder, or a link to one");
        }
        if depth > DEPTH {
            return failed("folders nested too deep");
        }
        let names = match self.root.list(from) {
            Ok(names) => names,
            Err(error) => return failed(&error.to_string()),
        };
        for name in names {
            let (from, to) = (from.join(&name), to.join(&name));
            if self.root.is_folder(&from) {
                self.folder(&from, &to, depth + 1);
            } else if name.ends_with(".conf") {
                self.file(from, to);
            }
        }
    }

    fn file(&mut self, from: PathBuf, to: PathBuf) {
        if self.root.is_link(&from) {
            self.unread.push(format!(
                "kubelet-arg config-dir, {}: a link, which {} copies as a link: what it leads to from {} is \
                 not read",
                from.display(),
                self.name,
                to.display()
            ));
        } else {
            self.copies.push(DropInCopy { to, from });
        }
    }
}
