//! skeleton
pub mod settings;
