//! How much of what a client sends in the handshake is looked at.

/// Most certificates of a chain.
pub(crate) const MAX_CERTIFICATES: usize = 16;
/// Most bytes of a chain.
pub(super) const MAX_BYTES: usize = 128 * 1024;
