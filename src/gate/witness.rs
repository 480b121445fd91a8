//! Whether the API server has been served through the gate. Until then the ways around the gate should stay
//! open: if the API server cannot use the gate, sealing the node ends its logs, exec and metrics.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;

use crate::attributes::Subresource;
use crate::authn::{CredentialKind, Identity};
use crate::authz::Permit;
use crate::timestamp::timestamp;

/// Most addresses, and most identities, that are remembered. A cluster has a few API servers.
const REMEMBERED: usize = 16;
/// Each counts for so long after a request of it was served, and the last one always.
const LATELY: Duration = Duration::from_secs(3600);
/// An identity is noted again after this time.
const STALE: Duration = Duration::from_secs(60);

/// Remembers the last user that was allowed what only the API server is allowed, and
/// was served by the kubelet.
pub(crate) struct Witness {
    /// `firewall.apiServerUsers`.
    users: Vec<String>,
    began: Instant,
    /// The second, counted from `began` and from 1, in which `seen` was written last.
    noted: AtomicU64,
    seen: ArcSwapOption<Seen>,
    /// Where the API server was, as far as its name says.
    api_server_at: Lately<IpAddr>,
    /// Where the others were that are allowed what only the API server is allowed.
    others_at: Lately<IpAddr>,
    /// In which identities the API servers were served, as far as their names say.
    api_servers: Lately<Arc<Identity>>,
}

/// What was seen lately.
struct Lately<T> {
    /// As [`Witness::noted`].
    noted: AtomicU64,
    /// The last one first.
    seen: ArcSwap<Vec<(T, SystemTime)>>,
}

/// The API server, as it was last seen.
#[derive(Clone, Debug)]
struct Seen {
    user: String,
    first: SystemTime,
    last: SystemTime,
}

/// The API server's part in the answer to `GET /seal`.
#[derive(Debug, Serialize)]
pub(crate) struct SeenReport {
    /// The last user that was taken for the API server.
    user: String,
    /// When this user was first seen.
    first: String,
    /// When it was seen last, to a second or so.
    last: String,
    /// From where it was seen in the last hour, and where it was seen last; the last one first.
    addresses: Vec<IpAddr>,
}

impl Witness {
    /// `users` is `firewall.apiServerUsers`; empty = every client certificate that may `nodes/proxy`.
    pub(crate) fn new(users: &[String]) -> Self {
        Self {
            users: users.to_vec(),
            began: Instant::now(),
            noted: AtomicU64::new(0),
            seen: ArcSwapOption::empty(),
            api_server_at: Lately::default(),
            others_at: Lately::default(),
            api_servers: Lately::default(),
        }
    }

    /// Whether `identity` is the API server's, as far as that shows before a request: by
    /// `firewall.apiServerUsers`, or because it was served as the API server last.
    pub(crate) fn knows(&self, identity: &Identity) -> bool {
        let user = &identity.user().username;
        if self.users.is_empty() {
            may_be_api_server(identity) && self.seen.load().as_ref().is_some_and(|seen| seen.user == *user)
        } else {
            identity.credential() != CredentialKind::Anonymous && self.users.contains(user)
        }
    }

    /// Notes that a request from `source` was allowed and served at `now`. It is called for each request:
    /// within a second of the last note it costs a load and a comparison.
    pub(crate) fn saw(&self, permit: &Permit, source: IpAddr, now: Instant) {
        let credential = permit.identity().credential();
        let may_be = if self.users.is_empty() {
            credential == CredentialKind::Certificate && permit.subresource() == Subresource::Proxy
        } else {
            credential != CredentialKind::Anonymous
        };
        let user = &permit.identity().user().username;
        if !may_be || !self.users.is_empty() && !self.users.contains(user) {
            return;
        }
        let second = now.saturating_duration_since(self.began).as_secs() + 1;
        if self.is_api_server(permit) {
            self.note_api_server(permit.identity(), second);
        }
        if self.noted.load(Relaxed) != second {
            self.note(user, second);
        }
        let at = if self.is_api_server(permit) {
            &self.api_server_at
        } else {
            &self.others_at
        };
        if at.noted.load(Relaxed) != second {
            at.note(source.to_canonical(), second);
        }
    }

    /// Whether a request is the API server's, as far as that is known: a user of `firewall.apiServerUsers`.
    /// If that is empty: a client certificate for an `apiserver`, as installers name it, whose user may
    /// `nodes/proxy`, as this request or the last one noted shows. An administrator's certificate may that
    /// too, so the name decides.
    pub(crate) fn is_api_server(&self, permit: &Permit) -> bool {
        let identity = permit.identity();
        let may_proxy = self.users.is_empty() && permit.subresource() == Subresource::Proxy;
        self.knows(identity) || may_proxy && may_be_api_server(identity)
    }

    /// The identities in which API servers were served in the last hour, and the last one always. An
    /// administrator's certificate that may `nodes/proxy` does not count: otherwise a stolen one could keep
    /// itself off the deny lists.
    pub(crate) fn api_servers(&self) -> Vec<Arc<Identity>> {
        self.api_servers.lately(SystemTime::now())
    }

    fn note_api_server(&self, identity: &Identity, second: u64) {
        let seen = self.api_servers.seen.load();
        let known = seen.iter().find(|(known, _)| **known == *identity);
        let is_stale = |at: &SystemTime| !at.elapsed().is_ok_and(|age| age < STALE);
        if known.is_none_or(|(_, at)| is_stale(at)) {
            // The user of a certificate has its fingerprint.
            self.api_servers.note(Arc::new(identity.clone()), second);
        }
    }

    #[cold]
    fn note(&self, user: &str, second: u64) {
        // Two workers may come here in the same second. Either note is good enough.
        self.noted.store(second, Relaxed);
        let now = SystemTime::now();
        let before = self.seen.load();
        let first = before
            .as_ref()
            .filter(|seen| seen.user == user)
            .map_or(now, |seen| seen.first);
        self.seen.store(Some(Arc::new(Seen {
            user: user.to_owned(),
            first,
            last: now,
        })));
    }

    /// The API server as it was last seen; `None` if it was not seen since the gate started.
    pub(crate) fn report(&self) -> Option<SeenReport> {
        self.seen.load().as_ref().map(|seen| SeenReport {
            user: seen.user.clone(),
            first: timestamp(seen.first),
            last: timestamp(seen.last),
            addresses: self.addresses(),
        })
    }

    /// From where the API server was served in the last hour, and where it was served last. An administrator
    /// does not count, who could otherwise keep an address in `sources`.
    pub(crate) fn api_server_addresses(&self) -> Vec<IpAddr> {
        self.api_server_at.lately(SystemTime::now())
    }

    /// The same, but if no API server was served by its name: from where everyone was served who is allowed
    /// what only the API server is allowed. It may have another name than installers give it.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let named = self.api_server_addresses();
        if named.is_empty() {
            return self.others_at.lately(SystemTime::now());
        }
        named
    }
}

// === impl Lately ===

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Self {
            noted: AtomicU64::new(0),
            seen: ArcSwap::default(),
        }
    }
}

impl<T: Clone + PartialEq> Lately<T> {
    #[cold]
    fn note(&self, new: T, second: u64) {
        self.noted.store(second, Relaxed);
        let now = SystemTime::now();
        // Workers that come here at the same time must not lose each other's notes: each may be the only one
        // for long.
        self.seen.rcu(|before| {
            let others = before.iter().filter(|(seen, _)| *seen != new).cloned();
            let seen = std::iter::once((new.clone(), now)).chain(others);
            seen.take(REMEMBERED).collect::<Vec<_>>()
        });
    }

    /// The last one, and those of the last hour.
    fn lately(&self, now: SystemTime) -> Vec<T> {
        let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > LATELY);
        let seen = self.seen.load();
        let numbered = seen.iter().enumerate();
        numbered
            .filter(|(index, (_, at))| *index == 0 || !is_old(*at))
            .map(|(_, (seen, _))| seen.clone())
            .collect()
    }
}

/// Whether it is a client certificate for an `apiserver`, as installers name it.
fn may_be_api_server(identity: &Identity) -> bool {
    identity.credential() == CredentialKind::Certificate && identity.user().username.contains("apiserver")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen red: with every address kept for ever.
    #[test]
    fn an_address_counts_for_an_hour_and_the_last_one_always() {
        let at = Lately::default();
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        for last in [1, 2, 1, 3] {
            at.note(address(last), 1);
        }
        let now = SystemTime::now();
        assert_eq!(
            at.lately(now),
            [3, 1, 2].map(address),
            "each once, the last one first"
        );
        assert_eq!(at.lately(now + 2 * LATELY), [address(3)]);
        for last in 0..=255 {
            at.note(address(last), 1);
        }
        assert_eq!(at.lately(now).len(), REMEMBERED);
    }
}
