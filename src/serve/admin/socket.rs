//! The unix socket of the gate's own commands.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::super::inherited::Inherited;
use crate::files::{self, BUNDLE};
use crate::settings::{AdminSocket, Settings};

/// Waiting connections.
const BACKLOG: i32 = 64;
/// For the gate's user, its group, and root.
const MODE: u32 = 0o660;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// The group does not exist.
    #[error("admin.group: {0:?} is neither a group in /etc/group nor a number; name a group of this node")]
    NoGroup(String),
    /// The socket cannot be made.
    #[error("admin.socket: cannot listen on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Listens on `admin.socket`. A socket that the configuration does not name is not worth a failed start: if
/// it cannot be had, that is a warning.
///
/// # Errors
/// `admin.socket` is named and cannot be had, or `admin.group` does not exist.
pub(in crate::serve) fn listen(
    settings: &Settings,
    inherited: &mut Inherited,
) -> Result<Option<UnixListener>, AdminSocketError> {
    let group = group(settings)?;
    let run_directory = &settings.firewall.run_directory;
    let Some(path) = settings.admin.socket.path(run_directory) else {
        return Ok(None);
    };
    let named = settings.admin.socket != AdminSocket::InRunDirectory;
    if !named && !run_directory.is_dir() {
        // What is wrong with it, the socket tells.
        let _ = fs::create_dir(run_directory);
    }
    let had = match inherited.take_unix(&path) {
        // A cleaner has removed the file: no client finds that socket any more.
        Ok(Some(_)) if !path.exists() => bind(&path, group),
        Ok(Some(socket)) => take_over(socket, &path, group),
        Ok(None) => bind(&path, group),
        Err(error) => Err(error),
    };
    match had {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => {
            let error = AdminSocketError::Listen { path, source };
            if named || group.is_some() {
                return Err(error);
            }
            tracing::warn!("{error}; the gate's own commands use admin.listen");
            Ok(None)
        }
    }
}

/// The number of `admin.group`, if one is named.
///
/// # Errors
/// It does not exist.
pub(in crate::serve) fn group(settings: &Settings) -> Result<Option<u32>, AdminSocketError> {
    let Some(name) = &settings.admin.group else {
        return Ok(None);
    };
    let groups = files::read_text("/etc/group", BUNDLE).unwrap_or_default();
    let number = number(&groups, name).or_else(|| name.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| AdminSocketError::NoGroup(name.clone()))
}

fn number(groups: &str, name: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let socket = socket()?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_left_behind(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    // Until it listens, no process can connect.
    allow(path, group)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens on a socket that this process got.
fn take_over(socket: Socket, path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    allow(path, group)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets the gate's user, root and this group connect.
fn allow(path: &Path, group: Option<u32>) -> io::Result<()> {
    // Without a group there is nothing to change, and the unit's filter refuses every chown.
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes the socket of a gate that has ended. One that is answered is a running gate's.
fn remove_left_behind(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let why = "the file there is no socket; remove it, or name another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match socket()?.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there; does another gate run with the same firewall.runDirectory?",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: with the socket unlinked unasked, the second gate took the first one's.
    #[test]
    fn only_what_no_process_answers_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, MODE);
        assert_eq!(bind(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists(), "left behind");
        bind(&path, None).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        std::os::unix::fs::symlink(&file, directory.path().join("link")).unwrap();
        for name in ["file", "link"] {
            let error = bind(&directory.path().join(name), None).unwrap_err();
            assert!(error.to_string().contains("is no socket"), "{error}");
        }
        assert_eq!(files::read(&file, 4).unwrap(), b"kept");
    }

    #[test]
    fn a_group_is_found_by_its_name() {
        let groups = "root:x:0:\nkubelet-gate-2:x:7:\nbroken\nops:x:100:a,b\n";
        assert_eq!(number(groups, "ops"), Some(100));
        assert_eq!(number(groups, "op"), None);
        assert_eq!(number(groups, "broken"), None);
    }
}
