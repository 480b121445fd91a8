//! Digests by which plans and listings are told apart.

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256, in hexadecimal digits.
pub(super) fn sha256(text: &[u8]) -> String {
    let hash = digest(&SHA256, text);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
