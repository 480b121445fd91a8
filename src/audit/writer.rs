//! The thread that writes the events of the queue, and the ways into it.
//!
//! Requests append lines to one buffer under a lock. The thread swaps the buffer for an empty one and writes
//! it at once. It is woken when the buffer stops being empty, and then lingers for more lines: under load an
//! event costs no wake-up, and an idle process has no timer.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::error::AuditError;
use super::event::Event;
use super::queue::{AuditPolicy, AuditQueue, BATCH_BYTES, Batch, FileOrder, Holder, QueueState};
use super::redaction::Redaction;
use super::sink::Sink;
use crate::settings::{self, AuditMode, AuditSink};

/// The queue that events are put into. Clones share one queue.
#[derive(Clone)]
pub(crate) struct Audit(Option<Arc<AuditQueue>>);

/// Room for one event in the queue. An unused slot gives the room back when it is dropped.
#[must_use = "a slot is reserved in order to be written with"]
pub(crate) struct Slot(Option<(Arc<AuditQueue>, Holder)>);

/// The thread that writes. When this is dropped, the thread writes what is in the queue and ends.
pub struct AuditThread(Option<(Arc<AuditQueue>, mpsc::Receiver<()>)>);

// === impl Audit ===

impl Audit {
    /// Opens the sink and starts the thread. `queue` is how many events may be reserved or wait to be
    /// written.
    pub(crate) fn start(settings: &settings::Audit, queue: usize) -> Result<(Self, AuditThread), AuditError> {
        let sink = match &settings.sink {
            AuditSink::Off => return Ok((Self(None), AuditThread(None))),
            AuditSink::Stdout => Sink::stdout()?,
            AuditSink::File(path) => Sink::file(path, settings.rotation)?,
        };
        let queue = queue.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(AuditQueue {
            policy: ArcSwap::from_pointee(AuditPolicy {
                mode: settings.mode,
                strangers: settings.strangers,
                redaction: Redaction::new(settings.commands).map_err(|_| AuditError::Key)?,
            }),
            room: Semaphore::new(queue),
            room_of_strangers: Semaphore::new((queue / 2).max(1)),
            queue,
            state: Mutex::new(QueueState::new()),
            summaries: Mutex::default(),
            changed: Condvar::new(),
            bytes: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            summarised: AtomicU64::new(0),
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

    /// Room for one event of a user, for `batch`. `None` if there is none: the event is counted as dropped.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        let slot = self.try_reserve(Holder::User);
        if slot.is_none() {
            self.count_dropped();
        }
        slot
    }

    /// Room for one event, if there is some now.
    pub(crate) fn try_reserve(&self, holder: Holder) -> Option<Slot> {
        let Some(shared) = &self.0 else {
            return Some(Slot(None));
        };
        let most_bytes = match holder {
            Holder::User => MAX_BYTES,
            Holder::Stranger => MAX_BYTES / 2,
        };
        if shared.bytes.load(Relaxed) >= most_bytes {
            return None;
        }
        let of_strangers = match holder {
            Holder::User => None,
            Holder::Stranger => Some(shared.room_of_strangers.try_acquire().ok()?),
        };
        shared.room.try_acquire().ok()?.forget();
        of_strangers.into_iter().for_each(|permit| permit.forget());
        Some(Slot(Some((Arc::clone(shared), holder))))
    }

    /// Room for one event as soon as there is some, for `blocking`. Dropping the future reserves nothing.
    pub(crate) async fn reserve_blocking(&self, holder: Holder) -> Slot {
        let Some(shared) = &self.0 else {
            return Slot(None);
        };
        // The semaphores are never closed, so this does not fail. If it did, the bound would be lost, not the
        // event.
        let of_strangers = match holder {
            Holder::User => None,
            Holder::Stranger => shared.room_of_strangers.acquire().await.ok(),
        };
        if let Ok(permit) = shared.room.acquire().await {
            permit.forget();
        }
        of_strangers.into_iter().for_each(|permit| permit.forget());
        Slot(Some((Arc::clone(shared), holder)))
    }

    /// Writes the event of a request for which no place was reserved: of a client without a user. If
    /// strangers hold all their places, the request is counted in the summary. Where nothing is summarised,
    /// the event waits for a place in blocking mode and is dropped in batch mode.
    pub(crate) async fn write_unreserved(&self, event: &Event<'_>) -> Result<(), AuditError> {
        let slot = match self.try_reserve(Holder::Stranger) {
            None if self.is_blocking() && !self.summarises() => {
                Some(self.reserve_blocking(Holder::Stranger).await)
            }
            slot => slot,
        };
        match slot {
            Some(slot) if self.is_blocking() => slot.write_and_wait(event).await,
            Some(slot) => {
                slot.write(event);
                Ok(())
            }
            None => {
                self.summarise_or_drop(event);
                Ok(())
            }
        }
    }

    /// The same where nothing can wait.
    pub(crate) fn write_unreserved_now(&self, event: &Event<'_>) {
        match self.try_reserve(Holder::Stranger) {
            Some(slot) => slot.write(event),
            None => self.summarise_or_drop(event),
        }
    }

    fn summarise_or_drop(&self, event: &Event<'_>) {
        match &self.0 {
            Some(shared) if self.summarises() => shared.summarise(event),
            _ => self.count_dropped(),
        }
    }

    fn count_dropped(&self) {
        if let Some(shared) = &self.0 {
            shared.dropped.fetch_add(1, Relaxed);
        }
    }

    fn summarises(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.summarises())
    }

    /// Whether requests wait for their events: with `audit.mode: blocking`, and a sink other than off.
    pub(crate) fn is_blocking(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.policy.load().mode == AuditMode::Blocking)
    }

    /// Has the file opened again before more is written, after logrotate has renamed it.
    pub(crate) fn reopen(&self) {
        let Some(shared) = &self.0 else { return };
        let mut state = shared.state();
        if !state
            .orders
            .iter()
            .any(|order| matches!(order, FileOrder::Reopen))
        {
            state.orders.push_back(FileOrder::Reopen);
        }
        drop(state);
        shared.changed.notify_one();
    }

    /// Leaves `audit.path` to the process that takes over. The open file gets the name of a rotated one;
    /// this process goes on writing there, and neither rotates it nor opens the path again. The path has an
    /// empty file with the same mode then. Where there is no file to rename, both processes write whole
    /// lines to the same place.
    ///
    /// It resolves when that is done, or after [`MOVING`], when a write does not end: then both append to the
    /// same file.
    pub(crate) async fn leave_path(&self) {
        if !self.order(FileOrder::LeavePath).await {
            tracing::warn!(
                "audit.path: a write takes longer than {MOVING:?}, so this process and the one that takes \
                 over append to the same file; look at its disk"
            );
        }
    }

    /// Takes `audit.path` again, if no process has taken over. What another process has written there stays.
    pub(crate) async fn return_to_path(&self) {
        if !self.order(FileOrder::ReturnToPath).await {
            tracing::warn!(
                "audit.path: a write takes longer than {MOVING:?}, so this process returns to the file \
                 only then; look at its disk"
            );
        }
    }

    /// Has the thread do something with the file. False if it has not come to that in time.
    async fn order(&self, order: fn(oneshot::Sender<()>) -> FileOrder) -> bool {
        let Some(shared) = &self.0 else { return true };
        let (done, is_done) = oneshot::channel();
        shared.state().orders.push_back(order(done));
        shared.changed.notify_one();
        matches!(timeout(MOVING, is_done).await, Ok(Ok(())))
    }

    /// Treats the next events by these settings. The sink stays what it is.
    pub(crate) fn set_policy(&self, settings: &settings::Audit) {
        let Some(shared) = &self.0 else { return };
        let redaction = shared.policy.load().redaction.with(settings.commands);
        shared.policy.store(Arc::new(AuditPolicy {
            mode: settings.mode,
            strangers: settings.strangers,
            redaction,
        }));
        shared.state().rotation = Some(settings.rotation);
        shared.changed.notify_one();
    }

    /// Writes an event that no request has caused.
    pub(crate) fn write_notice(&self, annotations: BTreeMap<&'static str, String>) {
        if let Some(shared) = &self.0 {
            shared.append_notice(annotations);
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

    /// How many requests were counted in a summary, instead of having an event.
    pub(crate) fn summarised(&self) -> u64 {
        let shared = self.0.as_ref();
        shared.map_or(0, |shared| shared.summarised.load(Relaxed))
    }

    /// How many attempts to write, to open or to rotate the file failed.
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
    /// Puts the event in the queue, or counts it in a summary. It never waits for the file and never fails,
    /// so a `Drop` may use it.
    pub(crate) fn write(mut self, event: &Event<'_>) {
        if let Some((shared, holder)) = self.0.take() {
            shared.append(event, holder, None);
        }
    }

    /// Puts the event in the queue at once, or counts it in a summary. The future resolves when the line is
    /// written to the file; it is not synced to the disk.
    ///
    /// The future borrows nothing. Dropping it does not lose the event.
    pub(crate) fn write_and_wait(
        mut self,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let written = self.0.take().map(|(shared, holder)| {
            let (sender, receiver) = oneshot::channel();
            shared.append(event, holder, Some(sender));
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
        if let Some((shared, holder)) = &self.0 {
            shared.give_back(*holder);
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

// === impl AuditQueue: the thread ===

impl AuditQueue {
    fn run(&self, mut sink: Sink) {
        let mut batch = Batch::default();
        while self.next(&mut batch, &mut sink) {
            let written = self.write(&batch.lines, &mut sink);
            self.bytes.fetch_sub(batch.lines.len(), Relaxed);
            let counter = if written { &self.written } else { &self.dropped };
            counter.fetch_add(batch.events as u64, Relaxed);
            self.room.add_permits(batch.places);
            self.room_of_strangers.add_permits(batch.places_of_strangers);
            for waiter in batch.waiters.drain(..).filter(|_| written) {
                // A request that no longer waits was dropped; its event is written all the same.
                let _ = waiter.send(());
            }
            batch.lines.clear();
            // The memory of a burst is freed.
            batch.lines.shrink_to(2 * BATCH_BYTES);
            (batch.events, batch.places, batch.places_of_strangers) = (0, 0, 0);
        }
    }

    /// Waits for lines, lingers for more, and takes them. `false` if there will be no more.
    fn next(&self, batch: &mut Batch, sink: &mut Sink) -> bool {
        let mut state = self.state();
        let mut lingered = false;
        loop {
            if let Some(rotation) = state.rotation.take() {
                sink.set_rotation(rotation);
            } else if let Some(order) = state.orders.pop_front() {
                // Without the lock: requests must not wait for a slow disk.
                drop(state);
                self.obey(order, sink);
                state = self.state();
            } else if state.summaries_due.is_some_and(|due| due <= Instant::now()) {
                self.append_summaries(&mut state);
            } else if state.batch.events > 0 && lingered {
                state.urgent = false;
                std::mem::swap(&mut state.batch, batch);
                return true;
            } else if state.batch.events > 0 {
                let linger = |state: &mut QueueState| {
                    !state.urgent && state.orders.is_empty() && state.closing.is_none()
                };
                let lingering = self.changed.wait_timeout_while(state, LINGER, linger);
                (state, _) = lingering.unwrap_or_else(PoisonError::into_inner);
                lingered = true;
            } else if state.closing.is_some() {
                if !self.append_summaries(&mut state) {
                    state.closed = true;
                    return false;
                }
            } else {
                state.idle = true;
                state = match state.summaries_due {
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(due) => {
                        let left = due.saturating_duration_since(Instant::now());
                        let waiting = self.changed.wait_timeout(state, left);
                        waiting.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                state.idle = false;
            }
        }
    }

    /// Writes whole lines, and rotates the file between two of them when it is full. `false` if the
    /// shutdown's deadline has passed.
    fn write(&self, mut lines: &[u8], sink: &mut Sink) -> bool {
        while !lines.is_empty() {
            let (now, later) = lines.split_at(sink.room_for(lines));
            if !self.write_to_file(now, sink) {
                return false;
            }
            lines = later;
            if !lines.is_empty()
                && let Err(error) = sink.rotate()
            {
                self.errors.fetch_add(1, Relaxed);
                tracing::error!(
                    "audit.path {}: the file cannot be rotated and grows beyond audit.maxSizeMB: {error}; \
                     check the owner and the mode of its directory",
                    sink.name()
                );
            }
        }
        true
    }

    /// Writes `lines`. On an error it tries the rest again until it succeeds, so the order is kept. `false`
    /// if the shutdown's deadline has passed.
    fn write_to_file(&self, lines: &[u8], sink: &mut Sink) -> bool {
        let (mut offset, mut pause) = (0, FIRST_PAUSE);
        while offset < lines.len() {
            let error = match sink.write(&lines[offset..]) {
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
            let unchanged = |state: &mut QueueState| state.orders.is_empty() && state.closing == closing;
            let pausing = self.changed.wait_timeout_while(state, pause.min(left), unchanged);
            let (mut state, _) = pausing.unwrap_or_else(PoisonError::into_inner);
            let order = state.orders.pop_front();
            drop(state);
            if order.is_some_and(|order| self.obey(order, sink)) {
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

    /// Yields whether lines go to another file now. If the order fails, the open file stays in use.
    fn obey(&self, order: FileOrder, sink: &mut Sink) -> bool {
        let (done, outcome) = match order {
            FileOrder::Reopen => (None, sink.reopen()),
            // The process that takes over has opened the path meanwhile.
            FileOrder::LeavePath(done) if done.is_closed() => {
                sink.share_path();
                return false;
            }
            FileOrder::LeavePath(done) => {
                let moved = sink.leave_path().unwrap_or_else(|error| {
                    self.errors.fetch_add(1, Relaxed);
                    tracing::warn!(
                        "audit.path {}: the file cannot be renamed, so this process and the one that takes \
                         over append to the same file: {error}; check the owner and the mode of its \
                         directory, and name the file itself, not a link",
                        sink.name()
                    );
                    false
                });
                (Some(done), Ok(moved))
            }
            FileOrder::ReturnToPath(done) => (Some(done), sink.return_to_path()),
        };
        let moved = outcome.unwrap_or_else(|error| {
            self.failed(sink, &error);
            false
        });
        // The hand-over may have waited for long enough.
        done.map(|done| done.send(()));
        moved
    }

    fn failed(&self, sink: &Sink, error: &(dyn std::error::Error + 'static)) {
        self.errors.fetch_add(1, Relaxed);
        tracing::error!(
            "audit.path {}: events are kept in memory and tried again: {error}",
            sink.name()
        );
    }
}

/// How long a line waits for more lines.
const LINGER: Duration = Duration::from_millis(50);
/// While this much waits to be written, `batch` drops further events, however few are waiting.
const MAX_BYTES: usize = 16 * 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How long a hand-over waits for the thread.
const MOVING: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(1);
