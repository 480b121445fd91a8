//! The kubelet's flags, spelled and read as the kubelet reads them, for the keys they win over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::file::File;
use crate::duration;

/// The port of a kubelet that is given no other.
const KUBELET_PORT: u16 = 10250;

/// Flags that a kubelet has too. Each wins over its key in the configuration file; without it the file
/// decides, never the default that the kubelet's own flag has.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Flags of the kubelet, which win over the file")]
pub struct KubeletFlags {
    /// Let requests without credentials through to authorization, as system:anonymous
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = go_bool)]
    pub anonymous_auth: Option<bool>,

    /// PEM bundle of the CAs of client certificates
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<String>,

    /// Accept bearer tokens and ask the API server about them (TokenReview)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = go_bool)]
    pub authentication_token_webhook: Option<bool>,

    /// How long the API server's word about a token is remembered, such as 2m0s
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub authentication_token_webhook_cache_ttl: Option<Duration>,

    /// Webhook (SubjectAccessReview) or AlwaysAllow
    #[arg(long, value_name = "MODE")]
    pub authorization_mode: Option<String>,

    /// How long an allow is remembered, such as 5m0s
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub authorization_webhook_cache_authorized_ttl: Option<Duration>,

    /// How long a refusal is remembered, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<Duration>,

    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// PEM chain of the serving certificate, leaf first
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<String>,

    /// PEM key of the serving certificate
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<String>,

    /// VersionTLS12 or VersionTLS13
    #[arg(long, value_name = "VERSION")]
    pub tls_min_version: Option<String>,

    /// Go names of the TLS 1.2 cipher suites, separated by commas
    #[arg(long, value_name = "SUITES", value_delimiter = ',')]
    pub tls_cipher_suites: Option<Vec<String>>,

    /// Name of this node's Node object
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// The one address to listen on
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// The port to listen on
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Port of the tombstone, which answers 410, on the addresses listened on; 0 is none
    #[arg(long, value_name = "PORT")]
    pub read_only_port: Option<u16>,
}

// === impl KubeletFlags ===

impl KubeletFlags {
    /// Writes the flags that were given over the file's keys, and names each such key with its flag.
    ///
    /// `--address`, `--port` and `--read-only-port` combine with addresses that must be read first: see
    /// [`Self::listen`] and [`Self::read_only_listen`].
    pub(super) fn apply(&self, file: &mut File) -> BTreeMap<&'static str, &'static str> {
        let mut given = Given(BTreeMap::new());
        let authentication = &mut file.authentication;
        let authorization = &mut file.authorization;
        let ttl = |ttl: Option<Duration>| ttl.map(duration::format);
        given.over(
            ("authentication.anonymous.enabled", "--anonymous-auth"),
            &mut authentication.anonymous.enabled,
            self.anonymous_auth,
        );
        given.over(
            ("authentication.x509.clientCAFile", "--client-ca-file"),
            &mut authentication.x509.client_ca_file,
            self.client_ca_file.clone(),
        );
        given.over(
            ("authentication.webhook.enabled", "--authentication-token-webhook"),
            &mut authentication.webhook.enabled,
            self.authentication_token_webhook,
        );
        given.over(
            (
                "authentication.webhook.cacheTTL",
                "--authentication-token-webhook-cache-ttl",
            ),
            &mut authentication.webhook.cache_ttl,
            ttl(self.authentication_token_webhook_cache_ttl),
        );
        given.over(
            ("authorization.mode", "--authorization-mode"),
            &mut authorization.mode,
            self.authorization_mode.clone(),
        );
        given.over(
            (
                "authorization.webhook.cacheAuthorizedTTL",
                "--authorization-webhook-cache-authorized-ttl",
            ),
            &mut authorization.webhook.cache_authorized_ttl,
            ttl(self.authorization_webhook_cache_authorized_ttl),
        );
        given.over(
            (
                "authorization.webhook.cacheUnauthorizedTTL",
                "--authorization-webhook-cache-unauthorized-ttl",
            ),
            &mut authorization.webhook.cache_unauthorized_ttl,
            ttl(self.authorization_webhook_cache_unauthorized_ttl),
        );
        given.over(
            ("kubeconfig", "--kubeconfig"),
            &mut file.kubeconfig,
            self.kubeconfig.clone(),
        );
        given.over(
            ("tlsCertFile", "--tls-cert-file"),
            &mut file.tls_cert_file,
            self.tls_cert_file.clone(),
        );
        given.over(
            ("tlsPrivateKeyFile", "--tls-private-key-file"),
            &mut file.tls_private_key_file,
            self.tls_private_key_file.clone(),
        );
        given.over(
            ("tlsMinVersion", "--tls-min-version"),
            &mut file.tls_min_version,
            self.tls_min_version.clone(),
        );
        given.over(
            ("tlsCipherSuites", "--tls-cipher-suites"),
            &mut file.tls_cipher_suites,
            self.tls_cipher_suites.clone(),
        );
        given.over(
            ("nodeName", "--hostname-override"),
            &mut file.node_name,
            self.hostname_override.clone(),
        );
        if self.port.is_some() {
            given.0.insert("listen", "--port");
        }
        if self.address.is_some() {
            given.0.insert("listen", "--address");
        }
        if self.read_only_port.is_some() {
            given.0.insert("readOnlyPort.listen", "--read-only-port");
        }
        given.0
    }

    /// The addresses to listen on, given those of the file: `--address` replaces their addresses and `--port`
    /// their ports; what neither says is as in a kubelet, all addresses and port 10250.
    pub(super) fn listen(&self, file: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let with = |socket: SocketAddr| {
            SocketAddr::new(
                self.address.unwrap_or_else(|| socket.ip()),
                self.port.unwrap_or_else(|| socket.port()),
            )
        };
        match (self.address, self.port) {
            (None, None) => file,
            _ if file.is_empty() => vec![with(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), KUBELET_PORT))],
            _ => {
                let mut listen = Vec::new();
                for socket in file.into_iter().map(with) {
                    if !listen.contains(&socket) {
                        listen.push(socket);
                    }
                }
                listen
            }
        }
    }

    /// Where `--read-only-port` puts the tombstone, given the addresses listened on; `None` if it was not
    /// given.
    pub(super) fn read_only_listen(&self, listen: &[SocketAddr]) -> Option<Vec<SocketAddr>> {
        let port = self.read_only_port?;
        let mut tombstone = Vec::new();
        for socket in listen.iter().map(|socket| SocketAddr::new(socket.ip(), port)) {
            if port != 0 && !tombstone.contains(&socket) {
                tombstone.push(socket);
            }
        }
        Some(tombstone)
    }
}

/// Which keys a flag has won over.
struct Given(BTreeMap<&'static str, &'static str>);

// === impl Given ===

impl Given {
    fn over<T>(&mut self, (key, flag): (&'static str, &'static str), written: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *written = value;
            self.0.insert(key, flag);
        }
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn go_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("write true or false"),
    }
}

fn go_duration(text: &str) -> Result<Duration, &'static str> {
    duration::parse(text)
}
