//! Station 4: what a request asks for. Method, path and upgrade become the [`Checks`] that have to be allowed.
//!
//! The rules are the kubelet's newest ones whatever the age of the kubelet behind the gate, and stricter in two places:
//! a path that two kubelets could read differently is refused, and exec, attach, run and port-forward need the verb
//! `create` whatever the method (GET over WebSocket runs commands on every kubelet with mere `get nodes/proxy`).

mod head;
mod interactive;
mod kubelet;
mod path;
mod upgrade;

pub use self::interactive::is_interactive;
pub(crate) use self::kubelet::is_subpath;
pub use self::kubelet::{Subresource, Verb};
pub use self::path::{PathError, RequestPath};
pub use self::upgrade::Protocol;

use http::request::Parts;

use crate::error::RequestError;

/// What has to be allowed before a request may pass: one SubjectAccessReview per subresource, the first Allow wins.
/// Only this module makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checks {
    verb: Verb,
    subresources: &'static [Subresource],
    interactive: bool,
    path: RequestPath,
    upgrade: Option<Protocol>,
}

impl Checks {
    /// What `parts` asks for, or why it cannot be said. `require_create` is
    /// `authorization.interactive.requireCreate`.
    pub fn of(parts: &Parts, require_create: bool) -> Result<Self, RequestError> {
        let verb = Verb::of(&parts.method).ok_or_else(RequestError::method_not_allowed)?;
        head::judge(parts)?;
        let path = RequestPath::of_target(&parts.uri, parts.version, &parts.headers)?;
        let upgrade = Protocol::wanted_by(parts)?;
        let interactive = is_interactive(path.decoded());
        let verb = if interactive && require_create {
            Verb::Create
        } else {
            verb
        };
        let subresources = kubelet::subresources(path.decoded());
        Ok(Self {
            verb,
            subresources,
            interactive,
            path,
            upgrade,
        })
    }

    /// The verb of every review.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// The subresources of `nodes` to ask about, in order.
    pub fn subresources(&self) -> &'static [Subresource] {
        self.subresources
    }

    /// Whether this is exec, attach, run, port-forward or CRI streaming.
    pub fn interactive(&self) -> bool {
        self.interactive
    }

    /// The decoded path that is authorized.
    pub fn path(&self) -> &str {
        self.path.decoded()
    }

    /// The protocol the client wants to upgrade to.
    pub fn upgrade(&self) -> Option<Protocol> {
        self.upgrade
    }

    /// The protocol to tunnel, if this request may become a tunnel at all: only interactive paths do. Elsewhere the
    /// upgrade headers are hop-by-hop headers like any other, and the answer is an ordinary one.
    pub fn tunnel(&self) -> Option<Protocol> {
        self.upgrade.filter(|_| self.interactive)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
