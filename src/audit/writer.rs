//! The queue of events and the thread that writes them.
//!
//! Requests append lines to one buffer under a lock. The thread swaps the buffer for an empty one and writes
//! it at once. It is woken when the buffer stops being empty, and then lingers for more lines: under load an
//! event costs no wake-up, and an idle process has no timer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::event::{Clock, Event};
use super::redaction::Redaction;
use crate::files;
use crate::settings::{self, AuditMode, AuditSink};

/// The queue that events are put into. Clones share one queue.
#[derive(Clone)]
pub(crate) struct Audit(Option<Arc<AuditQueue>>);

/// Room for one event in the queue. An unused slot gives the room back when it is dropped.
#[must_use = "a slot is reserved in order to be written with"]
pub(crate) struct Slot(Option<Arc<AuditQueue>>);

/// The thread that writes. When this is dropped, the thread writes what is in the queue and ends.
pub struct AuditThread(Option<(Arc<AuditQueue>, mpsc::Receiver<()>)>);

/// Why events cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file's directory is missing.
    #[error(
        "audit.path {}: the directory {} does not exist; create it (mode 0700) or name another path",
        path.display(),
        path.parent().unwrap_or(path).display()
    )]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// The file does not open.
    #[error(
        "audit.path {}: cannot be opened for appending; check its owner and mode, and those of its directory",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("audit.path \"-\": standard output cannot be used; keep it open or name a file")]
    Stdout(#[source] io::Error),
    /// No randomness for the key that hashes commands.
    #[error("audit.commands: no random key could be made for the hashes of commands")]
    Key,
    /// No thread for the writer.
    #[error("audit: the writer's thread cannot be started")]
    Thread(#[source] io::Error),
    /// The writer was shut down.
    #[error("audit: the writer has been shut down, the event is lost")]
    Closed,
    /// The shutdown's deadline passed.
    #[error("audit: {events} events could not be written before the shutdown's deadline")]
    Unwritten {
        /// How many events are lost.
        events: u64,
    },
}

struct AuditQueue {
    mode: AuditMode,
    redaction: Redaction,
    /// One permit for each event that the queue still has room for.
    room: Semaphore,
    queue: usize,
    state: Mutex<QueueState>,
    changed: Condvar,
    /// Bytes of the lines in memory: events differ in size, so their number alone is no bound.
    bytes: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

#[derive(Default)]
struct QueueState {
    batch: Batch,
    clock: Clock,
    /// Events ever appended.
    appended: u64,
    /// The thread waits for the first line and must be woken.
    idle: bool,
    /// The thread must not linger over this batch.
    urgent: bool,
    reopen: bool,
    /// When the thread gives up what it could not write. Set once, by the shutdown.
    closing: Option<Instant>,
    /// Nothing more will be written.
    closed: bool,
}

/// Lines, and the requests that wait until they are written.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    events: usize,
    waiters: Vec<oneshot::Sender<()>>,
}

struct Sink {
    file: File,
    /// `None` for standard output.
    path: Option<PathBuf>,
    /// When an error was last logged.
    logged: Option<Instant>,
}

// === impl Audit ===

impl Audit {
    /// Opens the sink and starts the thread. `queue` is how many events may be reserved or wait to be
    /// written.
    pub(crate) fn start(settings: &settings::Audit, queue: usize) -> Result<(Self, AuditThread), AuditError> {
        let sink = match &settings.sink {
            AuditSink::Off => return Ok((Self(None), AuditThread(None))),
            AuditSink::Stdout => {
                let stdout = io::stdout()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(AuditError::Stdout)?;
                Sink {
                    file: File::from(stdout),
                    path: None,
                    logged: None,
                }
            }
            AuditSink::File(path) => Sink {
                file: open(path)?,
                path: Some(path.clone()),
                logged: None,
            },
        };
        let queue = queue.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(AuditQueue {
            mode: settings.mode,
            redaction: Redaction::new(settings.commands).map_err(|_| AuditError::Key)?,
            room: Semaphore::new(queue),
            queue,
            state: Mutex::default(),
            changed: Condvar::new(),
            bytes: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        let (ending, ended) = mpsc::channel();
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                writer.run(sink);
                drop(ending);
            })
            .map_err(AuditError::Thread)?;
        Ok((
            Self(Some(Arc::clone(&shared))),
            AuditThread(Some((shared, ended))),
        ))
    }

    /// Room for one event, for `batch`. `None` if there is none: the event is counted as dropped.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        let Some(shared) = &self.0 else {
            return Some(Slot(None));
        };
        match shared.room.try_acquire() {
            Ok(permit) if shared.bytes.load(Relaxed) < MAX_BYTES => {
                permit.forget();
                Some(Slot(Some(Arc::clone(shared))))
            }
            _ => {
                shared.dropped.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Room for one event as soon as there is some, for `blocking`. Dropping the future reserves nothing.
    pub(crate) async fn reserve_blocking(&self) -> Slot {
        let Some(shared) = &self.0 else {
            return Slot(None);
        };
        // The semaphore is never closed, so this does not fail. If it did, the bound would be lost, not the
        // event.
        if let Ok(permit) = shared.room.acquire().await {
            permit.forget();
        }
        Slot(Some(Arc::clone(shared)))
    }

    /// Whether requests wait for their events: with `audit.mode: blocking`, and a sink other than off.
    pub(crate) fn is_blocking(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.mode == AuditMode::Blocking)
    }

    /// Has the file opened again before more is written, after logrotate has renamed it.
    pub(crate) fn reopen(&self) {
        if let Some(shared) = &self.0 {
            shared.state().reopen = true;
            shared.changed.notify_one();
        }
    }

    /// How many events were written.
    pub(crate) fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.written.load(Relaxed))
    }

    /// How many events were dropped, because the queue was full or the writer had ended.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.dropped.load(Relaxed))
    }

    /// How many attempts to write or to open the file failed.
    pub(crate) fn errors(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.errors.load(Relaxed))
    }

    /// How many bytes of events wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.0.as_ref().map_or(0, |shared| shared.bytes.load(Relaxed))
    }

    /// How many events are reserved or wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.0.as_ref().map_or(0, |shared| {
            shared.queue.saturating_sub(shared.room.available_permits())
        })
    }
}

// === impl Slot ===

impl Slot {
    /// Puts the event in the queue. It never waits for the file and never fails, so a `Drop` may use it.
    pub(crate) fn write(mut self, event: &Event<'_>) {
        if let Some(shared) = self.0.take() {
            shared.append(event, None);
        }
    }

    /// Puts the event in the queue at once. The future resolves when the line is written to the file; it is
    /// not synced to the disk.
    ///
    /// The future borrows nothing. Dropping it does not lose the event.
    pub(crate) fn write_and_wait(
        mut self,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let written = self.0.take().map(|shared| {
            let (sender, receiver) = oneshot::channel();
            shared.append(event, Some(sender));
            receiver
        });
        async move {
            match written {
                Some(written) => written.await.map_err(|_| AuditError::Closed),
                None => Ok(()),
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.room.add_permits(1);
        }
    }
}

// === impl AuditThread ===

impl AuditThread {
    /// Writes what is in the queue and ends the thread, and gives up after `limit`. Blocks the calling
    /// thread.
    ///
    /// Later events are counted as dropped: shut down their sources first.
    pub fn shutdown(mut self, limit: Duration) -> Result<(), AuditError> {
        let Some((shared, ended)) = self.0.take() else {
            return Ok(());
        };
        shared.close(limit);
        // The thread gives up in time by itself. If the kernel holds it in a write, it is left behind.
        let _ = ended.recv_timeout(limit + GRACE);
        let mut state = shared.state();
        state.closed = true;
        match state.appended - shared.written.load(Relaxed) {
            0 => Ok(()),
            events => Err(AuditError::Unwritten { events }),
        }
    }
}

impl Drop for AuditThread {
    fn drop(&mut self) {
        if let Some((shared, _)) = &self.0 {
            shared.close(GRACE);
        }
    }
}

// === impl AuditQueue ===

impl AuditQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // Serialising does not panic. If it did, one broken line would be better than no more lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, event: &Event<'_>, waiter: Option<oneshot::Sender<()>>) {
        let mut state = self.state();
        if state.closed {
            self.dropped.fetch_add(1, Relaxed);
            self.room.add_permits(1);
            return;
        }
        let QueueState { batch, clock, .. } = &mut *state;
        let before = batch.lines.len();
        event.write(&mut batch.lines, clock, &self.redaction);
        batch.events += 1;
        self.bytes.fetch_add(batch.lines.len() - before, Relaxed);
        let hurry = !state.urgent && (waiter.is_some() || state.batch.lines.len() >= BATCH_BYTES);
        state.batch.waiters.extend(waiter);
        state.appended += 1;
        state.urgent |= hurry;
        let wake = std::mem::take(&mut state.idle) || hurry;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    fn close(&self, limit: Duration) {
        self.state().closing.get_or_insert_with(|| Instant::now() + limit);
        self.changed.notify_one();
    }

    fn run(&self, mut sink: Sink) {
        let mut batch = Batch::default();
        while self.next(&mut batch, &mut sink) {
            let written = self.write(&batch.lines, &mut sink);
            self.bytes.fetch_sub(batch.lines.len(), Relaxed);
            let counter = if written { &self.written } else { &self.dropped };
            counter.fetch_add(batch.events as u64, Relaxed);
            self.room.add_permits(batch.events);
            for waiter in batch.waiters.drain(..).filter(|_| written) {
                // A request that no longer waits was dropped; its event is written all the same.
                let _ = waiter.send(());
            }
            batch.lines.clear();
            // The memory of a burst is freed.
            batch.lines.shrink_to(2 * BATCH_BYTES);
            batch.events = 0;
        }
    }

    /// Waits for lines, lingers for more, and takes them. `false` if there will be no more.
    fn next(&self, batch: &mut Batch, sink: &mut Sink) -> bool {
        let mut state = self.state();
        let mut lingered = false;
        loop {
            if std::mem::take(&mut state.reopen) {
                // Without the lock: requests must not wait for a slow disk.
                drop(state);
                self.reopen(sink);
                state = self.state();
            } else if state.batch.events > 0 && lingered {
                state.urgent = false;
                std::mem::swap(&mut state.batch, batch);
                return true;
            } else if state.batch.events > 0 {
                let linger =
                    |state: &mut QueueState| !state.urgent && !state.reopen && state.closing.is_none();
                let lingering = self.changed.wait_timeout_while(state, LINGER, linger);
                (state, _) = lingering.unwrap_or_else(PoisonError::into_inner);
                lingered = true;
            } else if state.closing.is_some() {
                state.closed = true;
                return false;
            } else {
                state.idle = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle = false;
            }
        }
    }

    /// Writes `lines`. On an error it tries the rest again until it succeeds, so the order is kept. `false`
    /// if the shutdown's deadline has passed.
    fn write(&self, lines: &[u8], sink: &mut Sink) -> bool {
        let (mut offset, mut pause) = (0, FIRST_PAUSE);
        while offset < lines.len() {
            let error = match sink.file.write(&lines[offset..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(length) => {
                    (offset, pause) = (offset + length, FIRST_PAUSE);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.failed(sink, &error);
            let state = self.state();
            let closing = state.closing;
            let left = closing.map_or(pause, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return false;
            }
            let unchanged = |state: &mut QueueState| !state.reopen && state.closing == closing;
            let pausing = self.changed.wait_timeout_while(state, pause.min(left), unchanged);
            let (mut state, _) = pausing.unwrap_or_else(PoisonError::into_inner);
            let reopen = std::mem::take(&mut state.reopen);
            drop(state);
            if reopen && self.reopen(sink) {
                // A line that was cut short in the old file is written whole to the new one.
                offset = lines[..offset]
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1);
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
        true
    }

    /// If that fails, the open file stays in use.
    fn reopen(&self, sink: &mut Sink) -> bool {
        let Some(path) = &sink.path else { return false };
        match open(path) {
            Ok(file) => {
                sink.file = file;
                true
            }
            Err(error) => {
                self.failed(sink, &error);
                false
            }
        }
    }

    fn failed(&self, sink: &mut Sink, error: &(dyn std::error::Error + 'static)) {
        self.errors.fetch_add(1, Relaxed);
        if sink.logged.is_none_or(|logged| logged.elapsed() > LOG_EVERY) {
            sink.logged = Some(Instant::now());
            let path = sink
                .path
                .as_ref()
                .map_or_else(|| "-".into(), |path| path.to_string_lossy());
            tracing::error!("audit.path {path}: events are kept in memory and tried again: {error}");
        }
    }
}

/// Opens `path` for appending. A new file is readable by its owner alone.
fn open(path: &Path) -> Result<File, AuditError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(AuditError::NoDirectory {
            path: path.to_owned(),
        });
    }
    let open = || {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        if ends_within_a_line(&file, path) {
            file.write_all(b"\n")?;
        }
        Ok(file)
    };
    open().map_err(|source| AuditError::Open {
        path: path.to_owned(),
        source,
    })
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

/// How long a line waits for more lines.
const LINGER: Duration = Duration::from_millis(50);
/// A batch of this size is written without lingering.
const BATCH_BYTES: usize = 256 * 1024;
/// While this much waits to be written, `batch` drops further events, however few are waiting.
const MAX_BYTES: usize = 16 * 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
const LOG_EVERY: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(1);
