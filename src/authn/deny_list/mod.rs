//! Deny lists (`authentication.denyFiles`): certificates, users and groups that are refused whatever else
//! allows them.
//!
//! A denied certificate is refused in its judgement, so that no verdict on it outlives a change of the lists:
//! the lists' generation is part of each verdict. A denied user or group is refused by the first rule of
//! authorization, whichever credential shows it.
//!
//! Each file counts by itself: one that cannot be used leaves its last good entries in force, and those of
//! the other files are taken up. An entry that is gone from a file loosens the rules. By the clock it stays
//! in force; on a signal of the operator it goes.

mod text;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use self::text::{Entry, Origin, Parsed, parse};
use super::identity::Identity;
use crate::apiserver::UserInfo;
use crate::files::{self, BUNDLE, Guard};
use crate::looks::{Looks, Reloaded, Trigger};
use crate::tls::Marks;

/// The deny lists in force. Cheap to replace: unchanged files are shared.
#[derive(Debug)]
pub(crate) struct DenyList {
    files: Vec<Arc<DenyFile>>,
    /// No other list of the process has this number.
    generation: u64,
}

/// One file's entries.
#[derive(Debug)]
pub struct DenyFile {
    path: PathBuf,
    /// SHA-256 of the file.
    digest: [u8; 32],
    parsed: Parsed,
    /// Entries that are gone from the file and still in force.
    held: HashMap<Entry, Origin>,
}

/// Why a deny list cannot be used.
#[derive(Debug, Error)]
pub enum DenyListError {
    /// It cannot be read.
    #[error("authentication.denyFiles: cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line of it cannot be used, or it has no end.
    #[error("authentication.denyFiles: {}:{line}: {text}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what to write.
        text: String,
    },
    /// It would end every `kubectl logs` and `exec` on this node.
    #[error(
        "authentication.denyFiles: {entry} denies the API server ({user}): remove the entry, or write \
         includeApiServer: true on a line of its own"
    )]
    ApiServer {
        /// File, line and entry.
        entry: String,
        /// The API server's user.
        user: String,
    },
}

/// What denies an identity.
#[derive(Debug)]
pub(crate) struct Denial {
    kind: DenialKind,
    /// File, line and entry.
    pub(crate) by: String,
}

/// What of an identity is denied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DenialKind {
    Certificate,
    User,
    Group,
}

/// What is known of the API server, which a list must not deny by mistake.
#[derive(Clone, Copy)]
pub(crate) struct KnownApiServer<'a> {
    /// `firewall.apiServerUsers`.
    pub(crate) users: &'a [String],
    /// The identities in which API servers were served lately.
    pub(crate) seen: &'a [Arc<Identity>],
}

/// The number of the next list of this process.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

// === impl DenyList ===

impl DenyList {
    /// Reads these files, all of which must be good.
    ///
    /// # Errors
    /// A file is missing or unusable, or denies the API server.
    pub(crate) fn load(paths: &[PathBuf], api_server: KnownApiServer<'_>) -> Result<Self, DenyListError> {
        let read = |path: &PathBuf| {
            let file = DenyFile::read(path, &read(path)?)?;
            file.check(api_server)?;
            Ok(Arc::new(file))
        };
        paths.iter().map(read).collect::<Result<_, _>>().map(Self::new)
    }

    /// Reads these files again, and publishes what has changed. By the clock, entries that are gone from the
    /// files stay in force, and a file that is still being written is left for the next look.
    pub(crate) fn reload(
        published: &ArcSwap<Self>,
        paths: &[PathBuf],
        api_server: KnownApiServer<'_>,
        looks: &mut Looks,
    ) -> Reloaded<DenyListError> {
        const UNIT: &str = "deny_lists";
        let current = published.load();
        let mut reloaded = Reloaded::default();
        let found: Vec<_> = paths.iter().map(|path| read(path)).collect();
        let digests: Vec<_> = found
            .iter()
            .flatten()
            .map(|bytes| sha256(bytes).to_vec())
            .collect();
        let in_force = current.files.iter().map(|file| &file.digest[..]);
        let is_same = in_force.eq(digests.iter().map(|digest| &digest[..]));
        if !is_same && !looks.has_settled(UNIT, &digests) {
            reloaded.unsettled = true;
            return reloaded;
        }
        let (next, problems) = current.next(paths, found, api_server, looks.trigger());
        reloaded.problems = problems.into_iter().map(|(_, problem)| problem).collect();
        if let Some(next) = next {
            reloaded.changed = true;
            reloaded.loosened = next.removed_since(&current);
            published.store(Arc::new(next));
        }
        reloaded
    }

    /// These lists with other files. Those that are new must be good; of another one that is bad, what is in
    /// force stays. Entries that are gone from a file that is named still stay in force by the clock.
    ///
    /// # Errors
    /// A new file is missing or unusable, or denies the API server.
    pub(crate) fn with_files(
        &self,
        paths: &[PathBuf],
        api_server: KnownApiServer<'_>,
        trigger: Trigger,
    ) -> Result<Option<Self>, DenyListError> {
        let found = paths.iter().map(|path| read(path)).collect();
        let (next, problems) = self.next(paths, found, api_server, trigger);
        let is_new = |path: &Path| !self.files.iter().any(|file| file.path == path);
        match problems.into_iter().find(|(path, _)| is_new(path)) {
            None => Ok(next),
            Some((_, problem)) => Err(problem),
        }
    }

    /// The lists of these files, unless they are the same; and why some of the files are not taken up.
    fn next<'a>(
        &self,
        paths: &'a [PathBuf],
        found: Vec<Result<Vec<u8>, DenyListError>>,
        api_server: KnownApiServer<'_>,
        trigger: Trigger,
    ) -> (Option<Self>, Vec<(&'a Path, DenyListError)>) {
        let (mut next, mut problems) = (Vec::new(), Vec::new());
        for (path, found) in paths.iter().zip(found) {
            let old = self.files.iter().find(|file| file.path == *path);
            match found.and_then(|bytes| take(path, &bytes, old, api_server, trigger)) {
                Ok(file) => next.push(file),
                Err(problem) => {
                    problems.push((path.as_path(), problem));
                    next.extend(old.cloned());
                }
            }
        }
        if trigger == Trigger::Clock {
            let unnamed = self.files.iter().filter(|file| !paths.contains(&file.path));
            next.extend(unnamed.cloned());
        }
        let is_same = next.len() == self.files.len()
            && next
                .iter()
                .zip(&self.files)
                .all(|(new, old)| Arc::ptr_eq(new, old));
        ((!is_same).then(|| Self::new(next)), problems)
    }

    fn new(files: Vec<Arc<DenyFile>>) -> Self {
        Self {
            files,
            generation: GENERATIONS.fetch_add(1, Relaxed),
        }
    }

    /// The number of these lists.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the certificate that has these marks is denied, if it is.
    pub(super) fn denies_certificate(&self, marks: &Marks) -> Option<String> {
        self.files
            .iter()
            .find_map(|file| file.find_marks(marks))
            .map(|denial| denial.by)
    }

    /// What denies `identity`: its user, a group, or a certificate that it rests on. Each request asks. An
    /// identity that is not denied is looked up once, and costs a comparison from then on.
    pub(crate) fn denies(&self, identity: &Identity) -> Option<Denial> {
        if self.files.is_empty() || identity.is_cleared_by(self.generation) {
            return None;
        }
        let denial = self.files.iter().find_map(|file| file.find_identity(identity));
        if denial.is_none() {
            identity.clear(self.generation);
        }
        denial
    }

    /// How many entries are in force.
    pub(crate) fn len(&self) -> usize {
        self.sizes().map(|(_, entries)| entries).sum()
    }

    /// Each file with the number of its entries that are in force.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.files
            .iter()
            .map(|file| (file.path.as_path(), file.entries().count()))
    }

    /// The entries that are in force and no longer in the files, as they were written.
    pub(crate) fn held(&self) -> Vec<String> {
        let held = self
            .files
            .iter()
            .flat_map(|file| file.held.values().map(|origin| file.place(origin)));
        listed(held)
    }

    /// The entries that were in force in `old` and are not in these lists, as they were written.
    pub(crate) fn removed_since(&self, old: &Self) -> Vec<String> {
        let is_gone = |entry: &Entry| !self.files.iter().any(|file| file.has(entry));
        let gone = old.files.iter().flat_map(|file| {
            let gone = file.entries().filter(|(entry, _)| is_gone(entry));
            gone.map(|(_, origin)| file.place(origin))
        });
        listed(gone)
    }
}

impl Default for DenyList {
    /// Lists without an entry.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

// === impl Denial ===

impl Denial {
    /// One word for metrics and audit.
    pub(crate) fn reason(&self) -> &'static str {
        match self.kind {
            DenialKind::Certificate => "denied_certificate",
            DenialKind::User => "denied_user",
            DenialKind::Group => "denied_group",
        }
    }

    /// Whether it is of a certificate, and not of the user or a group.
    pub(crate) fn is_of_certificate(&self) -> bool {
        self.kind == DenialKind::Certificate
    }
}

// === impl DenyFile ===

impl DenyFile {
    /// Reads the text of a deny list.
    ///
    /// # Errors
    /// A line cannot be used, or the list has no end.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, DenyListError> {
        let at = |line, text| DenyListError::Line {
            path: path.to_owned(),
            line,
            text,
        };
        let text = str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            at(
                line,
                "the file is not UTF-8 from this line on; save it as UTF-8".to_owned(),
            )
        })?;
        let parsed = parse(text).map_err(|fault| at(fault.line, fault.text))?;
        Ok(Self {
            path: path.to_owned(),
            digest: sha256(bytes),
            parsed,
            held: HashMap::new(),
        })
    }

    /// Refuses a list that denies the API server, unless it says so.
    fn check(&self, api_server: KnownApiServer<'_>) -> Result<(), DenyListError> {
        if self.parsed.includes_api_server {
            return Ok(());
        }
        // Every identity that a credential has proven is in this group.
        let everyone = UserInfo {
            groups: vec!["system:authenticated".to_owned()],
            ..UserInfo::default()
        };
        let named = api_server.users.iter().map(|user| UserInfo {
            username: user.clone(),
            ..UserInfo::default()
        });
        let seen = api_server
            .seen
            .iter()
            .find_map(|seen| Some((self.find_identity(seen)?, seen.user().username.clone())));
        let by_name = || {
            named.chain([everyone]).find_map(|user| {
                let denial = self.find_user(&user)?;
                let name = match user.username.as_str() {
                    "" => "every authenticated user",
                    name => name,
                };
                Some((denial, name.to_owned()))
            })
        };
        match seen.or_else(by_name) {
            None => Ok(()),
            Some((denial, user)) => Err(DenyListError::ApiServer {
                entry: denial.by,
                user,
            }),
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&Entry, &Origin)> {
        self.parsed.entries.iter().chain(&self.held)
    }

    fn has(&self, entry: &Entry) -> bool {
        self.parsed.entries.contains_key(entry) || self.held.contains_key(entry)
    }

    fn find(&self, entry: &Entry, kind: DenialKind) -> Option<Denial> {
        let origin = self.parsed.entries.get(entry).or_else(|| self.held.get(entry))?;
        Some(Denial {
            kind,
            by: self.place(origin),
        })
    }

    fn find_marks(&self, marks: &Marks) -> Option<Denial> {
        [Entry::Issued(marks.issued), Entry::Key(marks.key)]
            .iter()
            .find_map(|entry| self.find(entry, DenialKind::Certificate))
    }

    fn find_identity(&self, identity: &Identity) -> Option<Denial> {
        let mut marks = identity.marks().iter();
        // A denied certificate proves no user.
        marks
            .find_map(|marks| self.find_marks(marks))
            .or_else(|| self.find_user(identity.user()))
    }

    fn find_user(&self, user: &UserInfo) -> Option<Denial> {
        self.find(&Entry::User(user.username.clone()), DenialKind::User)
            .or_else(|| {
                let mut groups = user.groups.iter();
                groups.find_map(|group| self.find(&Entry::Group(group.clone()), DenialKind::Group))
            })
    }

    fn place(&self, origin: &Origin) -> String {
        format!("{}:{} ({})", self.path.display(), origin.line, origin.text)
    }
}

/// The file as it is now; `old` itself if that says the same.
fn take(
    path: &Path,
    bytes: &[u8],
    old: Option<&Arc<DenyFile>>,
    api_server: KnownApiServer<'_>,
    trigger: Trigger,
) -> Result<Arc<DenyFile>, DenyListError> {
    if let Some(old) = old
        && old.digest == sha256(bytes)
        && (trigger == Trigger::Clock || old.held.is_empty())
    {
        return Ok(old.clone());
    }
    let mut file = DenyFile::read(path, bytes)?;
    file.check(api_server)?;
    if let Some(old) = old
        && trigger == Trigger::Clock
    {
        let is_gone = |entry: &Entry| !file.parsed.entries.contains_key(entry);
        let held = old.entries().filter(|(entry, _)| is_gone(entry));
        file.held = held
            .map(|(entry, origin)| (entry.clone(), origin.clone()))
            .collect();
    }
    Ok(Arc::new(file))
}

fn read(path: &Path) -> Result<Vec<u8>, DenyListError> {
    files::read_guarded(path, BUNDLE, Guard::Trusted).map_err(|source| DenyListError::Read {
        path: path.to_owned(),
        source,
    })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest_ = [0; 32];
    digest_.copy_from_slice(digest(&SHA256, bytes).as_ref());
    digest_
}

/// Each once, since a certificate has two entries; of very many some, and how many more there are.
fn listed(places: impl Iterator<Item = String>) -> Vec<String> {
    const SHOWN: usize = 20;
    let mut places: Vec<String> = places.collect();
    places.sort();
    places.dedup();
    let more = places.len().saturating_sub(SHOWN);
    places.truncate(SHOWN);
    places.extend((more > 0).then(|| format!("and {more} more")));
    places
}

#[cfg(test)]
mod tests;
