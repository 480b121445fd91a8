//! Station 7: one `audit.k8s.io/v1` event per request, as a JSON line.
//!
//! ```text
//!   reserve ──► Slot ──► write(&Event) ──► shared buffer ──► one OS thread ──► file or standard output
//!   before anything       at the end,        lines, one          every 50 ms, at 256 KiB,
//!   is forwarded          or on drop         after another       or at once in blocking mode
//! ```
//!
//! - A [`Slot`] is reserved before a request is forwarded, so that whatever becomes of the request afterwards, room
//!   for its event is there. Writing with it never waits and never fails, and so it can be done in a `Drop`.
//! - [`Event`] borrows everything from the request and is written straight into the shared buffer: no allocation, no
//!   channel, no wake-up per event.
//! - `audit.mode: batch` drops events when the queue is full and counts them; `blocking` makes requests wait, first
//!   for room ([`Audit::reserve_blocking`]) and then for the file ([`Slot::write_and_wait`]).
//!
//! The kubelet itself writes no audit events; the fields are those of an API server's log at level Metadata.

mod event;
mod redaction;
mod writer;

pub use event::{AuditId, Decision, Event, EventStage, ObjectRef, StreamEnd, UserJson};
pub use writer::{Audit, AuditError, AuditThread, Slot};

#[cfg(test)]
mod tests;
