//! Formats of reports that other programs read.

pub(crate) mod sarif;
