//! One probe: a connection of its own, a request head as it stands in the table, and the status of the answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::table::{Credential, Port, Probe};
use super::{Answer, stranger};

/// A rule that drops says nothing for ever. A first packet that is lost is sent again after one second, and after three.
const DIAL: Duration = Duration::from_millis(3500);
/// It looks like a service account's, and its signature is nobody's.
const GARBAGE: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6Im5vYm9keSJ9.eyJzdWIiOiJrdWJlbGV0LWdhdGUtcHJvdmUifQ.bm9ib2R5";

/// Sends probes.
pub(super) struct Prober {
    nobody: TlsConnector,
    stranger: TlsConnector,
    token: Option<String>,
    answer_within: Duration,
}

impl Prober {
    pub(super) fn new(token: Option<&str>, answer_within: Duration) -> io::Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = || -> io::Result<_> {
            let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?;
            // An attacker verifies nobody. No secret goes over this connection but the token, to the node itself.
            let verifier = Arc::new(Anybody(Arc::clone(&provider)));
            Ok(versions.dangerous().with_custom_certificate_verifier(verifier))
        };
        let shown = Arc::new(Shown(stranger::certified_key()?));
        Ok(Arc::new(Self {
            nobody: TlsConnector::from(Arc::new(config()?.with_no_client_auth())),
            stranger: TlsConnector::from(Arc::new(config()?.with_client_cert_resolver(shown))),
            token: token.map(str::to_owned),
            answer_within,
        }))
    }

    pub(super) async fn send(&self, probe: &Probe, address: SocketAddr) -> Answer {
        let stream = match self.dial(address).await {
            Ok(stream) => stream,
            Err(answer) => return answer,
        };
        let head = self.head(probe, address);
        let answered = async {
            if probe.port != Port::Secure {
                return exchange(stream, &head).await;
            }
            let connector = match probe.credential {
                Credential::ForeignCertificate => &self.stranger,
                _ => &self.nobody,
            };
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            exchange(stream, &head).await
        };
        match timeout(self.answer_within, answered).await {
            Ok(Ok(status)) if probe.reaches.contains(&status) => Answer::Status(status),
            // Whoever is overloaded, or cannot ask the API server, has not refused anything.
            Ok(Ok(status @ (429 | 500..=599))) => Answer::Unknown(format!("{status}")),
            Ok(Ok(status)) => Answer::Status(status),
            Ok(Err(error)) if wants_a_certificate(&error) => Answer::Failed(error.to_string()),
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown(format!("no answer within {:?}", self.answer_within)),
        }
    }

    /// A connection.
    ///
    /// # Errors
    /// There is none: what that shows.
    pub(super) async fn dial(&self, address: SocketAddr) -> Result<TcpStream, Answer> {
        match timeout(DIAL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(not_connected(&error)),
            Err(_) => Err(Answer::Silent),
        }
    }

    /// Written by hand, since every HTTP library would tidy the path.
    fn head(&self, probe: &Probe, address: SocketAddr) -> String {
        let Probe { method, path, .. } = probe;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kubelet-gate-prove\r\n");
        match (probe.credential, &self.token) {
            (Credential::GarbageToken, _) => head += &format!("Authorization: Bearer {GARBAGE}\r\n"),
            (Credential::Token, Some(token)) => head += &format!("Authorization: Bearer {token}\r\n"),
            _ => {}
        }
        if *method == "POST" {
            head += "Content-Length: 0\r\n";
        }
        head += if probe.websocket {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: a3ViZWxldC1nYXRlLXByMQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        };
        head
    }
}

/// The words of nobody and of rules that refuse are told from what went wrong on this side.
fn not_connected(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable => Answer::Refused,
        io::ErrorKind::TimedOut => Answer::Silent,
        _ => Answer::Unknown(error.to_string()),
    }
}

/// Whether the other end has ended the handshake, or what followed, for want of a certificate that it likes. Any other end, such
/// as for want of a cipher in common, shows only that this program cannot talk to it.
fn wants_a_certificate(error: &io::Error) -> bool {
    use rustls::AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, UnknownCA, UnsupportedCertificate,
    };
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(
        error,
        Some(rustls::Error::AlertReceived(
            AccessDenied
                | BadCertificate
                | CertificateExpired
                | CertificateRequired
                | CertificateRevoked
                | CertificateUnknown
                | UnknownCA
                | UnsupportedCertificate
        ))
    )
}

/// Sends the head and reads the status line; what follows is left unread.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> io::Result<u16> {
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await
    };
    // Whoever has refused already takes no more, and what it said is still to be read.
    let sent = sent.await;
    let mut line = [0; 12];
    match stream.read_exact(&mut line).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            sent?;
            return Err(io::Error::other("the connection ended without an answer"));
        }
        read => read?,
    };
    let status = std::str::from_utf8(&line).ok().and_then(|line| {
        let (version, status) = line.split_once(' ')?;
        version.starts_with("HTTP/1.").then(|| status.parse().ok())?
    });
    status.ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Takes every server for what it says.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Shows the stranger's certificate, whichever CAs the server would like.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
