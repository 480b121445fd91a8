//! What a socket unit listens on, read from its files: the fragment and its drop-ins.

use super::{Root, UnitError, drop_ins, fragment, numbered, unread};

/// A socket unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SocketUnit {
    /// The file of the unit itself.
    pub(crate) file: String,
    /// `ListenStream=`, and every other key whose name begins with `Listen`.
    pub(crate) listens: Vec<SocketLine>,
    /// What else `[Socket]` says, the last line of each key.
    pub(crate) settings: Vec<SocketLine>,
}

/// A line of a socket unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SocketLine {
    /// What is before the `=`.
    pub(crate) key: String,
    /// What is after it.
    pub(crate) value: String,
    /// Its file and line.
    pub(crate) place: String,
}

/// The socket unit of this name. `None`: there is no such unit, or it is masked.
///
/// # Errors
/// One of its files cannot be read.
pub(crate) fn socket_unit(root: &Root, name: &str) -> Result<Option<SocketUnit>, UnitError> {
    let Some(file) = fragment(root, name)? else {
        return Ok(None);
    };
    let mut unit = SocketUnit {
        file: file.clone(),
        ..SocketUnit::default()
    };
    for file in std::iter::once(file).chain(drop_ins(root, name)?) {
        unit.take(&file, &root.read(&file).map_err(unread(&file))?);
    }
    Ok(Some(unit))
}

// === impl SocketUnit ===

impl SocketUnit {
    fn take(&mut self, file: &str, text: &str) {
        let mut section = String::new();
        for (number, line) in numbered(text) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Socket]") else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            let line = SocketLine {
                key: key.to_owned(),
                value: value.to_owned(),
                place: format!("{file}:{number}"),
            };
            if key.starts_with("Listen") {
                match value {
                    // Of any kind, it empties the one list that systemd has of them.
                    "" => self.listens.clear(),
                    _ => self.listens.push(line),
                }
            } else {
                self.settings.retain(|setting| setting.key != key);
                self.settings.push(line);
            }
        }
    }

    /// What this key is set to, if anything.
    pub(crate) fn setting(&self, key: &str) -> Option<&SocketLine> {
        self.settings.iter().find(|line| line.key == key)
    }
}
