//! Typed values as a configuration file has them: the way back of `reading`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::duration::format;

pub(super) fn addresses(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn paths(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|file| path(file)).collect()
}

pub(super) fn optional(file: Option<&PathBuf>) -> String {
    file.map(|file| path(file)).unwrap_or_default()
}

/// The time that something is remembered. Nothing of it would be read as the default, and so is written
/// `1ns`.
pub(super) fn lasting(duration: Duration) -> String {
    format(duration.max(Duration::from_nanos(1)))
}
