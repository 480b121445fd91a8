//! The file descriptors of this process: the limits must fit.
//!
//! A gate that runs out of descriptors can neither accept a connection nor reach its kubelet.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Settings;

/// For listeners, reviews, files, and connections that are ending.
const OTHERS: usize = 256;

/// Raises the number of files that this process may open as far as possible, and lowers the limits of
/// `settings` that do not fit. Yields a warning if it lowered any.
pub(super) fn fit(settings: &mut Settings) -> Option<String> {
    lower(settings, raise()?)
}

/// How many files this process may open; `None` if there is no limit.
fn raise() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let may_open = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    may_open.map(|files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Lowers each limit by the same part, so that all of them fit into `files`.
fn lower(settings: &mut Settings, files: usize) -> Option<String> {
    let limits = &mut settings.limits;
    // Each stream has the descriptors of its client's connection and of the kubelet's.
    let each: [(&str, &mut usize, usize); 3] = [
        ("connections", &mut limits.connections, 1),
        ("upstreamConnections", &mut limits.upstream_connections, 1),
        ("streams", &mut limits.streams, 2),
    ];
    let needed: usize = each.iter().map(|(_, limit, files)| **limit * files).sum();
    let needed = needed.saturating_add(OTHERS);
    if needed <= files {
        return None;
    }
    // With very few files, half of them are for the rest.
    let (available, wanted) = (files - OTHERS.min(files / 2), needed - OTHERS);
    let lowered = each.map(|(key, limit, _)| {
        let was = *limit;
        *limit = (was * available / wanted).max(1);
        format!("limits.{key} is {limit} instead of {was}")
    });
    Some(format!(
        "{}: this process may open {files} files, and the limits as configured need {needed}; let it open \
         more (LimitNOFILE= of the unit), or lower these limits",
        lowered.join(", ")
    ))
}
