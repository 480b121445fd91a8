//! What the gate's listener is made of: its files, its versions and suites, and what it asks of clients.

use std::path::PathBuf;

use rustls::CipherSuite;

use crate::named::Named;

/// The keys of the configuration that the listener's TLS depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct ServingOptions {
    /// `tlsCertFile`: PEM chain, leaf first.
    pub cert_file: PathBuf,
    /// `tlsPrivateKeyFile`: PEM key.
    pub private_key_file: PathBuf,
    /// `tlsMinVersion`.
    pub min_version: TlsVersion,
    /// `tlsCipherSuites`: the suites to offer, as [`super::cipher_suite`] finds them; empty means all.
    pub cipher_suites: Vec<CipherSuite>,
    /// `authentication.x509.clientCAFile`; `None` means that no certificate is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// `authentication.x509.clientCertificates`.
    pub client_certificates: ClientCertificates,
    /// `authentication.x509.crlFiles`: what the CAs have revoked; only with `client_ca_file`.
    pub crl_files: Vec<PathBuf>,
    /// `authentication.x509.legacyV1Certificates`: X.509 v1 client certificates are accepted.
    pub legacy_v1_certificates: bool,
}

/// The least TLS version that is offered.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What a client without a good certificate meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientCertificates {
    /// A certificate is asked for and judged after the handshake, as in the kubelet.
    Request,
    /// A handshake without a certificate of a known CA fails.
    Require,
}

impl Named for TlsVersion {
    const NAMES: &'static [(&'static str, Self)] =
        &[("VersionTLS12", Self::Tls12), ("VersionTLS13", Self::Tls13)];
}

impl Named for ClientCertificates {
    const NAMES: &'static [(&'static str, Self)] = &[("Request", Self::Request), ("Require", Self::Require)];
}
