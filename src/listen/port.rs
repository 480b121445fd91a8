//! What the connections of the TLS port need.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gate::Gate;
use crate::settings::Limits;
use crate::tls::Serving;

/// What the connections of the TLS port need.
pub(crate) struct TlsPort {
    pub(crate) gate: Arc<Gate>,
    /// For handshakes: the serving pair and the client CAs in force.
    pub(crate) serving: Arc<ArcSwap<Serving>>,
    pub(crate) limits: Limits,
}
