//! Everything that a gate in front of an existing kubelet needs: its configuration, a systemd unit, and what
//! to do next. A value that is not found is left out and named as missing; none is guessed.
//!
//! ```text
//! draft          all files, as text                                       draft.rs
//! write          the same, put into a folder                              write.rs
//! configuration  kubelet-gate.yaml, each value with its source            configuration.rs
//! kubeconfig     a copy for a gate that finds its files elsewhere         kubeconfig.rs
//! next           NEXT.md: commands to paste, and the way back             next.rs
//! findings       what does not work as it is, and what may surprise       findings.rs
//! ```

mod configuration;
mod credential;
mod destination;
mod draft;
mod files;
mod findings;
mod kubeconfig;
mod listening;
mod next;
mod node_name;
mod paths;
mod serving;
mod text;
mod write;

pub(crate) use self::destination::{Destination, Naming};
pub(crate) use self::draft::Draft;
