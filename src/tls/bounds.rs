//! How much of what a client sends in the handshake is looked at.
//!
//! Every bound is above what a legitimate chain needs. A chain that reaches one is refused.

/// Most certificates of a chain.
pub(super) const MAX_CERTIFICATES: usize = 16;
/// Most bytes of a chain.
pub(super) const MAX_BYTES: usize = 128 * 1024;
/// Most elements of DER in the certificates of a chain, together.
pub(super) const MAX_ELEMENTS: usize = 2560;
/// Most candidate paths that are tried.
pub(super) const MAX_PATHS: usize = 8;
/// Most intermediates of a path: webpki takes no longer one.
pub(super) const MAX_INTERMEDIATES: usize = 6;
/// Most intermediates of one subject that are tried for a certificate.
pub(super) const MAX_OF_ONE_SUBJECT: usize = 4;
/// Most signatures that are verified.
pub(super) const MAX_SIGNATURES: u32 = 32;
/// The effort, of reading and verifying together, after which no further path is tried.
pub(super) const MAX_EFFORT: u64 = 1_000_000;
/// Most comparisons of an alternative name with a name constraint.
pub(super) const MAX_NAME_COMPARISONS: usize = 16 * 1024;
