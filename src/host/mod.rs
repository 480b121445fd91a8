//! What this machine's kernel says: sockets, addresses, network namespaces, processes, the host's name.

mod addresses;
pub(crate) mod children;
mod connection_owners;
pub(crate) mod helper;
mod mark;
mod namespace;
pub(crate) mod netfilter;
mod running_process;
pub(crate) mod sandbox;
pub mod sockets;
mod translated;
mod wire;

pub use self::addresses::addresses;
pub(crate) use self::connection_owners::ConnectionOwners;
pub(crate) use self::helper::Helper;
pub use self::mark::Mark;
pub use self::namespace::{Namespace, as_user, in_network_of, ip};
pub(crate) use self::running_process::RunningProcess;
pub use self::sandbox::SandboxError;
pub use self::translated::{Translated, translated_to};
pub use self::wire::{Unreached, Wire};

use crate::files::{self, DOCUMENT};

/// The host's name, trimmed and in lower case; `None` if it cannot be read.
pub(crate) fn host_name() -> Option<String> {
    let name = files::read_text("/proc/sys/kernel/hostname", DOCUMENT).ok()?;
    Some(name.trim().to_lowercase())
}
