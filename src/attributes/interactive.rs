//! The paths that hand out a process: they need `create nodes/proxy` whatever the method.

/// Whether the decoded `path` is exec, attach, run, portForward or CRI streaming, or anything below.
///
/// The kubelet takes the verb from the method alone, so that a WebSocket handshake, which is a GET, runs commands with
/// `get nodes/proxy` (kubernetes#136550). Nothing but the path decides here: not the upgrade header, not its spelling,
/// not its absence.
pub fn is_interactive(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let first = rest.split('/').next().unwrap_or(rest);
    matches!(first, "attach" | "cri" | "exec" | "portForward" | "run")
}
