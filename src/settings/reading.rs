//! The small judgements that a configuration is made of: one written value becomes one typed value, or a
//! problem.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::document::quoted;
use super::error::Problem;
use super::places::Places;
use crate::duration;
use crate::named::Named;

/// How long anything may be remembered, at most.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// What is known while a file is turned into settings: where each key was written, and what was wrong so far.
///
/// A problem does not end the reading: the method that found it returns some value, which is never used.
pub(super) struct Reading<'a> {
    pub(super) places: &'a Places,
    /// What relative paths in the file are relative to; for those in flags it is the working directory.
    pub(super) folder: PathBuf,
    /// Keys that a problem is about already. They have their defaults, which are not the operator's fault.
    pub(super) noted: BTreeSet<String>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

// === impl Reading ===

impl Reading<'_> {
    pub(super) fn refuse(&mut self, key: &str, text: impl Into<String>) {
        if !self.is_noted(key) {
            self.problems.push(Problem::new(self.places.with_key(key), text));
        }
    }

    pub(super) fn warn(&mut self, key: &str, text: &str) {
        self.warnings
            .push(format!("{}: {text}", self.places.with_key(key)));
    }

    /// Whether a problem is about this key, or about a section or list that it is in.
    fn is_noted(&self, key: &str) -> bool {
        let ends = key.match_indices(['.', '[']).map(|(end, _)| end);
        let mut around = ends.chain([key.len()]).map(|end| &key[..end]);
        around.any(|key| self.noted.contains(key))
    }

    pub(super) fn duration(&mut self, key: &str, text: &str, range: RangeInclusive<Duration>) -> Duration {
        let (least, most) = (duration::format(*range.start()), duration::format(*range.end()));
        match duration::parse(text) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => self.refuse(
                key,
                format!("{} is out of range; write {least} to {most}", quoted(text)),
            ),
            Err(why) => {
                self.refuse(
                    key,
                    format!("{}: {why}; write a duration from {least} to {most}", quoted(text)),
                );
            }
        }
        Duration::ZERO
    }

    pub(super) fn count<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        value: u64,
        range: RangeInclusive<u64>,
    ) -> T {
        let (least, most) = (*range.start(), *range.end());
        match T::try_from(value) {
            Ok(count) if range.contains(&value) => count,
            _ => {
                self.refuse(key, format!("{value} is out of range; write {least} to {most}"));
                T::default()
            }
        }
    }

    /// The value called `text`; the first of them when there is none.
    pub(super) fn choice<T: Named>(&mut self, key: &str, text: &str) -> T {
        T::from_name(text).unwrap_or_else(|| {
            self.refuse_choice::<T>(key, text, None);
            T::NAMES[0].1
        })
    }

    /// The value called `text`, or `None` if it is `other`.
    pub(super) fn choice_or<T: Named>(&mut self, key: &str, text: &str, other: &'static str) -> Option<T> {
        let value = T::from_name(text);
        if value.is_none() && text != other {
            self.refuse_choice::<T>(key, text, Some(other));
        }
        value
    }

    fn refuse_choice<T: Named>(&mut self, key: &str, text: &str, other: Option<&'static str>) {
        let names = T::NAMES.iter().map(|(name, _)| *name);
        let names: Vec<_> = other.into_iter().chain(names).collect();
        let names = names.join(", ");
        self.refuse(
            key,
            format!("{} is not known; write one of {names}", quoted(text)),
        );
    }

    pub(super) fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.refuse(
                key,
                format!(
                    "{} is not an address; write IP:PORT, such as 192.0.2.10:10250 or [::1]:10250",
                    quoted(text)
                ),
            );
        }
        address
    }

    pub(super) fn addresses(&mut self, key: &str, texts: &[String]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let item = format!("{key}[{index}]");
            match self.address(&item, text) {
                // Port 0 asks the kernel for any free port: twice is two ports.
                Some(address) if address.port() != 0 && addresses.contains(&address) => {
                    self.refuse(&item, format!("{} is there twice; remove one", quoted(text)));
                }
                address => addresses.extend(address),
            }
        }
        addresses
    }

    /// A file's path, made absolute; `None` if none is given.
    pub(super) fn path(&mut self, key: &str, text: &str) -> Option<PathBuf> {
        if text.is_empty() {
            return None;
        }
        let path = if self.places.flags.contains_key(key) {
            PathBuf::from(text)
        } else {
            self.folder.join(text)
        };
        match std::path::absolute(&path) {
            Ok(path) => Some(path),
            Err(error) => {
                self.refuse(
                    key,
                    format!(
                        "{} cannot be made absolute: {error}; write an absolute path",
                        quoted(text)
                    ),
                );
                None
            }
        }
    }

    /// The path of a file that must be named, with what it is.
    pub(super) fn required_path(&mut self, key: &str, text: &str, what: &str) -> PathBuf {
        if text.is_empty() {
            self.refuse(key, format!("is missing; name {what}"));
        }
        self.path(key, text).unwrap_or_default()
    }

    /// The paths of files, none of them empty, with what they are.
    pub(super) fn paths(&mut self, key: &str, texts: &[String], what: &str) -> Vec<PathBuf> {
        let named = texts.iter().enumerate();
        named
            .map(|(index, text)| self.required_path(&format!("{key}[{index}]"), text, what))
            .collect()
    }

    /// A list of names, none of them empty.
    pub(super) fn names(&mut self, key: &str, names: Vec<String>) -> Vec<String> {
        for (index, name) in names.iter().enumerate() {
            if name.trim().is_empty() {
                self.refuse(
                    &format!("{key}[{index}]"),
                    format!("{} is no name; remove it", quoted(name)),
                );
            }
        }
        names
    }
}

/// `path` without `.` and `..`, by its text alone: symbolic links are not followed.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            component => plain.push(component),
        }
    }
    plain
}

/// Whether an address cannot be reached from another machine.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
