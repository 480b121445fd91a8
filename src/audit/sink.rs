//! The file that lines are written to: opened, opened again, and rotated.
//!
//! A rotated file keeps its directory and its mode, and its name gets the time: `audit.log` becomes
//! `audit.log.2026-01-02T03-04-05.123456Z`. One rename is all that happens to a file, so a gate that is
//! killed meanwhile leaves no gap. Names sort by age.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, renameat_with};
use rustix::io::Errno;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::AuditError;
use super::event::Clock;
use crate::files;
use crate::settings::AuditRotation;

/// Where the lines go.
pub(super) struct Sink {
    file: File,
    /// `None` for standard output.
    path: Option<PathBuf>,
    rotation: Option<AuditRotation>,
    /// Bytes in the file, as far as this process knows.
    size: u64,
    /// A rotation failed; until then the file grows.
    not_before: Option<Instant>,
    /// The path is left to another process.
    is_away: bool,
    /// Only a regular file: at a pipe or a terminal another process may write as well.
    is_file: bool,
}

// === impl Sink ===

impl Sink {
    /// The file at `path`.
    pub(super) fn file(path: &Path, rotation: Option<AuditRotation>) -> Result<Self, AuditError> {
        let (file, size) = open(path)?;
        Ok(Self {
            is_file: is_file(&file),
            file,
            path: Some(path.to_owned()),
            rotation,
            size,
            not_before: None,
            is_away: false,
        })
    }

    /// Standard output, which is never rotated.
    pub(super) fn stdout() -> Result<Self, AuditError> {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        Ok(Self {
            file: File::from(stdout.map_err(AuditError::Stdout)?),
            path: None,
            rotation: None,
            size: 0,
            not_before: None,
            is_away: false,
            is_file: false,
        })
    }

    /// `audit.path`, for log lines.
    pub(super) fn name(&self) -> String {
        let path = self.path.as_ref();
        path.map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    }

    /// Rotates the file by other bounds from now on.
    pub(super) fn set_rotation(&mut self, rotation: Option<AuditRotation>) {
        // Standard output is never rotated.
        if self.path.is_some() {
            self.rotation = rotation;
        }
    }

    /// How many bytes of `lines`, which are whole lines, the file takes before it must be rotated.
    pub(super) fn room_for(&self, lines: &[u8]) -> usize {
        let Some(rotation) = self.rotation.filter(|_| !self.is_away) else {
            return lines.len();
        };
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return lines.len();
        }
        let left = rotation.bytes.saturating_sub(self.size);
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(lines.len());
        if left == lines.len() {
            return left;
        }
        let line_end = |end: usize| end + 1;
        let whole = lines[..left]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map(line_end);
        // A line that is longer than a file may be has a file of its own.
        let first = || lines.iter().position(|byte| *byte == b'\n').map(line_end);
        match whole {
            Some(whole) => whole,
            None if self.size == 0 => first().unwrap_or(lines.len()),
            None => 0,
        }
    }

    /// Writes some of `bytes`; yields how many. At a pipe, whose other writers may be processes that leave,
    /// each call writes whole lines, no more than the kernel keeps together.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = match self.is_file {
            true => bytes,
            false => together(bytes),
        };
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    /// Opens the path again, unless it is standard output; yields whether it did. If that fails, the open
    /// file stays in use.
    pub(super) fn reopen(&mut self) -> Result<bool, AuditError> {
        let Some(path) = self.path.as_ref().filter(|_| !self.is_away) else {
            return Ok(false);
        };
        (self.file, self.size) = open(path)?;
        self.is_file = is_file(&self.file);
        Ok(true)
    }

    /// Leaves the path to another process, and goes on writing to the same file as that one: only one of them
    /// may rotate it or open it again.
    pub(super) fn share_path(&mut self) {
        self.is_away = true;
    }

    /// Leaves the path to another process: the file gets the name of a rotated one and stays in use, and an
    /// empty file with its mode takes its place. From now on it is neither rotated nor opened again. Yields
    /// whether another file is in use now. If it fails, the file stays where it is.
    pub(super) fn leave_path(&mut self) -> io::Result<bool> {
        self.is_away = true;
        let Some(path) = self.path.as_ref().filter(|_| self.is_file) else {
            return Ok(false);
        };
        let open = self.file.metadata()?;
        let found = found_at(path, &open)?;
        let moved = match found {
            Found::Ours => {
                set_aside(path, &open)?;
                false
            }
            // Another program has renamed the file, and may remove it once its lines are elsewhere.
            Found::Another(_) | Found::Nothing => {
                let own = Backups::of(path)?.next_name(SystemTime::now());
                (self.file, self.size) = (create(&own, open.mode())?, 0);
                if matches!(found, Found::Nothing) {
                    create(path, open.mode())?;
                }
                true
            }
        };
        // The other process must not remove it as its oldest. A file system without locks does not keep it.
        let _ = self.file.try_lock();
        Ok(moved)
    }

    /// Takes the path again; yields whether another file is in use now. If that fails, the open file stays in
    /// use.
    pub(super) fn return_to_path(&mut self) -> Result<bool, AuditError> {
        self.is_away = false;
        let Some(path) = self.path.as_ref().filter(|_| self.is_file) else {
            return Ok(false);
        };
        if let Ok(open) = self.file.metadata() {
            match found_at(path, &open) {
                Ok(Found::Ours) => return Ok(false),
                // If that fails, opening it says why.
                Ok(Found::Nothing) => drop(create(path, open.mode())),
                Ok(Found::Another(_)) | Err(_) => {}
            }
        }
        self.reopen()
    }

    /// Puts an empty file in place of the one that is full. If that fails, the full one stays in use and
    /// grows; the next attempt is made after [`AGAIN`].
    ///
    /// # Errors
    /// Only the first of several failures in a row; the others are the same to the operator.
    pub(super) fn rotate(&mut self) -> Result<(), io::Error> {
        let failed_before = self.not_before.is_some();
        match self.try_to_rotate() {
            Ok(()) => {
                self.not_before = None;
                Ok(())
            }
            Err(error) => {
                self.not_before = Some(Instant::now() + AGAIN);
                if failed_before { Ok(()) } else { Err(error) }
            }
        }
    }

    fn try_to_rotate(&mut self) -> io::Result<()> {
        let (Some(path), Some(rotation)) = (&self.path, self.rotation) else {
            return Ok(());
        };
        let open = self.file.metadata()?;
        if open.len() < self.size {
            // It was emptied by another program (logrotate's copytruncate).
            self.size = open.len();
            return Ok(());
        }
        if !open.is_file() {
            // A pipe or a device has no size.
            self.rotation = None;
            return Ok(());
        }
        (self.file, self.size) = match found_at(path, &open)? {
            Found::Ours => (set_aside(path, &open)?, 0),
            Found::Another(size) => {
                // Another program has renamed the file and has put one of its own there.
                self.file = appending().custom_flags(NO_FOLLOW).open(path)?;
                self.size = size;
                return Ok(());
            }
            Found::Nothing => (create(path, open.mode())?, 0),
        };
        Backups::of(path)?.keep(rotation.backups)
    }
}

/// What is at the path of an open file.
enum Found {
    Ours,
    /// Another regular file, of this size.
    Another(u64),
    Nothing,
}

fn found_at(path: &Path, open: &Metadata) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Ok(found) if (found.dev(), found.ino()) == (open.dev(), open.ino()) => Ok(Found::Ours),
        Ok(found) if found.is_file() => Ok(Found::Another(found.len())),
        Ok(_) => Err(io::Error::other("there is no regular file at the path")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

/// Renames the file at `path` to a rotated one, and yields an empty one in its place. If that fails, it has
/// its name again.
fn set_aside(path: &Path, open: &Metadata) -> io::Result<File> {
    let backup = Backups::of(path)?.next_name(SystemTime::now());
    rename(path, &backup)?;
    match create(path, open.mode()) {
        Ok(file) => Ok(file),
        Err(error) => {
            rename(&backup, path)?;
            Err(error)
        }
    }
}

/// The rotated files of a path, oldest first.
struct Backups<'a> {
    path: &'a Path,
    names: Vec<String>,
}

impl<'a> Backups<'a> {
    fn of(path: &'a Path) -> io::Result<Self> {
        let prefix = format!("{}.", file_name(path));
        let mut names = Vec::new();
        for entry in fs::read_dir(directory(path))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let stamp = name.strip_prefix(&prefix);
            // What has such a name and is no file was not made here.
            if stamp.is_some_and(|stamp| time_of(stamp).is_some()) && entry.file_type()?.is_file() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(Self { path, names })
    }

    /// The name of the file that is rotated at `now`. It is the last one, also after the clock was set back.
    fn next_name(&self, now: SystemTime) -> PathBuf {
        let last = self
            .names
            .last()
            .and_then(|name| time_of(&name[name.len() - STAMP..]));
        let time = last.map_or(now, |last| now.max(last + Duration::from_micros(1)));
        let stamp = Clock::default().text(time).replace(':', "-");
        directory(self.path).join(format!("{}.{stamp}", file_name(self.path)))
    }

    /// Removes the oldest ones, so that `most` are left, and those that a process which leaves still writes.
    fn keep(&self, most: Option<usize>) -> io::Result<()> {
        let surplus = most.map_or(0, |most| self.names.len().saturating_sub(most));
        for name in &self.names[..surplus] {
            let path = directory(self.path).join(name);
            if !is_in_use(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Whether a process that leaves writes to this file.
fn is_in_use(path: &Path) -> bool {
    let lock = files::open(path).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// The time that a rotated file's name ends with: RFC 3339 with microseconds, and hyphens for colons.
fn time_of(stamp: &str) -> Option<SystemTime> {
    if stamp.len() != STAMP || !stamp.is_ascii() || !stamp.ends_with('Z') {
        return None;
    }
    let (date, time) = stamp.split_once('T')?;
    let time = OffsetDateTime::parse(&format!("{date}T{}", time.replace('-', ":")), &Rfc3339);
    time.ok().map(SystemTime::from)
}

/// Renames a file, and replaces none.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot do that.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// A new file with the mode of the one that it takes the place of.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let file = appending().create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(mode & 0o777))?;
    Ok(file)
}

/// Whole lines from the start of `bytes`, as many as a pipe keeps together, but at least one.
fn together(bytes: &[u8]) -> &[u8] {
    let line_end = |byte: &u8| *byte == b'\n';
    let longest = &bytes[..bytes.len().min(PIPE_BUF)];
    let end = longest
        .iter()
        .rposition(line_end)
        .or_else(|| bytes.iter().position(line_end));
    end.map_or(bytes, |end| &bytes[..=end])
}

fn is_file(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Opens `path` for appending; yields its size too. A new file is readable by its owner alone.
fn open(path: &Path) -> Result<(File, u64), AuditError> {
    if !directory(path).is_dir() {
        return Err(AuditError::NoDirectory {
            path: path.to_owned(),
        });
    }
    let open = || {
        let mut file = appending().create(true).open(path)?;
        // From here on writes wait, also for the reader of a FIFO.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        if ends_within_a_line(&file, path) {
            file.write_all(b"\n")?;
        }
        let size = file.metadata()?.len();
        Ok((file, size))
    };
    open().map_err(|source| AuditError::Open {
        path: path.to_owned(),
        source,
    })
}

fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Opening does not wait for the reader of a FIFO: without one it fails.
    let no_waiting = OFlags::NONBLOCK | OFlags::NOCTTY;
    options
        .append(true)
        .mode(0o600)
        .custom_flags(no_waiting.bits().cast_signed());
    options
}

/// Whether an earlier writer was cut off within a line. Then a line end comes first, to keep the next line
/// whole.
fn ends_within_a_line(file: &File, path: &Path) -> bool {
    let last = || {
        let mut last = [0];
        let mut reader = files::open(path)?;
        reader.seek(SeekFrom::End(-1))?;
        reader.read_exact(&mut last)?;
        io::Result::Ok(last[0])
    };
    // A file that cannot be read back (its mode may allow only appending) is taken to end whole.
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        && last().is_ok_and(|byte| byte != b'\n')
}

fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Until a rotation that failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// The kernel does not mix the writes of several processes to a pipe that are no longer than this.
const PIPE_BUF: usize = 4096;
/// The length of `2026-01-02T03-04-05.123456Z`.
const STAMP: usize = 27;
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;
