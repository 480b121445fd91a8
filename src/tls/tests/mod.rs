//! Handshakes in memory with certificates made by the test, and the judgement of the chains that they carry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::config::{certified_key_from_pem, server_config};
use super::*;

mod direct;
mod forged;
mod handshakes;
mod judgement;
mod revocation;
mod strings;
mod work;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A CA that issues the certificates of a test.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

struct Leaf {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

// === impl Authority ===

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn new(name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap(), edit)
    }

    fn with_key(name: &str, key: KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Self::params(name);
        edit(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            params,
            key,
            certificate,
        }
    }

    /// An intermediate CA below this one.
    fn below(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Self::params(name);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn issue(&self, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.issue_for(KeyPair::generate().unwrap(), edit)
    }

    fn issue_for(&self, key: KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(vec!["kubelet.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "metrics-bot");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        Leaf { certificate, key }
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(vec![self.certificate.clone()], 7).unwrap())
    }
}

impl Trust {
    /// The verdict alone.
    fn verdict(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Judged, Refusal> {
        self.judge(chain, now).0.map_err(|refused| refused.refusal)
    }
}

// === impl Leaf ===

impl Leaf {
    fn pair(&self) -> Arc<CertifiedKey> {
        certified_key(vec![self.certificate.clone()], private_key(&self.key)).unwrap()
    }

    /// The same certificate as X.509 v1, as `openssl x509 -req` makes it without extensions: signed again
    /// without version and extensions.
    fn into_version1(self, authority: &Authority) -> Self {
        fn element(tag: u8, content: &[u8]) -> Vec<u8> {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            let head = if content.len() < 128 {
                vec![tag, length[1]]
            } else {
                vec![tag, 0x82, length[0], length[1]]
            };
            let head = if (128..256).contains(&content.len()) {
                vec![tag, 0x81, length[1]]
            } else {
                head
            };
            [&head, content].concat()
        }
        let parts = encoding::elements(encoding::only(&self.certificate, 0x30).unwrap()).unwrap();
        let fields = encoding::elements(parts[0].content).unwrap();
        assert_eq!(
            (fields[0].tag, fields[7].tag),
            (0xa0, 0xa3),
            "version and extensions"
        );
        let fields = fields[1..7]
            .iter()
            .map(|field| element(field.tag, field.content))
            .collect::<Vec<_>>();
        let to_be_signed = element(0x30, &fields.concat());
        let signature = authority.key.sign(&to_be_signed).unwrap();
        let signature = element(0x03, &[&[0], &signature[..]].concat());
        let algorithm = element(parts[1].tag, parts[1].content);
        let certificate = element(0x30, &[to_be_signed, algorithm, signature].concat());
        Self {
            certificate: certificate.into(),
            key: self.key,
        }
    }
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// A client that trusts `server` and presents the certificate of `client`.
fn client_config(
    version: &'static SupportedProtocolVersion,
    server: &Authority,
    client: Option<Arc<dyn ResolvesClientCert>>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(server.certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(config::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    match client {
        Some(client) => builder.with_client_cert_resolver(client),
        None => builder.with_no_client_auth(),
    }
}

fn shows(pair: Arc<CertifiedKey>) -> Option<Arc<dyn ResolvesClientCert>> {
    Some(Arc::new(SingleCertAndKey::from(pair)))
}

/// What the server knows after a handshake and one byte in each direction.
#[derive(Debug)]
struct Met {
    chain: Vec<CertificateDer<'static>>,
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
}

async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<Met, (io::Error, io::Error)> {
    let (near, far) = duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(near).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        let connection = stream.get_ref().1;
        Ok::<_, io::Error>(Met {
            chain: connection.peer_certificates().unwrap_or_default().to_vec(),
            version: connection.protocol_version().unwrap(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            kind: connection.handshake_kind().unwrap(),
        })
    };
    let connect = async {
        let name = ServerName::try_from("kubelet.example").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, far).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await?;
        Ok::<_, io::Error>(())
    };
    match tokio::join!(accept, connect) {
        (Ok(met), Ok(())) => Ok(met),
        (Err(server), Err(client)) => Err((server, client)),
        (Err(server), Ok(())) => Err((server, io::ErrorKind::Other.into())),
        (Ok(_), Err(client)) => Err((io::ErrorKind::Other.into(), client)),
    }
}

fn serving(authority: &Authority) -> Leaf {
    authority.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
}

fn gate(authority: &Authority, trust: Option<&Arc<Trust>>, mode: ClientCertificates) -> Arc<ServerConfig> {
    server_config(serving(authority).pair(), trust, mode, TlsVersion::Tls12, &[]).unwrap()
}

/// A leaf with CA:TRUE.
fn ca_leaf(authority: &Authority) -> Leaf {
    authority.issue(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = Vec::new();
    })
}

/// Presents `leaf` to a gate that trusts `authority`, over both versions, and judges the chain that arrives.
async fn shown_and_judged(authority: &Authority, leaf: &Leaf) -> Result<Judged, Refusal> {
    let trust = authority.trust();
    let server = gate(authority, Some(&trust), ClientCertificates::Request);
    let mut verdicts = Vec::new();
    let now = SystemTime::now();
    for version in VERSIONS {
        let client = Arc::new(client_config(version, authority, shows(leaf.pair())));
        let met = handshake(&server, &client).await.unwrap();
        assert_eq!(met.version, version.version);
        assert_eq!(met.chain, std::slice::from_ref(&leaf.certificate));
        verdicts.push(trust.verdict(&met.chain, now));
    }
    assert_eq!(verdicts[0], verdicts[1], "the TLS version makes no difference");
    verdicts.remove(0)
}
