//! The texts that several scenes look for in an answer, and names of callers.

/// A secret in a pod's environment: an answer with it contains `/pods`.
pub(super) const PODS: &str = "STRIPE_API_KEY";
/// The output of `id`: an answer with it shows that the command ran.
pub(super) const ROOT: &str = "uid=0(root)";
pub(super) const UNAUTHORIZED: &str = "Unauthorized";
pub(super) const API_SERVER: &str = "the API server (certificate)";
pub(super) const NO_CREDENTIALS: &str = "no credentials";
