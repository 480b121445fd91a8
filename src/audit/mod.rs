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
//! - An [`Event`] borrows everything from the request and is written straight into the shared buffer, without
//!   an allocation, a channel or a wake-up per event.
//! - `audit.mode: batch` drops events when the queue is full, and counts them. `blocking` makes requests
//!   wait, first for room ([`Audit::reserve_blocking`]) and then for the file ([`Slot::write_and_wait`]).
//!
//! The kubelet writes no audit events. The fields are those of an API server's log at level Metadata.

mod event;
mod redaction;
mod writer;

pub(crate) use event::{AuditId, Decision, Event, EventStage, ObjectRef, StreamEnd, UserJson};
pub(crate) use writer::{Audit, Slot};
pub use writer::{AuditError, AuditThread};

#[cfg(test)]
mod tests;
