//! What two gates say to each other while one takes over from the other.
//!
//! The new process begins, and each waits for the other's answer: Hello, Offer, Ready, Handed,
//! Serving, Yours. Keys, tokens and remembered answers are never said: the new process reads its
//! own files and asks again.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::super::leaving::Leaving;
use super::super::notify::ServiceManager;
use crate::seal::{Exemption, Seal};

/// The version of the conversation. Fields that a reader does not know are ignored, so it is only counted up
/// when a gate that does not know the change must not take over. A new field of [`Exemption`] is such a
/// change: that is read strictly, since it is a file as well.
pub(super) const VERSION: u32 = 1;

/// What the new process says.
#[derive(Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub(super) enum NewSays {
    /// It wants to take over.
    Hello {
        /// Its [`VERSION`].
        version: u32,
    },
    /// It has read every file and made every part: it needs the sockets alone.
    Ready,
    /// It accepts connections on the sockets.
    Serving,
}

/// What the old process says.
#[derive(Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub(super) enum OldSays {
    /// What the new process needs to make its parts.
    Offer {
        /// By what the seal knows the old process' connections to the kubelet. With the same one, the new
        /// process needs no other rules. Its mark is a secret: not for the log.
        exemption: Option<Exemption>,
        /// Which service manager the old process tells.
        manager: ServiceManager,
    },
    /// The sockets are in this message: first the listeners, then the connections of
    /// the processes that leave.
    Handed(Handed),
    /// It does not hand over, or no longer.
    Refused {
        /// Why, for the operator.
        why: String,
    },
    /// The new process is the gate. The old one leaves.
    Yours,
}

/// What comes with the sockets.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Handed {
    /// How many of the descriptors are listeners.
    pub(super) listeners: usize,
    /// The addresses that the old process has let go of, so that a kubelet can bind them. The new process
    /// does not bind them either, until a kubelet runs that does not want them.
    pub(super) let_go: Vec<SocketAddr>,
    /// What the processes that leave have said last, in the order of their connections.
    pub(super) leaving: Vec<Leaving>,
    /// The seal, as the old process found it last.
    pub(super) seal: Seal,
}
