//! A node's file system: this machine's, a mounted or copied one, or the one that a process sees.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use crate::files::{self, DOCUMENT};

/// The number of links that the kernel follows.
const LINKS: usize = 40;

/// Where a node's `/` is. Paths are the node's own and absolute; links are followed as the node would, never
/// out of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    at: PathBuf,
}

impl Root {
    /// The file system below `at`.
    #[must_use]
    pub fn new(at: impl Into<PathBuf>) -> Self {
        Self { at: at.into() }
    }

    /// Whether it is this machine's own.
    #[must_use]
    pub(crate) fn is_here(&self) -> bool {
        self.at == Path::new("/")
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The path by which this process reaches one of the node's, all its links followed below the root. The
    /// last component need not exist.
    ///
    /// # Errors
    /// A component cannot be looked up, or links lead back to themselves.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut todo: VecDeque<OsString> = components(path);
        let mut done: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here: PathBuf = done
                .iter()
                .fold(self.at.clone(), |path, name| path.join(name))
                .join(&name);
            match fs::read_link(&here) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(io::Error::other(
                            "too many symbolic links, or one that leads to itself",
                        ));
                    }
                    if target.is_absolute() {
                        done.clear();
                    }
                    for name in components(&target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                // No link.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => done.push(name),
                Err(error) if error.kind() == io::ErrorKind::NotFound && todo.is_empty() => done.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok(done.iter().fold(self.at.clone(), |path, name| path.join(name)))
    }

    /// The text of a file.
    ///
    /// # Errors
    /// It is not there, no regular file, larger than 1 MiB, or not UTF-8.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let path = self.resolve(path.as_ref())?;
        files::read_text(&path, DOCUMENT)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// It is not there, no regular file, or larger than 1 MiB.
    pub(crate) fn read_bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        files::read(self.resolve(path.as_ref())?, DOCUMENT)
    }

    /// Whether there is such a file or folder. One that cannot be looked up counts as missing.
    pub(crate) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.exists(path).unwrap_or(false)
    }

    /// Whether there is such a file or folder.
    ///
    /// # Errors
    /// A folder in its path cannot be read, so it may exist.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match self.resolve(path.as_ref()).and_then(fs::metadata) {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether systemd takes this for masked: it is empty, or a device, such as `/dev/null`. A copied
    /// node may lack the device.
    pub(crate) fn is_masked(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        let link = self
            .resolve(parent)
            .and_then(|parent| fs::read_link(parent.join(name)));
        let is_nothing =
            |about: fs::Metadata| about.file_type().is_char_device() || about.is_file() && about.len() == 0;
        link.is_ok_and(|target| target == Path::new("/dev/null"))
            || self.resolve(path).and_then(fs::metadata).is_ok_and(is_nothing)
    }

    /// The path of the node to which a link in a folder leads. The links in its folders are followed, but not
    /// a further one at its end.
    ///
    /// # Errors
    /// A folder cannot be looked up.
    pub(crate) fn one_link(&self, folder: &Path, target: &Path) -> io::Result<PathBuf> {
        let path = folder.join(target);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.within(&path);
        };
        Ok(self.within(parent)?.join(name))
    }

    /// The path of the node to which a path leads.
    ///
    /// # Errors
    /// A folder cannot be looked up.
    pub(crate) fn within(&self, path: &Path) -> io::Result<PathBuf> {
        let resolved = self.resolve(path)?;
        let below = resolved.strip_prefix(&self.at).map_err(io::Error::other)?;
        Ok(Path::new("/").join(below))
    }

    /// The files and links in a folder, in no order; of a link also what is written in it. None if the folder
    /// is not there.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(crate) fn files_and_links(
        &self,
        folder: impl AsRef<Path>,
    ) -> io::Result<Vec<(String, Option<PathBuf>)>> {
        let entries = match self.resolve(folder.as_ref()).and_then(fs::read_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = || entry.file_name().to_string_lossy().into_owned();
            if kind.is_symlink() {
                found.push((name(), Some(fs::read_link(entry.path())?)));
            } else if kind.is_file() {
                found.push((name(), None));
            }
        }
        Ok(found)
    }

    /// Whether this is a folder and not a link to one.
    pub(crate) fn is_folder(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        path.file_name().is_none() || self.itself(path).is_ok_and(|about| about.is_dir())
    }

    /// Whether this is a link.
    pub(crate) fn is_link(&self, path: impl AsRef<Path>) -> bool {
        self.itself(path.as_ref()).is_ok_and(|about| about.is_symlink())
    }

    /// What is at a path: of a link, the link.
    fn itself(&self, path: &Path) -> io::Result<fs::Metadata> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return fs::symlink_metadata(self.resolve(path)?);
        };
        fs::symlink_metadata(self.resolve(parent)?.join(name))
    }

    /// The names in a folder, in order; none if it is not there.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(crate) fn list(&self, folder: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let listed = self.resolve(folder.as_ref()).and_then(fs::read_dir);
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }
}

/// Text from the node, for one line of output: it must not begin another line, nor reverse the text that
/// follows.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => plain.extend(c.escape_default()),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

/// Where YAML is broken. The parser's own message may quote the text, tokens included.
pub(crate) fn broken(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(at) => format!("broken YAML in line {}, column {}", at.line(), at.column()),
        None => "broken YAML".to_owned(),
    }
}

/// The names in a path, without its root and `.`.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Seen red: with `fs::read_to_string(at.join(path))`, the link to `/etc/hostname` read this machine's.
    #[test]
    fn links_are_followed_as_the_node_would_and_never_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        fs::create_dir_all(folder.path().join("etc/real")).unwrap();
        fs::write(folder.path().join("etc/real/file"), "the node's").unwrap();
        symlink("/etc/real", folder.path().join("etc/absolute")).unwrap();
        symlink("../../../../../../etc/real/file", folder.path().join("etc/up")).unwrap();
        symlink("real/file", folder.path().join("etc/relative")).unwrap();
        symlink("b", folder.path().join("etc/a")).unwrap();
        symlink("a", folder.path().join("etc/b")).unwrap();
        symlink("/etc/hostname", folder.path().join("etc/out")).unwrap();
        for path in [
            "/etc/real/file",
            "/etc/absolute/file",
            "/etc/up",
            "/etc/relative",
            "/etc/./../etc/up",
        ] {
            assert_eq!(root.read(path).unwrap(), "the node's", "{path}");
        }
        assert!(
            root.read("/etc/a")
                .unwrap_err()
                .to_string()
                .contains("symbolic links")
        );
        assert_eq!(root.read("/etc/out").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!root.has("/etc/out") && root.has("/etc/absolute"));
        assert!(root.read("/etc").unwrap_err().to_string().contains("regular"));
        assert_eq!(root.list("/nowhere").unwrap(), Vec::<String>::new());
        assert_eq!(root.list("/etc/absolute").unwrap(), ["file"]);
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        fs::write(folder.path().join("large"), vec![b'a'; 1024 * 1024 + 1]).unwrap();
        fs::write(folder.path().join("bytes"), [0xff, 0xfe]).unwrap();
        assert!(root.read("/large").unwrap_err().to_string().contains("1 MiB"));
        assert!(root.read("/bytes").is_err());
    }

    #[test]
    fn text_of_the_nodes_stays_on_its_line() {
        assert_eq!(plain("CN=worker-1, O=ä"), "CN=worker-1, O=ä");
        assert_eq!(
            plain("a\n\r\t\u{1b}\u{85}\u{2028}\u{202e}b"),
            r"a\n\r\t\u{1b}\u{85}\u{2028}\u{202e}b"
        );
    }
}
