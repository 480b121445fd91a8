//! skeleton
pub mod audit;
pub mod cache;
pub mod settings;
