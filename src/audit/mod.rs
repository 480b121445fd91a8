//! Station 7: one `audit.k8s.io/v1` event per request, as a JSON line.
//!
//! ```text
//!   reserve ──► Slot ──► write(&Event) ──► shared buffer ──► one OS thread ──► file or standard output
//!   before anything       at the end,        lines, one          every 50 ms, at 256 KiB,
//!   is forwarded          or on drop         after another       or at once in blocking mode
//! ```
//!
//! - A [`Slot`] is reserved before a request is forwarded: however the request ends, there is room for its
//!   event. Writing with a slot never waits and never fails, so it can be done in a `Drop`.
//! - What a source or a user causes beyond a rate is counted, and written as a summary every ten seconds:
//!   no client can fill the disk, nor push out the evidence on it.
//! - An [`Event`] borrows everything from the request and is written straight into the shared buffer, without
//!   an allocation, a channel or a wake-up per event.
//! - `audit.mode: batch` drops events when the queue is full, and counts them. `blocking` makes requests
//!   wait, first for room ([`Audit::reserve_blocking`]) and then for the file ([`Slot::write_and_wait`]).
//!
//! The kubelet writes no audit events. The fields are those of an API server's log at level Metadata.

mod error;
mod event;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod notice;
mod queue;
mod rates;
mod redaction;
mod sink;
mod summary;
mod text;
mod writer;

pub use error::AuditError;
pub(crate) use event::{AuditId, Decision, Event, EventRate, EventStage, ObjectRef, StreamEnd, UserJson};
pub(crate) use queue::Holder;
pub use writer::AuditThread;
pub(crate) use writer::{Audit, Slot};

#[cfg(test)]
mod tests;
