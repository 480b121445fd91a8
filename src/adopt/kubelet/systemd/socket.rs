//! What a socket unit listens on, read from its files: the fragment and its drop-ins.

use super::error::{UnitError, unread};
use super::lines::{LineKind, Told, unit_lines};
use super::search::{drop_ins, find};
use crate::adopt::kubelet::root::Root;

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
    let Some(found) = find(root, name)? else {
        return Ok(None);
    };
    let mut unit = SocketUnit {
        file: found.fragment.clone(),
        ..SocketUnit::default()
    };
    let text = root
        .read_bytes(&found.fragment)
        .map_err(unread(&found.fragment))?;
    if let Some((place, why)) = unit.take(&found.fragment, &text) {
        return Err(UnitError::Refused { place, why });
    }
    for file in drop_ins(root, &found, &mut Told::default())? {
        // systemd passes over what is no file, and over the rest of one from an error on.
        if !root.is_folder(&file) && root.exists(&file).map_err(unread(&file))? {
            unit.take(&file, &root.read_bytes(&file).map_err(unread(&file))?);
        }
    }
    Ok(Some(unit))
}

// === impl SocketUnit ===

impl SocketUnit {
    /// Reads one file; returns the place at which systemd reads no further, and why.
    fn take(&mut self, file: &str, text: &[u8]) -> Option<(String, String)> {
        for line in unit_lines(text, &["Unit", "Socket", "Install"]) {
            let place = format!("{file}:{}", line.number);
            let (section, key, value) = match line.kind {
                LineKind::Assignment { section, key, value } => (section, key, value),
                LineKind::Stops(why) => return Some((place, why)),
                LineKind::Ignored(_) | LineKind::Includes => continue,
            };
            if &*section != "Socket" {
                continue;
            }
            let line = SocketLine { key, value, place };
            if line.key.starts_with("Listen") {
                match line.value.as_str() {
                    // Of any kind, it empties the one list that systemd has of them.
                    "" => self.listens.clear(),
                    _ => self.listens.push(line),
                }
            } else {
                self.settings.retain(|setting| setting.key != line.key);
                self.settings.push(line);
            }
        }
        None
    }

    /// What this key is set to, if anything.
    pub(crate) fn setting(&self, key: &str) -> Option<&SocketLine> {
        self.settings.iter().find(|line| line.key == key)
    }
}
