//! What must hold for every program that claims to be a kubelet.

use super::go_binary;
use super::version::Version;

/// Reads the bytes as a program. What it says of Kubernetes is a version, or nothing.
pub(crate) fn go_program(bytes: &[u8]) {
    let Ok(said) = go_binary::of_data(bytes) else {
        return;
    };
    if let Some(version) = &said.kubernetes {
        assert!(Version::of_kubernetes(version).is_some(), "{version:?}");
    }
    let _ = Version::of_go(&said.go);
}
