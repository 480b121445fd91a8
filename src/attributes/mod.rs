//! Station 4: turns the method, path and upgrade of a request into the [`Checks`] that must be allowed.
//!
//! The rules are those of the newest kubelet, whatever the version of the kubelet behind the gate. They are
//! stricter in two places. A path that two kubelets could read differently is refused. Exec, attach, run and
//! port-forward need the verb `create` whatever the method: on every kubelet, a GET over WebSocket runs
//! commands with no more than `get nodes/proxy`.

mod follow;
mod head;
mod interactive;
mod kubelet;
mod path;
mod upgrade;

pub use self::interactive::is_interactive;
pub use self::kubelet::{Subresource, Verb};
pub(crate) use self::kubelet::{is_subpath, subresources};
pub use self::upgrade::Protocol;

use http::Method;
use http::request::Parts;

use self::path::RequestPath;
use crate::error::RequestError;

/// What must be allowed before a request may pass: one SubjectAccessReview per subresource, of which the
/// first Allow wins. Only this module can make a value of this type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checks {
    verb: Verb,
    /// The verb of the method.
    method: Verb,
    subresources: &'static [Subresource],
    interactive: bool,
    path: RequestPath,
    upgrade: Option<Protocol>,
    follows: bool,
}

impl Checks {
    /// The checks of a request's head. `require_create` is `authorization.interactive.requireCreate`.
    ///
    /// # Errors
    /// The head has no single meaning, or asks for what the gate does not pass on.
    pub fn of(parts: &Parts, require_create: bool) -> Result<Self, RequestError> {
        let verb = Verb::of(&parts.method).ok_or_else(RequestError::method_not_allowed)?;
        head::judge(parts)?;
        let path = RequestPath::of_target(&parts.uri, parts.version, &parts.headers)?;
        let upgrade = Protocol::wanted_by(parts)?;
        let interactive = is_interactive(path.decoded());
        let subresources = subresources(path.decoded());
        // To any other method the kubelet answers 405.
        let follows = parts.method == Method::GET && follow::follows(path.decoded(), parts.uri.query());
        Ok(Self {
            verb: verb_under(require_create, verb, interactive),
            method: verb,
            subresources,
            interactive,
            path,
            upgrade,
            follows,
        })
    }

    /// The checks of the same head, with another `require_create`.
    pub(crate) fn under(&self, require_create: bool) -> Self {
        Self {
            verb: verb_under(require_create, self.method, self.interactive),
            ..self.clone()
        }
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

    /// The protocol that the client asks to upgrade to.
    pub fn upgrade(&self) -> Option<Protocol> {
        self.upgrade
    }

    /// Whether the answer may have no end: a tunnel, or a followed log.
    pub fn is_stream(&self) -> bool {
        self.follows || self.tunnel().is_some()
    }

    /// The protocol of the tunnel, if this request may become one: only interactive paths may. On other paths
    /// the upgrade headers are removed as hop-by-hop headers, and the answer is an ordinary one.
    pub fn tunnel(&self) -> Option<Protocol> {
        self.upgrade.filter(|_| self.interactive)
    }
}

fn verb_under(require_create: bool, method: Verb, interactive: bool) -> Verb {
    if interactive && require_create {
        Verb::Create
    } else {
        method
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
