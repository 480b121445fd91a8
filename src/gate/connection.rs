//! What the requests of one connection share, and what the connections of one worker share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::places::{Places, User};
use crate::authn::{Identity, Presented};
use crate::door::Admission;
use crate::forward::Pool;
use crate::source::Known;

/// An HTTP/1 connection whose first requests all fail authentication is closed after this many.
const MOST_REFUSED: u32 = 8;
/// A connection notes its source as known at most this often.
const NOTED: Duration = Duration::from_secs(10);

/// A client's connection after the TLS handshake.
pub(crate) struct Connection {
    /// The TCP peer.
    pub(crate) peer: SocketAddr,
    /// The client's certificate chain, and what it was judged to be.
    pub(crate) presented: Presented,
    /// What its requests are doing.
    pub(crate) activity: Arc<Activity>,
    /// Its way to a place among the authenticated connections.
    admission: Admission,
    /// The last user of a request other than a stream: for the next request it need not be looked up.
    last_user: Mutex<Option<(Identity, Arc<User>)>>,
    /// Until when its source need not be noted as known again: milliseconds since the activity began.
    noted_until: AtomicU64,
    /// A request on it was authenticated.
    authenticated: AtomicBool,
    /// It has a place among the authenticated connections.
    admitted: AtomicBool,
    /// Requests that failed authentication before one passed.
    refused: AtomicU32,
    /// Notified when a request fails authentication and none before it has passed.
    unauthenticated: Notify,
    /// Notified when the answer that is being sent must not go on. On HTTP/1 the connection ends with it.
    answer_cut: Notify,
    /// Cancelled when the connection shall take no more requests.
    ending: CancellationToken,
}

/// What the connections of one worker thread share.
pub(crate) struct Worker {
    /// Its connections to the kubelet.
    pub(crate) pool: Pool,
    /// Its tasks: connections and tunnels.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when no connection should stay for more requests. An HTTP/1 connection that is idle is left
    /// open, since closing it may race the client's next request: the answer to that closes it.
    pub(crate) leave: CancellationToken,
    /// Cancelled when idle connections should end as well. Then `leave` is cancelled too.
    pub(crate) drain: CancellationToken,
    /// Cancelled when everything should end now.
    pub(crate) cut: CancellationToken,
}

/// What the requests of a connection are doing. The stream below them and the handler above them share it.
pub(crate) struct Activity {
    born: Instant,
    /// Requests whose answer has not ended, and tunnels.
    in_flight: AtomicU32,
    /// Those of them that follow a log.
    follows: AtomicU32,
    /// When the connection became idle, or when the first byte of the head being read came:
    /// milliseconds since `born`.
    since: AtomicU64,
    /// Bytes of a head have come, and no request yet. Stored beside `since`, read by the same task.
    in_head: AtomicBool,
    /// The connection carries no more requests. A tunnel has its own deadline: neither the kubelet nor the
    /// gate cuts a client that stops reading for a while, as in a pager.
    tunnel: AtomicBool,
    /// The client took no byte for too long.
    stalled: AtomicBool,
}

/// What a connection is waiting for, and since when.
pub(crate) enum Waiting {
    /// An answer is on its way, or the connection is a tunnel.
    No,
    /// The first byte of a request's head has come at this time, and the head is not complete.
    ForHead(Instant),
    /// No request has been in flight since this time.
    ForRequest(Instant),
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        presented: Presented,
        activity: Arc<Activity>,
        admission: Admission,
    ) -> Self {
        Self {
            peer,
            presented,
            activity,
            admission,
            last_user: Mutex::new(None),
            noted_until: AtomicU64::new(0),
            authenticated: AtomicBool::new(false),
            admitted: AtomicBool::new(false),
            refused: AtomicU32::new(0),
            unauthenticated: Notify::new(),
            answer_cut: Notify::new(),
            ending: CancellationToken::new(),
        }
    }

    /// Notes that a review allowed a request. It is called for each request: within [`NOTED`] of the last
    /// note it costs a load and a comparison.
    pub(crate) fn note_known(&self, known: &Known) {
        let now = self.activity.now();
        if now >= self.noted_until.load(Relaxed) {
            known.note(self.admission.source());
            let noted = u64::try_from(NOTED.as_millis()).unwrap_or(u64::MAX);
            self.noted_until.store(now + noted, Relaxed);
        }
    }

    /// The user of `identity` among those that hold `places` for requests.
    pub(crate) fn user(&self, identity: &Identity, places: &Places) -> Arc<User> {
        let mut last = self.last_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, user)) = &*last
            && known == identity
        {
            return user.clone();
        }
        let user = places.user(&identity.user().username);
        *last = Some((identity.clone(), user.clone()));
        user
    }

    /// Notes that a request was authenticated.
    pub(crate) fn mark_authenticated(&self) {
        self.authenticated.store(true, Relaxed);
    }

    /// Moves the connection to the authenticated ones, which are not evicted, unless that was done before.
    /// `is_needed` says whether its user is one whose places are kept.
    pub(crate) fn admit(&self, is_needed: impl FnOnce() -> bool) {
        if !self.admitted.load(Relaxed) && self.admission.admit(is_needed()) {
            self.admitted.store(true, Relaxed);
        }
    }

    /// Whether any request was authenticated.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Relaxed)
    }

    /// Notes that a request failed authentication. An HTTP/2 connection on which no request has
    /// passed is closed then: opening and resetting streams is cheap for an attacker and expensive
    /// for the gate (CVE-2023-44487).
    pub(crate) fn note_unauthenticated(&self) {
        if !self.is_authenticated() {
            self.refused.fetch_add(1, Relaxed);
            self.unauthenticated.notify_one();
        }
    }

    /// Whether so many requests failed authentication, and none has passed, that an HTTP/1 connection is
    /// closed: each of them costs an audit event.
    pub(crate) fn is_a_strangers(&self) -> bool {
        self.refused.load(Relaxed) >= MOST_REFUSED && !self.is_authenticated()
    }

    /// Lets the connection take no more requests. Those that run go on.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Whether the connection takes no more requests.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Resolves when the connection takes no more requests.
    pub(crate) async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Has the connection end now, if it is one of HTTP/1: its answer must not go on.
    pub(crate) fn cut_answer(&self) {
        self.answer_cut.notify_one();
    }

    /// Resolves when the answer that is being sent must not go on.
    pub(crate) async fn answer_cut(&self) {
        self.answer_cut.notified().await;
    }

    /// Resolves when a request has failed authentication and none before it has passed.
    pub(crate) async fn unauthenticated(&self) {
        self.unauthenticated.notified().await;
    }
}

// === impl Activity ===

impl Activity {
    /// The activity of a connection that has just been accepted.
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            in_flight: AtomicU32::new(0),
            follows: AtomicU32::new(0),
            since: AtomicU64::new(0),
            in_head: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        }
    }

    /// Counts a request whose head is complete.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.in_head.store(false, Relaxed);
    }

    /// Counts a request that follows a log.
    pub(super) fn begin_follow(&self) {
        self.follows.fetch_add(1, Relaxed);
    }

    /// Ends a request that [`Self::begin_follow`] counted.
    pub(super) fn end_follow(&self) {
        self.follows.fetch_sub(1, Relaxed);
    }

    /// Whether a log is being followed.
    pub(crate) fn has_follow(&self) -> bool {
        self.follows.load(Relaxed) > 0
    }

    /// Notes that the client took no byte for too long.
    pub(crate) fn note_stalled(&self) {
        self.stalled.store(true, Relaxed);
    }

    /// Whether the client took no byte for too long.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Marks the connection as a tunnel from now on.
    pub(crate) fn become_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    /// Ends a request that [`Self::begin`] counted.
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.since.store(self.now(), Relaxed);
    }

    /// Resolves once no request has been in flight for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let since = self.since();
            let busy = self.has_requests();
            if !busy && since.elapsed() >= limit {
                return;
            }
            sleep_until(if busy { Instant::now() } else { since } + limit).await;
        }
    }

    /// Notes that bytes came, which begin a head if no request is in flight.
    pub(crate) fn note_bytes(&self) {
        if !self.has_requests() && !self.in_head.load(Relaxed) {
            self.in_head.store(true, Relaxed);
            self.since.store(self.now(), Relaxed);
        }
    }

    /// Whether a request or a tunnel is in flight.
    pub(crate) fn has_requests(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Whether the connection is a tunnel.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }

    /// What the connection is waiting for.
    pub(crate) fn waiting(&self) -> Waiting {
        if self.has_requests() {
            Waiting::No
        } else if self.in_head.load(Relaxed) {
            Waiting::ForHead(self.since())
        } else {
            Waiting::ForRequest(self.since())
        }
    }

    fn since(&self) -> Instant {
        self.born + Duration::from_millis(self.since.load(Relaxed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
