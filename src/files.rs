//! Reading files that are named from outside: by the configuration, by a kubeconfig, or on a node.
//!
//! Such a name may lead to a FIFO, which waits for a writer when it is opened, or to a device without an end.
//! [`open`] and [`read`] are the only ways in: they open regular files alone, never wait for the opening, and
//! read no more than a bound.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, accessat, statvfs,
    statx,
};
use rustix::io::Errno;
use tokio::sync::oneshot;

/// The most bytes of a CA bundle or of a revocation list.
pub(crate) const BUNDLE: u64 = 16 << 20;
/// The most bytes of a certificate with its chain, a key, a kubeconfig or another document.
pub(crate) const DOCUMENT: u64 = 1 << 20;
/// The most bytes of a bearer token.
pub(crate) const TOKEN: u64 = 64 << 10;

/// What the users of this machine outside a file's owner and group must not be able to do with it. A group is
/// the operator's own grant, and is not judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Guard {
    /// Change it: the gate believes what it says.
    Trusted,
    /// Read or change it: it holds a private key or a token.
    Secret,
}

/// Here the kubelet mounts the tokens of a pod, readable by every user of that pod.
const MOUNTED_TOKENS: [&str; 2] = ["/var/run/secrets/kubernetes.io", "/run/secrets/kubernetes.io"];
/// Whether a sandbox may be why a file cannot be opened.
static SANDBOX: AtomicBool = AtomicBool::new(false);

const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
/// In a folder with this bit, users replace no files but their own.
pub(crate) const STICKY: u32 = 0o1000;
/// The most links that a path may lead over, as for Linux.
const MOST_LINKS: usize = 40;

/// Opens a regular file for reading, without waiting.
///
/// # Errors
/// It is not there, or something else than a regular file.
pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let path = path.as_ref();
    // Some devices act when they are opened, so they are not even opened. Another file may take the name
    // meanwhile, so what is open is looked at too.
    refuse_special(&fs::metadata(path)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refused(path, error))?;
    let file = File::from(file);
    refuse_special(&file.metadata()?)?;
    Ok(file)
}

/// This process is in a sandbox from now on, which opens some files alone.
pub(crate) fn note_sandbox() {
    SANDBOX.store(true, Relaxed);
}

/// Why a file could not be opened. Of the sandbox the system's own message says nothing, while the file's
/// owner and mode would let this process read it.
fn refused(path: &Path, error: Errno) -> io::Error {
    let may_read = || accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).is_ok();
    if error == Errno::ACCESS && SANDBOX.load(Relaxed) && may_read() {
        return io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the sandbox does not open it: it opens the folders of those files that were named when the gate \
             started; restart needed",
        );
    }
    error.into()
}

/// The bytes of a regular file that has at most `most` of them. In `/proc` and `/sys`, whose files say that
/// they are empty, what is read counts.
///
/// # Errors
/// As [`open`], or it is larger.
pub(crate) fn read(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    read_open(&mut open(path)?, most)
}

/// As [`read`], for a file that others must not read or change.
///
/// # Errors
/// As [`read`], or its mode, or its folder's, lets every user of this machine do so.
pub(crate) fn read_guarded(path: impl AsRef<Path>, most: u64, guard: Guard) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    let mut file = open(path)?;
    let bytes = read_open(&mut file, most)?;
    refuse_others(path, file.metadata()?.mode(), guard)?;
    Ok(bytes)
}

/// Whether others must not, and can, read or change a file that was read before its content was known.
///
/// # Errors
/// They can, or the file is gone.
pub(crate) fn check_guarded(path: &Path, guard: Guard) -> io::Result<()> {
    refuse_others(path, fs::metadata(path)?.mode(), guard)
}

/// As [`read`], of a file that [`open`] has opened.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_open(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length <= most {
        file.take(most + 1).read_to_end(&mut bytes)?;
    }
    if length.max(bytes.len() as u64) > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "it is larger than {}, the most that is read; name the right file",
                size(most)
            ),
        ));
    }
    Ok(bytes)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`], or it is not UTF-8.
pub(crate) fn read_text(path: impl AsRef<Path>, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8; save it as UTF-8"))
}

/// Runs `work`, which reads files, on a thread of its own. A file of a network file system may hold that
/// thread for ever: the caller's thread goes on, and the end of the process does not wait for it.
///
/// # Errors
/// No thread can be started, or `work` panicked.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let reading = move || {
        // A caller that is gone needs no result.
        let _ = done.send(work());
    };
    thread::Builder::new().name("files".to_owned()).spawn(reading)?;
    result
        .await
        .map_err(|_| io::Error::other("the thread that read the files has panicked"))
}

fn refuse_others(path: &Path, mode: u32, guard: Guard) -> io::Result<()> {
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    let shown = mode & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return refuse(format!(
            "every user of this machine may change it (mode {shown:04o}): chmod o-w it"
        ));
    }
    let mounted = || MOUNTED_TOKENS.iter().any(|folder| path.starts_with(folder));
    if guard == Guard::Secret && mode & OTHERS_READ != 0 && !mounted() {
        return refuse(format!(
            "every user of this machine may read it (mode {shown:04o}), and it holds a secret: chmod 0600 \
             it, or, if it is in a volume of a Secret, set defaultMode: 0400 there; and replace the secret \
             if another user may have read it"
        ));
    }
    // Each link may be replaced in its folder, and the file in its own.
    for place in places(path)? {
        let Some(folder) = place.parent() else {
            continue;
        };
        let mode = fs::metadata(folder)?.mode();
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 && !is_volume(folder) {
            return refuse(format!(
                "every user of this machine may replace it, for its folder {} has mode {:04o}: chmod o-w the \
                 folder",
                folder.display(),
                mode & 0o7777
            ));
        }
    }
    Ok(())
}

/// Where each link is that `path` leads over, also those to folders, each folder that it leaves by `..`, and
/// at the end the file itself. None of these paths leads over a link. A user who may change a folder above
/// one of them may lead `path` elsewhere.
///
/// # Errors
/// There is no such file, or there are more than 40 links.
pub(crate) fn places(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut rest = std::path::absolute(path)?;
    let mut at = PathBuf::from("/");
    let mut places: Vec<PathBuf> = Vec::new();
    let mut links = 0;
    loop {
        let mut names = rest.components();
        let Some(name) = names.next() else {
            break;
        };
        let mut after = names.as_path().to_owned();
        match name {
            Component::RootDir => at = PathBuf::from("/"),
            Component::ParentDir => {
                // Another user's link in place of this folder would have another parent. A folder that holds
                // a place is looked at with it.
                if !places.iter().any(|place| place.starts_with(&at)) {
                    places.push(at.clone());
                }
                at.pop();
            }
            Component::Normal(name) => {
                at.push(name);
                match fs::read_link(&at) {
                    Ok(_) if links == MOST_LINKS => {
                        return Err(io::Error::other(
                            "it leads over more than 40 symbolic links; name the file itself",
                        ));
                    }
                    Ok(target) => {
                        links += 1;
                        places.push(at.clone());
                        at.pop();
                        after = target.join(after);
                    }
                    // It is no link.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(error) => return Err(error),
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
        rest = after;
    }
    places.push(at);
    Ok(places)
}

/// Whether a folder is a volume that the kubelet has filled from a ConfigMap or a Secret. Its mode is 0777,
/// but it is mounted read-only, and outside the pod only root comes near it.
///
/// To be read-only is not enough: systemd mounts the machine's own folders read-only for the gate alone
/// (`ProtectSystem=`), and other processes go on to change them. So do those of the node in a `hostPath`. The
/// folder must also be the root of its own mount, and hold the link of root's by which the kubelet replaces
/// all files of a volume at once.
pub(crate) fn is_volume(folder: &Path) -> bool {
    let read_only = || statvfs(folder).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY));
    let filled = || {
        let link = fs::symlink_metadata(folder.join("..data"));
        link.is_ok_and(|about| about.is_symlink() && about.uid() == 0)
    };
    read_only() && filled() && is_mount(folder)
}

fn is_mount(folder: &Path) -> bool {
    let root = StatxAttributes::MOUNT_ROOT;
    match statx(CWD, folder, AtFlags::empty(), StatxFlags::empty()) {
        Ok(about) if about.stx_attributes_mask.contains(root) => about.stx_attributes.contains(root),
        // Linux before 5.8 does not say it.
        _ => {
            let device = |of: &Path| fs::metadata(of).map(|about| about.dev()).ok();
            folder
                .parent()
                .is_some_and(|parent| device(folder) != device(parent))
        }
    }
}

fn refuse_special(about: &Metadata) -> io::Result<()> {
    if about.is_file() {
        return Ok(());
    }
    let kind = match about.is_dir() {
        true => io::ErrorKind::IsADirectory,
        false => io::ErrorKind::InvalidInput,
    };
    let what = name(about.file_type());
    Err(io::Error::new(
        kind,
        format!("it is {what}, not a regular file; name a regular file"),
    ))
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO (named pipe)"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        ..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{FileType, mknodat};

    use super::*;

    fn refusal(path: &Path) -> (io::ErrorKind, String) {
        let error = read(path, TOKEN).unwrap_err();
        (error.kind(), error.to_string())
    }

    /// Seen red: opened without O_NONBLOCK and without a look before, the FIFO never ended.
    #[test]
    fn what_is_no_regular_file_is_neither_waited_for_nor_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink(at("fifo"), at("link")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        for (path, what) in [
            (at("fifo"), "a FIFO (named pipe)"),
            (at("link"), "a FIFO (named pipe)"),
            (at("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
            ("/dev/null".into(), "a device"),
            (at(""), "a folder"),
        ] {
            let (kind, said) = refusal(&path);
            let expected = format!("it is {what}, not a regular file; name a regular file");
            assert_eq!(said, expected, "{}", path.display());
            assert_eq!(kind == io::ErrorKind::IsADirectory, what == "a folder");
        }
        assert_eq!(refusal(&at("none")).0, io::ErrorKind::NotFound);
    }

    /// Seen red: with one byte less read, the long file of `/proc` was cut.
    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![b'x'; TOKEN as usize]).unwrap();
        assert_eq!(read(&path, TOKEN).unwrap().len() as u64, TOKEN);
        fs::write(&path, vec![b'x'; TOKEN as usize + 1]).unwrap();
        let too_large = "it is larger than 64 KiB, the most that is read; name the right file";
        assert_eq!(
            refusal(&path),
            (io::ErrorKind::FileTooLarge, too_large.to_owned())
        );
        let sparse = File::create(&path).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let error = read(&path, BUNDLE).unwrap_err().to_string();
        assert!(error.starts_with("it is larger than 16 MiB"), "{error}");
        // Its length is said to be 0.
        let error = read("/proc/self/maps", 1024).unwrap_err().to_string();
        assert!(error.starts_with("it is larger than 1 KiB"), "{error}");
        assert_eq!(read_text("/proc/self/comm", TOKEN).unwrap().lines().count(), 1);
    }

    /// Seen red: with the folder not looked at, and with the mode of the link's own folder alone.
    #[test]
    fn a_file_that_every_user_may_read_or_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let chmod =
            |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir(at("in")).unwrap();
        fs::create_dir(at("links")).unwrap();
        fs::write(at("in/key"), "x").unwrap();
        symlink("../in/key", at("links/key")).unwrap();
        for (file, folder, links, trusted, secret) in [
            (0o600, 0o755, 0o755, "", ""),
            (0o640, 0o775, 0o755, "", ""),
            (0o660, 0o1777, 0o755, "", ""),
            (0o644, 0o755, 0o755, "", "may read it (mode 0644)"),
            (
                0o602,
                0o755,
                0o755,
                "may change it (mode 0602)",
                "may change it (mode 0602)",
            ),
            (0o600, 0o757, 0o755, "/in has mode 0757", "/in has mode 0757"),
            (
                0o600,
                0o755,
                0o777,
                "/links has mode 0777",
                "/links has mode 0777",
            ),
        ] {
            chmod("in/key", file);
            chmod("in", folder);
            chmod("links", links);
            for (guard, expected) in [(Guard::Trusted, trusted), (Guard::Secret, secret)] {
                match read_guarded(at("links/key"), TOKEN, guard) {
                    Ok(bytes) => assert!(expected.is_empty() && bytes == b"x", "{file:o} {expected}"),
                    Err(error) => {
                        let said = error.to_string();
                        assert!(
                            !expected.is_empty() && said.contains(expected),
                            "{file:o}: {said}"
                        );
                        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                    }
                }
            }
        }
    }

    /// Seen red: with the folders of the first link and of the file alone.
    #[test]
    fn a_link_in_the_middle_of_a_chain_is_judged() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let at = |name: &str| root.join(name);
        for folder in ["links", "team", "real", "real/keys"] {
            fs::create_dir(at(folder)).unwrap();
            fs::set_permissions(at(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(at("real/keys/key"), "x").unwrap();
        fs::set_permissions(at("real/keys/key"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("../team/key", at("links/key")).unwrap();
        symlink("../real/keys/key", at("team/key")).unwrap();
        symlink("../real/keys", at("team/folder")).unwrap();
        symlink(at("team/folder"), at("links/folder")).unwrap();
        let file = at("real/keys/key");
        assert_eq!(
            places(&at("links/key")).unwrap(),
            [at("links/key"), at("team/key"), file.clone()]
        );
        assert_eq!(
            places(&at("links/./folder/../keys/key")).unwrap(),
            [at("links/folder"), at("team/folder"), at("real/keys"), file]
        );
        for (mode, refused) in [(0o755, false), (0o1777, false), (0o777, true)] {
            fs::set_permissions(at("team"), fs::Permissions::from_mode(mode)).unwrap();
            for name in ["links/key", "links/folder/key"] {
                let said = check_guarded(&at(name), Guard::Secret).map_err(|error| error.to_string());
                let judged = said.is_err_and(|said| said.contains("/team has mode 0777"));
                assert_eq!(judged, refused, "{name} {mode:o}");
            }
        }
        // As many links as Linux follows, and one more.
        symlink("real/keys/key", at("1")).unwrap();
        for link in 2..=41 {
            symlink(format!("{}", link - 1), at(&format!("{link}"))).unwrap();
        }
        assert_eq!(places(&at("40")).unwrap().len(), 41);
        assert!(
            places(&at("41"))
                .unwrap_err()
                .to_string()
                .contains("40 symbolic links")
        );
    }

    /// Seen red: with the work done on the caller's thread, whose panic it then is.
    #[tokio::test]
    async fn reading_aside_yields_the_result_or_that_there_is_none() {
        assert_eq!(aside(|| 7).await.unwrap(), 7);
        let panicked: io::Result<()> = aside(|| panic!("on purpose")).await;
        assert!(panicked.unwrap_err().to_string().contains("panicked"));
    }
}
