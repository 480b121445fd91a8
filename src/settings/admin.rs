//! `admin`: the gate's own port and socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::document::quoted;
use super::file;
use super::reading::{Reading, is_loopback};
use super::writing;

/// What a file says for "in `firewall.runDirectory`".
const AUTO: &str = "auto";
/// The socket in `firewall.runDirectory`.
const SOCKET: &str = "admin.sock";
/// The longest path of a socket, in bytes: the kernel's `sun_path` with a zero at its end.
const LONGEST_PATH: usize = 107;

/// `admin`.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `admin.listen`: the gate's own `/livez`, `/readyz`, `/metrics`; `None` (written `""`) means no port.
    pub listen: Option<SocketAddr>,
    /// `admin.socket`: the same on a unix socket.
    pub socket: AdminSocket,
    /// `admin.group`: the group that may use the socket.
    pub group: Option<String>,
    /// `admin.hosts`: names in `Host` that are answered, beside `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// `admin.socket`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdminSocket {
    /// `""`: none.
    Off,
    /// `auto`: `admin.sock` in `firewall.runDirectory`, if that can be.
    InRunDirectory,
    /// At this path.
    At(PathBuf),
}

// === impl Admin ===

impl Admin {
    pub(super) fn read(reading: &mut Reading<'_>, file: file::Admin) -> Self {
        Self {
            listen: listen(reading, &file.listen),
            socket: match file.socket.as_str() {
                "" => AdminSocket::Off,
                AUTO => AdminSocket::InRunDirectory,
                text => AdminSocket::At(socket(reading, text)),
            },
            group: Some(file.group).filter(|group| !group.is_empty()),
            hosts: hosts(reading, file.hosts),
        }
    }

    pub(super) fn write(&self) -> file::Admin {
        file::Admin {
            listen: self.listen.map(|address| address.to_string()).unwrap_or_default(),
            socket: match &self.socket {
                AdminSocket::Off => String::new(),
                AdminSocket::InRunDirectory => AUTO.to_owned(),
                AdminSocket::At(path) => writing::path(path),
            },
            group: self.group.clone().unwrap_or_default(),
            hosts: self.hosts.clone(),
        }
    }
}

// === impl AdminSocket ===

impl AdminSocket {
    /// Its path; `None` if there is none.
    #[must_use]
    pub fn path(&self, run_directory: &Path) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::InRunDirectory => Some(run_directory.join(SOCKET)),
            Self::At(path) => Some(path.clone()),
        }
    }
}

fn listen(reading: &mut Reading<'_>, text: &str) -> Option<SocketAddr> {
    if text.is_empty() {
        return None;
    }
    let address = reading.address("admin.listen", text)?;
    if !is_loopback(address.ip()) {
        reading.refuse(
            "admin.listen",
            format!(
                "{} is not a loopback address, and this port authenticates no client; write 127.0.0.1:19250, \
                 or \"\" for none",
                quoted(text)
            ),
        );
    }
    Some(address)
}

fn socket(reading: &mut Reading<'_>, text: &str) -> PathBuf {
    let path = reading.path("admin.socket", text).unwrap_or_default();
    if path.as_os_str().len() > LONGEST_PATH {
        reading.refuse(
            "admin.socket",
            format!(
                "{} is longer than the {LONGEST_PATH} bytes that the kernel takes; write a shorter path",
                quoted(&path.display().to_string())
            ),
        );
    }
    path
}

/// Host names without a port. They are compared without regard to case.
fn hosts(reading: &mut Reading<'_>, names: Vec<String>) -> Vec<String> {
    for (index, name) in names.iter().enumerate() {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(known) {
            reading.refuse(
                &format!("admin.hosts[{index}]"),
                format!(
                    "{} is not the name of a host; write it alone, without a port, such as node-1.example",
                    quoted(name)
                ),
            );
        }
    }
    names
}
