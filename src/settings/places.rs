//! Where each key was written.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The lines of a configuration file's keys, and the flags that won over some of them.
#[derive(Debug)]
pub struct Places {
    pub(super) file: PathBuf,
    /// The line of each key that is in the file, and of each list's items (`listen[0]`).
    pub(super) lines: BTreeMap<String, u64>,
    /// Keys that a flag has won over, with the flag.
    pub(super) flags: BTreeMap<&'static str, &'static str>,
}

impl Places {
    /// `FILE:LINE` of `key`, `FILE` for a key that is not in the file, or the flag that won over it. A key
    /// that an item of a list does not have is at the item.
    #[must_use]
    pub fn of(&self, key: &str) -> String {
        let item = key.rfind("].").map(|end| &key[..=end]);
        let line = [Some(key), item]
            .into_iter()
            .flatten()
            .find_map(|key| self.lines.get(key));
        match (self.flags.get(key), line) {
            (Some(flag), _) => (*flag).to_owned(),
            (None, Some(line)) => format!("{}:{line}", self.file.display()),
            (None, None) => self.file.display().to_string(),
        }
    }

    /// [`Self::of`] with the key, which a flag already says.
    pub(super) fn with_key(&self, key: &str) -> String {
        let place = self.of(key);
        if self.flags.contains_key(key) || key.is_empty() {
            place
        } else {
            format!("{place}: {key}")
        }
    }
}
