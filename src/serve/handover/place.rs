//! Where two gates meet: a socket in a folder of the gate's own, which is there for one hand-over.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// Below `firewall.runDirectory`.
const FOLDER: &str = "upgrade";
const SOCKET: &str = "socket";
/// Waiting connections.
const BACKLOG: i32 = 16;
/// A folder that is not read, only passed through. It is no link.
const PASSED: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A socket on which a gate waits for its successor. It is removed with its folder when it is dropped.
pub(super) struct Place {
    run_directory: OwnedFd,
    folder: OwnedFd,
    listener: UnixListener,
}

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct PlaceError {
    path: PathBuf,
    pub(super) source: io::Error,
}

// === impl Place ===

impl Place {
    /// Makes the folder, for this user alone, and listens in it. What a process that was killed has left is
    /// removed. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// It cannot be made, or its name is taken by what is not this user's folder.
    pub(super) fn make(run_directory: &Path) -> Result<Self, PlaceError> {
        make(run_directory).map_err(|source| PlaceError {
            path: run_directory.join(FOLDER),
            source,
        })
    }

    /// The next process that connects.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(accepted, _)| accepted)
    }

    /// A connection to the gate that waits in this directory; `None`: none does, yet.
    ///
    /// # Errors
    /// The folder is neither this user's nor, for root, any user's; or the socket does not answer.
    pub(super) fn connect(run_directory: &Path) -> Result<Option<OwnedFd>, PlaceError> {
        connect(run_directory).map_err(|source| PlaceError {
            path: run_directory.join(FOLDER),
            source,
        })
    }

    /// Removes what a process that was killed has left.
    pub(super) fn clear(run_directory: &Path) {
        let cleared = open_directory(run_directory).and_then(|directory| remove_left_behind(&directory));
        if let Err(error) = cleared {
            let path = run_directory.join(FOLDER);
            tracing::warn!(%error, path = %path.display(), "what a hand-over has left cannot be removed");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = unlinkat(&self.folder, SOCKET, AtFlags::empty())
            .and_then(|()| unlinkat(&self.run_directory, FOLDER, AtFlags::REMOVEDIR));
        if let Err(error) = removed {
            tracing::warn!(%error, "firewall.runDirectory: {FOLDER} cannot be removed; the next hand-over \
                tries again");
        }
    }
}

fn make(run_directory: &Path) -> io::Result<Place> {
    let run_directory = open_directory(run_directory)?;
    match mkdirat(&run_directory, FOLDER, Mode::RWXU) {
        Err(Errno::EXIST) => {
            remove_left_behind(&run_directory)?;
            mkdirat(&run_directory, FOLDER, Mode::RWXU)?;
        }
        made => made?,
    }
    let folder = openat(&run_directory, FOLDER, PASSED, Mode::empty())?;
    let about = rustix::fs::fstat(&folder)?;
    if about.st_uid != rustix::process::geteuid().as_raw() || about.st_mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "another process has put a folder of its own there; only the gate's user may write to \
             firewall.runDirectory",
        ));
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    let path = within(&folder);
    socket.bind(&SockAddr::unix(&path)?)?;
    // Until it listens, no process can connect.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(Place {
        listener: UnixListener::from_std(StdListener::from(OwnedFd::from(socket)))?,
        run_directory,
        folder,
    })
}

fn connect(run_directory: &Path) -> io::Result<Option<OwnedFd>> {
    let run_directory = open_directory(run_directory)?;
    let folder = match openat(&run_directory, FOLDER, PASSED, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        folder => folder?,
    };
    let (owner, own) = (
        rustix::fs::fstat(&folder)?.st_uid,
        rustix::process::geteuid().as_raw(),
    );
    if owner != own && own != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to user {owner}, and this process to user {own}: run both as the same user"),
        ));
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(within(&folder))?) {
        Ok(()) => Ok(Some(socket.into())),
        // It is being made, or was left by a process that was killed, or is full.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `firewall.runDirectory` may be a link: the configuration names it.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The socket's path: short enough for the kernel however long the folder's is, and in this very folder.
fn within(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

fn remove_left_behind(run_directory: &OwnedFd) -> io::Result<()> {
    let about = match statat(run_directory, FOLDER, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        about => about?,
    };
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
        return refused("it is no folder: find out which process has put it there, and remove it".to_owned());
    }
    let (owner, own) = (about.st_uid, rustix::process::geteuid().as_raw());
    if owner != own {
        return refused(format!(
            "it belongs to user {owner}, and the gate runs as user {own}: find out which process has put it \
             there, and remove it"
        ));
    }
    let folder = openat(run_directory, FOLDER, PASSED, Mode::empty())?;
    match unlinkat(&folder, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(unlinkat(run_directory, FOLDER, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// (Not seen red.)
    #[tokio::test]
    async fn the_socket_is_this_users_and_is_there_for_one_hand_over() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than the kernel takes for a socket.
        let run = directory.path().join("r".repeat(150));
        fs::create_dir(&run).unwrap();
        assert!(Place::connect(&run).unwrap().is_none());
        let place = Place::make(&run).unwrap();
        assert_eq!(mode(&run.join("upgrade")), 0o700);
        assert_eq!(mode(&run.join("upgrade/socket")), 0o600);
        let connected = Place::connect(&run).unwrap().unwrap();
        place.accept().await.unwrap();
        drop((place, connected));
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);

        // A process that was killed removes nothing.
        std::mem::forget(Place::make(&run).unwrap());
        let place = Place::make(&run).unwrap();
        assert!(Place::connect(&run).unwrap().is_some());
        std::mem::forget(place);
        Place::clear(&run);
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
    }

    /// (Not seen red.)
    #[tokio::test]
    async fn what_is_no_folder_of_this_user_is_neither_used_nor_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (run, elsewhere) = (directory.path().join("run"), directory.path().join("elsewhere"));
        fs::create_dir(&run).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("socket"), "kept").unwrap();
        symlink(&elsewhere, run.join("upgrade")).unwrap();
        let said = Place::make(&run).err().unwrap().to_string();
        assert!(said.contains("it is no folder"), "{said}");
        assert!(Place::connect(&run).is_err());
        Place::clear(&run);
        assert!(elsewhere.join("socket").exists());

        fs::remove_file(run.join("upgrade")).unwrap();
        fs::create_dir(run.join("upgrade")).unwrap();
        fs::write(run.join("upgrade/other"), "").unwrap();
        assert!(Place::make(&run).is_err(), "not empty");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(run.join("upgrade"), Some(4242), None).unwrap();
            let said = Place::make(&run).err().unwrap().to_string();
            assert!(said.contains("belongs to user 4242"), "{said}");
        }
    }
}
