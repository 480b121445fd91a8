//! What a kubelet is open to: its effective options and certificates, judged by the CIS benchmark's section
//! 4.2 and by what matters to a gate in front of it; and what of it the gate makes up for.
//!
//! ```text
//! inspection      all checks of one kubelet                            inspection.rs
//! options         the checks of its options, judged by                 options.rs
//!                   who gets in and what they may do                   access.rs
//!                   exec, attach and port-forward                      streams.rs
//!                   certificates and ciphers                           tls.rs
//!                   pods and the node                                  workload.rs
//! named_files     whether the files that options name can be used       named_files.rs
//! certificates    how long they live, and for which names              certificates.rs
//! permissions     modes and owners of files                            permissions.rs
//! address_deny    systemd's IPAddressDeny                              address_deny.rs
//! route_localnet  whether loopback is routed                           route_localnet.rs
//! next_start      whether the unit starts what runs                     next_start.rs
//! socket_unit     the gate's own socket unit                            socket_unit.rs
//! node            what the node is called                              node.rs
//! check           a check, its verdict, and what a gate means for it   check.rs
//! ```

mod access;
mod address_deny;
mod addresses;
mod certificates;
mod check;
mod defaults;
mod inspection;
mod named_files;
mod next_start;
mod node;
mod options;
mod permissions;
mod route_localnet;
mod socket_unit;
mod streams;
mod tls;
mod workload;

pub use self::certificates::{Certificate, CertificateRole};
pub use self::check::{Check, Compensation, Verdict};
pub use self::inspection::Inspection;
