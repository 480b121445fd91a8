//! The paths that give access to a process: they need `create nodes/proxy` whatever the method.

/// Whether the decoded `path` is exec, attach, run, portForward or CRI streaming, or anything below.
///
/// The kubelet takes the verb from the method alone. A WebSocket handshake is a GET, so it runs commands with
/// `get nodes/proxy` (kubernetes#136550). Here the path alone decides, with or without an upgrade header.
pub fn is_interactive(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let first = rest.split('/').next().unwrap_or(rest);
    matches!(first, "attach" | "cri" | "exec" | "portForward" | "run")
}
