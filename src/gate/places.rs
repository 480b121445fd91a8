//! Places: how many requests, and how many streams, may be in flight at once, in total and of one user.
//!
//! A request holds its place until the last byte of its answer was written to the client's connection, and a
//! stream until it ends. So the number of places bounds what clients that do not read their answers can hold:
//! connections to the kubelet, descriptors and memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a request waits for a place, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause before the second try. Each further pause is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);
/// How many requests of one user, and of all users together, wait at once. The others are refused at once.
const WAITING_EACH: usize = 16;
const WAITING: usize = 256;
/// Users that hold no place are forgotten once this many users are remembered.
const USERS: usize = 1024;
/// The least time between two log lines about places that were refused.
const LOGGED_AGAIN: Duration = Duration::from_secs(60);

/// A number of places.
///
/// A quarter of them is kept for the API server and the users of `interactive.allowedUsers`, and another
/// quarter for all other users. A user never holds more places than are left for the others, so that a user
/// who comes later finds one; only the API server, which speaks for many users, may use up its three
/// quarters.
pub(crate) struct Places {
    /// What holds a place, for the log: `requests` or `streams`.
    what: &'static str,
    total: usize,
    each: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By group: [`KEPT`] and [`OTHERS`].
    groups: [usize; 2],
    users: HashMap<String, Arc<User>>,
    waiting: usize,
    logged: Option<Instant>,
}

/// A user that may hold places: one value for all its connections, as long as it is used.
pub(crate) struct User {
    name: String,
    /// Both numbers change under the lock of [`Places`] alone.
    held: AtomicUsize,
    waiting: AtomicUsize,
}

/// The group of the API server and of `interactive.allowedUsers`.
const KEPT: usize = 0;
/// The group of all users.
const OTHERS: usize = 1;

/// Which places a user may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rank {
    /// Those of the first group, as many as there are.
    ApiServer,
    /// Those of either group, as many as one user may hold.
    Kept,
    /// Those of the second group, as many as one user may hold.
    Other,
}

/// One place, given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    user: Arc<User>,
    group: usize,
}

/// A request that waits for a place.
struct Waiter<'a> {
    places: &'a Places,
    user: &'a User,
}

// === impl Places ===

impl Places {
    /// `total` places, of which one user other than the API server may hold `each`.
    pub(crate) fn new(what: &'static str, total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            total,
            each,
            held: Mutex::default(),
        })
    }

    /// The user of this name.
    pub(crate) fn user(&self, name: &str) -> Arc<User> {
        let mut held = self.lock();
        if let Some(user) = held.users.get(name) {
            return user.clone();
        }
        if held.users.len() >= USERS {
            held.users.retain(|_, user| Arc::strong_count(user) > 1);
        }
        let user = Arc::new(User {
            name: name.to_owned(),
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        held.users.insert(name.to_owned(), user.clone());
        user
    }

    /// Takes a place for `user`. If there is none, waits for one up to a second; `None` if there is none
    /// then, or if too many wait already. A caller that stops waiting leaves nothing behind.
    pub(crate) async fn take(self: &Arc<Self>, user: Arc<User>, rank: Rank) -> Option<Place> {
        match self.try_take(&user, rank) {
            Some(place) => Some(place),
            // Boxed, like everything rare: the future of every request stays small.
            None => Box::pin(self.wait(user, rank)).await,
        }
    }

    /// Tries again and again. A queue would have to be searched at the end of every request, since the next
    /// in it may be of a user that has too many places.
    async fn wait(self: &Arc<Self>, user: Arc<User>, rank: Rank) -> Option<Place> {
        if let Some(_waiter) = self.wait_as(&user) {
            let (end, mut pause) = (Instant::now() + PATIENCE, FIRST_PAUSE);
            while Instant::now() < end {
                sleep(pause).await;
                if let Some(place) = self.try_take(&user, rank) {
                    return Some(place);
                }
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
        self.log_refusal(&user);
        None
    }

    fn try_take(self: &Arc<Self>, user: &Arc<User>, rank: Rank) -> Option<Place> {
        let mut held = self.lock();
        let holds = user.held.load(Relaxed);
        let has_room = |group: &usize| holds < self.each.min(self.left(&held, *group));
        let group = match rank {
            Rank::ApiServer => (self.left(&held, KEPT) > 0).then_some(KEPT),
            Rank::Kept => [KEPT, OTHERS].into_iter().find(has_room),
            Rank::Other => Some(OTHERS).filter(has_room),
        }?;
        user.held.store(holds + 1, Relaxed);
        held.groups[group] += 1;
        Some(Place {
            places: self.clone(),
            user: user.clone(),
            group,
        })
    }

    /// How many places a group may still take.
    fn left(&self, held: &Held, group: usize) -> usize {
        let most = self.total - self.total / 4;
        let free = self.total - held.groups[KEPT] - held.groups[OTHERS];
        free.min(most - held.groups[group])
    }

    /// Counts a request of `user` that waits, unless too many do.
    fn wait_as<'a>(&'a self, user: &'a User) -> Option<Waiter<'a>> {
        let mut held = self.lock();
        let waits = user.waiting.load(Relaxed);
        if held.waiting >= WAITING || waits >= WAITING_EACH {
            return None;
        }
        held.waiting += 1;
        user.waiting.store(waits + 1, Relaxed);
        Some(Waiter { places: self, user })
    }

    fn log_refusal(&self, user: &User) {
        let mut held = self.lock();
        if held.logged.is_none_or(|at| at.elapsed() >= LOGGED_AGAIN) {
            held.logged = Some(Instant::now());
            let (name, holds) = (user.name.as_str(), user.held.load(Relaxed));
            let of = held.groups[KEPT] + held.groups[OTHERS];
            drop(held);
            tracing::warn!(
                user = ?name,
                holds,
                of,
                "a user has too many {}: the answer is 429",
                self.what
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.groups[self.group] -= 1;
        self.user.held.store(self.user.held.load(Relaxed) - 1, Relaxed);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.waiting -= 1;
        let waits = self.user.waiting.load(Relaxed);
        self.user.waiting.store(waits - 1, Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Takes places until there is none.
    fn fill(places: &Arc<Places>, name: &str, rank: Rank) -> Vec<Place> {
        std::iter::from_fn(|| places.try_take(&places.user(name), rank)).collect()
    }

    /// Seen red: with `left` not asked for one user's bound (bob takes 12), and with groups that may take
    /// all.
    #[test]
    fn no_user_takes_all_places_and_each_group_finds_its_quarter() {
        let places = Places::new("requests", 16, 100);
        let bob = fill(&places, "bob", Rank::Other);
        assert_eq!(bob.len(), 6, "half of what the others may take");
        let alice = fill(&places, "alice", Rank::Other);
        assert_eq!(alice.len(), 3, "half of the rest");
        let api_server = fill(&places, "api", Rank::ApiServer);
        assert_eq!(api_server.len(), 7, "all that are left");
        drop((bob, alice));
        let more = fill(&places, "api", Rank::ApiServer);
        assert_eq!(api_server.len() + more.len(), 12, "three quarters");
        assert_eq!(
            fill(&places, "bob", Rank::Other).len(),
            2,
            "half of the other quarter"
        );
        let carol = fill(&places, "carol", Rank::Kept);
        assert_eq!(
            carol.len(),
            2,
            "the API server has the kept places, so she finds one of the others"
        );
    }

    /// Seen red: with the kept places open to the API server alone.
    #[test]
    fn places_are_kept_for_users_with_a_name_in_the_configuration() {
        let places = Places::new("requests", 8, 100);
        let others: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"]
            .into_iter()
            .flat_map(|name| fill(&places, name, Rank::Other))
            .collect();
        assert_eq!(others.len(), 6);
        assert!(places.try_take(&places.user("h"), Rank::Other).is_none());
        assert_eq!(fill(&places, "carol", Rank::Kept).len(), 1);
        assert_eq!(fill(&places, "api", Rank::ApiServer).len(), 2);
    }

    /// Seen red: with three quarters rounded down, which is none of one.
    #[test]
    fn a_single_place_is_a_place() {
        let places = Places::new("streams", 1, 1);
        for rank in [Rank::Other, Rank::Kept, Rank::ApiServer] {
            assert_eq!(fill(&places, "bob", rank).len(), 1, "{rank:?}");
        }
    }

    /// Seen red: with no bound on the requests that wait, and without `Drop for Waiter`.
    #[tokio::test]
    async fn a_bounded_number_waits_and_for_a_second_at_most() {
        let places = Places::new("requests", 100, 1);
        let held = places.take(places.user("bob"), Rank::Other).await.unwrap();
        let wait = || {
            let places = places.clone();
            tokio::spawn(async move { places.take(places.user("bob"), Rank::Other).await.is_some() })
        };
        let waiting: Vec<_> = (0..WAITING_EACH).map(|_| wait()).collect();
        tokio::task::yield_now().await;
        assert!(!wait().await.unwrap(), "one too many waits");
        let first = &waiting[0];
        assert!(!first.is_finished(), "it is refused at once, before the others");
        drop(held);
        for waiter in waiting {
            assert!(waiter.await.unwrap(), "each waits for its turn");
        }
        let held = places.take(places.user("bob"), Rank::Other).await.unwrap();
        assert!(!wait().await.unwrap(), "the wait has an end");
        drop(held);
        let held = places.lock();
        assert_eq!((held.groups, held.waiting), ([0, 0], 0));
        let users = held.users.values();
        let mut counts = users.map(|user| (user.held.load(Relaxed), user.waiting.load(Relaxed)));
        assert!(counts.all(|counts| counts == (0, 0)));
    }

    /// Seen red: with no user forgotten, and with all.
    #[test]
    fn users_without_places_are_forgotten() {
        let places = Places::new("requests", 10, 10);
        let _kept = places.try_take(&places.user("kept"), Rank::Other).unwrap();
        for number in 0..3 * USERS {
            let user = places.user(&number.to_string());
            drop(places.try_take(&user, Rank::Other).unwrap());
        }
        assert_eq!(places.user("kept").held.load(Relaxed), 1);
        assert!(places.lock().users.len() <= USERS);
    }
}
