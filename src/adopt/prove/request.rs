//! One probe: a connection of its own, a request head as it stands in the table, and the status of the
//! answer.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
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

use super::build::KubeletBuild;
use super::report::ProbeAnswer;
use super::stranger;
use super::table::{Port, Probe, ProbeCredential};

/// A dropping firewall rule never answers. A lost first packet is sent again after one second, and after
/// three.
const DIAL: Duration = Duration::from_millis(3500);
/// It looks like a service account's token, and its signature is not valid.
const GARBAGE: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6Im5vYm9keSJ9.eyJzdWIiOiJrdWJlbGV0LWdhdGUtcHJvdmUifQ.bm9ib2R5";

/// Where the kubelet shows its metrics, its build among them.
const METRICS: &str = "/metrics";

/// Sends probes.
pub(super) struct Prober {
    no_certificate: TlsConnector,
    stranger: TlsConnector,
    token: Option<String>,
    answer_within: Duration,
    /// What the first kubelet that showed its metrics said of its build.
    build: OnceLock<KubeletBuild>,
}

impl Prober {
    pub(super) fn new(token: Option<&str>, answer_within: Duration) -> io::Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = || -> io::Result<_> {
            let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?;
            // An attacker verifies no server. The only secret on this connection is the token, sent to the
            // node itself.
            let verifier = Arc::new(AcceptAnyServer(Arc::clone(&provider)));
            Ok(versions.dangerous().with_custom_certificate_verifier(verifier))
        };
        let shown = Arc::new(FixedCertificate(stranger::certified_key()?));
        Ok(Arc::new(Self {
            no_certificate: TlsConnector::from(Arc::new(config()?.with_no_client_auth())),
            stranger: TlsConnector::from(Arc::new(config()?.with_client_cert_resolver(shown))),
            token: token.map(str::to_owned),
            answer_within,
            build: OnceLock::new(),
        }))
    }

    /// What a kubelet that showed its metrics said of its build.
    pub(super) fn build(&self) -> Option<KubeletBuild> {
        self.build.get().cloned()
    }

    pub(super) async fn send(&self, probe: &Probe, address: SocketAddr) -> ProbeAnswer {
        let stream = match self.dial(address).await {
            Ok(stream) => stream,
            Err(answer) => return answer,
        };
        let head = self.head(probe, address);
        // What is read after the status does not change the answer.
        let status = OnceLock::new();
        let answered = async {
            if probe.port != Port::Secure {
                return self.exchange(probe, address, stream, &head, &status).await;
            }
            let connector = match probe.credential {
                ProbeCredential::ForeignCertificate => &self.stranger,
                _ => &self.no_certificate,
            };
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            self.exchange(probe, address, stream, &head, &status).await
        };
        let answered = timeout(self.answer_within, answered).await;
        let answered = status.get().map_or(answered, |status| Ok(Ok(*status)));
        match answered {
            Ok(Ok(status)) if probe.reaches.contains(&status) => ProbeAnswer::Status(status),
            // An overloaded server, or one that cannot reach the API server, has not refused the request.
            Ok(Ok(status @ (429 | 500..=599))) => ProbeAnswer::Unknown(format!("{status}")),
            Ok(Ok(status)) => ProbeAnswer::Status(status),
            Ok(Err(error)) if wants_a_certificate(&error) => ProbeAnswer::Failed(error.to_string()),
            Ok(Err(error)) => ProbeAnswer::Unknown(error.to_string()),
            Err(_) => ProbeAnswer::Unknown(format!("no answer within {:?}", self.answer_within)),
        }
    }

    /// Sends the head and reads the status, and of metrics also what they say of the kubelet's build.
    async fn exchange(
        &self,
        probe: &Probe,
        address: SocketAddr,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        head: &str,
        seen: &OnceLock<u16>,
    ) -> io::Result<u16> {
        let status = exchange(&mut stream, head).await?;
        seen.get_or_init(|| status);
        if probe.path == METRICS
            && status == 200
            && self.build.get().is_none()
            && let Some(build) = KubeletBuild::read(address, &mut stream).await
        {
            self.build.get_or_init(|| build);
        }
        Ok(status)
    }

    /// A connection.
    ///
    /// # Errors
    /// There is none: what that shows.
    pub(super) async fn dial(&self, address: SocketAddr) -> Result<TcpStream, ProbeAnswer> {
        match timeout(DIAL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(not_connected(&error)),
            Err(_) => Err(ProbeAnswer::Silent),
        }
    }

    /// Written by hand: HTTP libraries would normalise the path.
    fn head(&self, probe: &Probe, address: SocketAddr) -> String {
        let Probe { method, path, .. } = probe;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kubelet-gate-prove\r\n");
        match (probe.credential, &self.token) {
            (ProbeCredential::GarbageToken, _) => head += &format!("Authorization: Bearer {GARBAGE}\r\n"),
            (ProbeCredential::Token, Some(token)) => head += &format!("Authorization: Bearer {token}\r\n"),
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

/// Tells a port without a listener, and a refusing firewall rule, from a fault on this side.
fn not_connected(error: &io::Error) -> ProbeAnswer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable => ProbeAnswer::Refused,
        io::ErrorKind::TimedOut => ProbeAnswer::Silent,
        _ => ProbeAnswer::Unknown(error.to_string()),
    }
}

/// Whether the server ended the connection because it did not accept the client certificate, or missed one.
/// Any other end, such as one for want of a common cipher, shows only that this program cannot talk to it.
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
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str) -> io::Result<u16> {
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await
    };
    // A server that has refused already reads no more; its answer is still there to be read.
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
    status.ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

/// Accepts every server certificate.
#[derive(Debug)]
struct AcceptAnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyServer {
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
struct FixedCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for FixedCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
