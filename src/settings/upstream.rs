//! `upstream`: where the kubelet is, how it proves itself, and what it is shown.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::document::quoted;
use super::file;
use super::reading::{Reading, is_loopback};
use super::writing;

/// The kubelet's read-only port: no authentication, no TLS, and to be closed rather than fronted.
const READ_ONLY_PORT: u16 = 10255;

/// `upstream`: the kubelet behind the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// `upstream.url`.
    pub url: UpstreamUrl,
    /// How the kubelet proves itself; `None` only for `http://` and `unix://`.
    pub trust: Option<UpstreamTrust>,
    /// What the gate shows a kubelet that authenticates.
    pub credentials: UpstreamCredentials,
}

/// Where the kubelet is.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamUrl {
    /// `http://IP:PORT`, loopback only.
    Http(SocketAddr),
    /// `https://IP:PORT`.
    Https(SocketAddr),
    /// `unix:///PATH`, plain HTTP over a socket.
    Unix(PathBuf),
}

/// How the kubelet's serving certificate is judged.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamTrust {
    /// `upstream.caFile` + `upstream.serverName`: an ordinary chain to these CAs for this name.
    Ca {
        /// PEM bundle.
        ca_file: PathBuf,
        /// DNS name or IP address in the certificate.
        server_name: String,
    },
    /// `upstream.certificateFile`: exactly this certificate's key.
    Pinned(PathBuf),
}

/// `upstream.clientCertificateFile`/`clientKeyFile` and/or `upstream.tokenFile`; this node's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamCredentials {
    /// Certificate file and key file (PEM).
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
    /// `upstream.allowFleetCredential`: they may be good for other nodes' kubelets too.
    pub allow_fleet: bool,
}

// === impl Upstream ===

impl Upstream {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Upstream) -> Self {
        let url = url(reading, file);
        let trust = match &url {
            Some(UpstreamUrl::Https(_)) => trust(reading, file),
            Some(plain) => {
                unwanted(reading, file, plain);
                None
            }
            None => None,
        };
        let certificate = reading.path("upstream.clientCertificateFile", &file.client_certificate_file);
        let key = reading.path("upstream.clientKeyFile", &file.client_key_file);
        if certificate.is_some() != key.is_some() {
            let (missing, present) = if key.is_none() {
                ("upstream.clientKeyFile", "upstream.clientCertificateFile")
            } else {
                ("upstream.clientCertificateFile", "upstream.clientKeyFile")
            };
            reading.refuse(
                missing,
                format!("is missing, though {present} is there; name both or neither"),
            );
        }
        Self {
            // This address is never used: a URL that could not be read is a problem.
            url: url.unwrap_or(UpstreamUrl::Unix(PathBuf::new())),
            trust,
            credentials: UpstreamCredentials {
                client_certificate: certificate.zip(key),
                token_file: reading.path("upstream.tokenFile", &file.token_file),
                allow_fleet: file.allow_fleet_credential,
            },
        }
    }

    pub(super) fn write(&self) -> file::Upstream {
        let (certificate_file, ca_file, server_name) = match &self.trust {
            Some(UpstreamTrust::Pinned(certificate)) => {
                (writing::path(certificate), String::new(), String::new())
            }
            Some(UpstreamTrust::Ca { ca_file, server_name }) => {
                (String::new(), writing::path(ca_file), server_name.clone())
            }
            None => Default::default(),
        };
        let client = self.credentials.client_certificate.as_ref();
        file::Upstream {
            url: match &self.url {
                UpstreamUrl::Http(address) => format!("http://{address}"),
                UpstreamUrl::Https(address) => format!("https://{address}"),
                UpstreamUrl::Unix(socket) => format!("unix://{}", socket.display()),
            },
            allow_remote: matches!(self.url, UpstreamUrl::Https(address) if !is_loopback(address.ip())),
            certificate_file,
            ca_file,
            server_name,
            client_certificate_file: writing::optional(client.map(|(certificate, _)| certificate)),
            client_key_file: writing::optional(client.map(|(_, key)| key)),
            token_file: writing::optional(self.credentials.token_file.as_ref()),
            allow_fleet_credential: self.credentials.allow_fleet,
        }
    }
}

fn url(reading: &mut Reading<'_>, file: &file::Upstream) -> Option<UpstreamUrl> {
    const KEY: &str = "upstream.url";
    const FORMS: &str = "write https://127.0.0.1:10250, http://127.0.0.1:PORT or unix:///PATH";
    let text = file.url.as_str();
    // A password in the URL is refused, and not shown either.
    let shown = match text.rsplit_once('@') {
        Some((_, rest)) => quoted(&format!("…@{rest}")),
        None => quoted(text),
    };
    if text.is_empty() {
        reading.refuse(KEY, format!("is missing; {FORMS}"));
        return None;
    }
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') || path.ends_with('/') {
            reading.refuse(
                KEY,
                format!("{shown} does not name a socket by an absolute path; write unix:///PATH"),
            );
            return None;
        }
        return Some(UpstreamUrl::Unix(path.into()));
    }
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => {
            reading.refuse(
                KEY,
                format!("{shown} is not a URL that the gate can forward to; {FORMS}"),
            );
            return None;
        }
    };
    let Ok(address) = rest.strip_suffix('/').unwrap_or(rest).parse::<SocketAddr>() else {
        let scheme = if tls { "https" } else { "http" };
        reading.refuse(
            KEY,
            format!(
                "{shown} is not made of scheme, IP address and port alone; write {scheme}://127.0.0.1:10250 \
                 (an address rather than a name, so that no resolver decides where requests go)"
            ),
        );
        return None;
    };
    let before = reading.problems.len();
    if address.port() == READ_ONLY_PORT {
        reading.refuse(
            KEY,
            format!(
                "{shown} is the kubelet's read-only port, which authenticates no caller and serves pods and \
                 metrics to all: a gate in front of it would keep open what is to be closed; write the \
                 kubelet's own port, such as https://127.0.0.1:10250, and set the kubelet's readOnlyPort to 0"
            ),
        );
    } else if address.port() == 0 || address.ip().is_unspecified() {
        reading.refuse(
            KEY,
            format!("{shown} is nothing to connect to; write https://127.0.0.1:10250"),
        );
    } else if !is_loopback(address.ip()) && !tls {
        reading.refuse(
            KEY,
            format!(
                "{shown} would send requests and credentials unencrypted to another address; write \
                 https://{address} with upstream.allowRemote: true, or a loopback address"
            ),
        );
    } else if !is_loopback(address.ip()) && !file.allow_remote {
        reading.refuse(
            KEY,
            format!(
                "{shown} is not a loopback address: a kubelet reachable there can be reached around the \
                 gate; bind the kubelet to 127.0.0.1 and write https://127.0.0.1:{}, or set \
                 upstream.allowRemote: true",
                address.port()
            ),
        );
    }
    let url = if tls {
        UpstreamUrl::Https(address)
    } else {
        UpstreamUrl::Http(address)
    };
    (reading.problems.len() == before).then_some(url)
}

fn trust(reading: &mut Reading<'_>, file: &file::Upstream) -> Option<UpstreamTrust> {
    const WAYS: &str = "name the kubelet's serving certificate in upstream.certificateFile, or a CA in \
                        upstream.caFile and the certificate's name in upstream.serverName";
    let pin = reading.path("upstream.certificateFile", &file.certificate_file);
    let ca = reading.path("upstream.caFile", &file.ca_file);
    let name = Some(file.server_name.as_str()).filter(|name| !name.is_empty());
    match (pin, ca, name) {
        (Some(pin), None, None) => Some(UpstreamTrust::Pinned(pin)),
        (None, Some(ca_file), Some(name)) => {
            if ServerName::try_from(name).is_err() {
                reading.refuse(
                    "upstream.serverName",
                    format!(
                        "{} is neither a DNS name nor an IP address; write one",
                        quoted(name)
                    ),
                );
            }
            Some(UpstreamTrust::Ca {
                ca_file,
                server_name: name.to_owned(),
            })
        }
        (None, None, None) => {
            reading.refuse(
                "upstream.certificateFile",
                format!("is missing: https must be verified; {WAYS}"),
            );
            None
        }
        (Some(_), ..) => {
            let other = if file.ca_file.is_empty() {
                "upstream.serverName"
            } else {
                "upstream.caFile"
            };
            reading.refuse(
                "upstream.certificateFile",
                format!("contradicts {other}: there is one way; {WAYS}"),
            );
            None
        }
        (None, Some(_), None) => {
            reading.refuse(
                "upstream.serverName",
                format!("is missing, though upstream.caFile is there; {WAYS}"),
            );
            None
        }
        (None, None, Some(_)) => {
            reading.refuse(
                "upstream.caFile",
                format!("is missing, though upstream.serverName is there; {WAYS}"),
            );
            None
        }
    }
}

/// What belongs to TLS would be ignored without it, and so is refused.
fn unwanted(reading: &mut Reading<'_>, file: &file::Upstream, url: &UpstreamUrl) {
    let scheme = if matches!(url, UpstreamUrl::Unix(_)) {
        "unix://"
    } else {
        "http://"
    };
    for (key, value) in [
        ("upstream.certificateFile", &file.certificate_file),
        ("upstream.caFile", &file.ca_file),
        ("upstream.serverName", &file.server_name),
        ("upstream.clientCertificateFile", &file.client_certificate_file),
        ("upstream.clientKeyFile", &file.client_key_file),
    ] {
        if !value.is_empty() {
            reading.refuse(
                key,
                format!(
                    "{} belongs to TLS, but upstream.url is {scheme}; remove it or write https://",
                    quoted(value)
                ),
            );
        }
    }
}
