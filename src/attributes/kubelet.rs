//! The kubelet's table: path to subresources, method to verb (`pkg/kubelet/server/auth.go`, gate
//! `KubeletFineGrainedAuthz` on).

use std::fmt;

use http::Method;

use crate::settings::ScrapedSubresource;

/// A subresource of `nodes`, as a review names it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subresource {
    /// `/checkpoint`.
    Checkpoint,
    /// `/configz` and `/flagz`.
    Configz,
    /// `/healthz`.
    Healthz,
    /// `/logs`.
    Log,
    /// `/metrics`.
    Metrics,
    /// `/pods` and `/runningpods`.
    Pods,
    /// Every other path, and the fallback of some of the finer subresources.
    Proxy,
    /// `/stats`.
    Stats,
    /// `/statusz`.
    Statusz,
}

/// The verb of a review.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// POST, and every interactive path.
    Create,
    /// DELETE.
    Delete,
    /// GET and HEAD.
    Get,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
}

/// The subresources to review for the decoded `path`, in the kubelet's order.
///
/// `pods`, `healthz` and `configz` fall back to `proxy`; `/stats`, `/metrics`, `/logs`, `/checkpoint`,
/// `/statusz` and `/flagz` do not.
pub(crate) fn subresources(path: &str) -> &'static [Subresource] {
    use Subresource::{Checkpoint, Configz, Healthz, Log, Metrics, Pods, Proxy, Stats, Statusz};
    const TABLE: [(&str, &[Subresource]); 10] = [
        ("/metrics", &[Metrics]),
        ("/stats", &[Stats]),
        ("/pods", &[Pods, Proxy]),
        ("/runningpods", &[Pods, Proxy]),
        ("/healthz", &[Healthz, Proxy]),
        ("/configz", &[Configz, Proxy]),
        ("/logs", &[Log]),
        ("/checkpoint", &[Checkpoint]),
        ("/statusz", &[Statusz]),
        ("/flagz", &[Configz]),
    ];
    TABLE
        .iter()
        .find(|(base, _)| is_subpath(path, base))
        .map_or(&[Proxy], |(_, checks)| checks)
}

/// Whether `path` is `base` or below it; compared by whole segments and byte for byte, as the kubelet does.
pub(crate) fn is_subpath(path: &str, base: &str) -> bool {
    let base = base.strip_suffix('/').unwrap_or(base);
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Subresource {
    /// The name in a SubjectAccessReview.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Configz => "configz",
            Self::Healthz => "healthz",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Pods => "pods",
            Self::Proxy => "proxy",
            Self::Stats => "stats",
            Self::Statusz => "statusz",
        }
    }
}

impl From<ScrapedSubresource> for Subresource {
    fn from(scraped: ScrapedSubresource) -> Self {
        match scraped {
            ScrapedSubresource::Healthz => Self::Healthz,
            ScrapedSubresource::Metrics => Self::Metrics,
            ScrapedSubresource::Stats => Self::Stats,
        }
    }
}

impl Verb {
    /// The verb of a method; `None` for a method that the gate does not pass on.
    ///
    /// HEAD is `get`, as Kubernetes documents it; the kubelet's code asks with an empty verb.
    pub(crate) fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST => Some(Self::Create),
            Method::PUT => Some(Self::Update),
            Method::PATCH => Some(Self::Patch),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    /// The name in a SubjectAccessReview.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Patch => "patch",
            Self::Update => "update",
        }
    }
}

impl fmt::Display for Subresource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
