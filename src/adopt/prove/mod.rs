//! Probing the node's own kubelet as known attack tools do, to see what gets through: before a gate stands
//! there, and after.
//!
//! The probes are a fixed [table](PROBES). None of them changes anything, no body is sent, none but that of
//! `/metrics` is read, and only this node's own addresses are ever dialled.
//!
//! ```text
//! run        sends the probes, side by side and address by address    run.rs
//! sides      the three places to send from                            sides.rs
//! request    one probe: a connection, a request head, a status        request.rs
//! build      the versions that a kubelet's metrics name               build.rs
//! report     what came back, and what that shows of a check           report.rs
//! summary    the same, grouped for printing                           summary.rs
//! saved      reports in files                                         saved.rs
//! table      the probes                                               table.rs
//! ```

mod build;
mod holders;
mod ports;
mod report;
mod request;
mod run;
mod saved;
mod sides;
mod stranger;
mod summary;
mod table;
mod token;

pub use self::build::KubeletBuild;
pub use self::ports::Ports;
pub(crate) use self::report::{API_VERSION, ReportChanges};
pub use self::report::{ProbeAnswer, ProbeOutcome, ProbeReport, Verified};
pub use self::run::{INTERVAL, Options, Progress, ProveError, prove};
pub(crate) use self::saved::ReportFile;
pub use self::sides::SideKind;
pub(crate) use self::summary::Exposure;
pub(crate) use self::table::Severity;
pub use self::table::{PROBES, Port, Probe, ProbeCredential};
pub use self::token::ProbeToken;
