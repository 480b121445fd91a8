//! The values of `--output`.

use clap::ValueEnum;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum Output {
    /// One JSON document.
    Json,
    /// Text for people.
    #[default]
    #[value(alias = "text")]
    Table,
}

/// How a report on a node is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum ReportFormat {
    /// One JSON document.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Text for people.
    #[default]
    Table,
}
