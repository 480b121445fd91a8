//! Station 1: the TLS port. Connections are accepted, counted, and handed to a worker thread.

mod accept;
mod connection;
mod io;
mod port;
mod streams;
mod turns;
mod worker;
mod workers;

pub(crate) use self::accept::Acceptor;
pub(crate) use self::port::TlsPort;
pub(crate) use self::workers::Workers;
