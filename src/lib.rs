//! skeleton
#[cfg(feature = "lab")]
pub mod lab;
