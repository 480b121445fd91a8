//! The validated settings of a gate: what `file` reads as YAML and `flags` overrides, checked and typed.
//!
//! Nothing behind this module sees a raw string from the configuration: an address is a `SocketAddr`, a duration a
//! `Duration`, a mode an enum. Keys that `KubeletConfiguration` has keep its name, place and meaning.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls::ServingOptions;

mod contradictions;
mod document;
mod effective;
mod error;
mod file;
mod flags;
mod nearest;
mod reading;
mod schema;
mod upstream;
mod validate;

pub use self::error::Problem;
pub use self::error::SettingsError;
pub use self::flags::KubeletFlags;

/// Everything `serve` needs to know, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `nodeName`: lower-cased name of this node's Node object; `None` = find it (see `crate::node`).
    pub node_name: Option<String>,
    /// `nodeNameFromHost`: the host name may serve as the node name when nothing better is found.
    pub node_name_from_host: bool,
    /// `listen`: the addresses of the gate's TLS port; at least one.
    pub listen: Vec<SocketAddr>,
    /// `kubeconfig`: how to reach the API server; `None` = in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `upstream`: the kubelet behind the gate.
    pub upstream: Upstream,
    /// `tlsCertFile` … `tlsCipherSuites` and `authentication.x509`: the listener's TLS.
    pub tls: ServingOptions,
    /// `authentication`, without `x509`.
    pub authentication: Authentication,
    /// `authorization`: who may do what.
    pub authorization: Authorization,
    /// `enforcement`: `Enforce`, or `Report` (a later part; refused for now).
    pub enforcement: Enforcement,
    /// `readOnlyPort`: the tombstone.
    pub read_only_port: ReadOnlyPort,
    /// `streamingConnectionIdleTimeout`: an upgraded stream without a byte for this long is ended.
    pub streaming_connection_idle_timeout: Duration,
    /// `limits`: every bound.
    pub limits: Limits,
    /// `firewall`: the seal around the gate.
    pub firewall: Firewall,
    /// `audit`: where the events go.
    pub audit: Audit,
    /// `admin.listen`: the gate's own `/livez`, `/readyz`, `/metrics`; `None` (written `""`) = off.
    pub admin_listen: Option<SocketAddr>,
    /// `workers`: threads that serve connections, at least 1.
    pub workers: usize,
    /// What is allowed but should be known to whoever starts the gate: one sentence each, place first.
    pub warnings: Vec<String>,
}

/// `upstream`: the kubelet behind the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// `upstream.url`.
    pub url: UpstreamUrl,
    /// How the kubelet proves itself; `None` exactly for `http://` and `unix://`.
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

/// `authentication`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authentication {
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// `authentication.webhook.enabled`: bearer tokens by TokenReview.
    pub webhook: bool,
    /// `authentication.webhook.cacheTTL`.
    pub webhook_cache_ttl: Duration,
    /// `authentication.webhook.audiences`: sent with a TokenReview, one of them must come back; empty = the API server's.
    pub audiences: Vec<String>,
}

/// `authorization`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// `authorization.mode`.
    pub mode: AuthorizationMode,
    /// `authorization.webhook.cacheAuthorizedTTL`.
    pub cache_authorized_ttl: Duration,
    /// `authorization.webhook.cacheUnauthorizedTTL`.
    pub cache_unauthorized_ttl: Duration,
    /// `authorization.interactive`.
    pub interactive: Interactive,
    /// `authorization.paths.deny`: path prefixes (whole segments) refused for everybody, each starting with `/`.
    pub deny_paths: Vec<String>,
}

/// `authorization.mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthorizationMode {
    /// Everybody who is authenticated may do everything.
    AlwaysAllow,
    /// SubjectAccessReview.
    Webhook,
}

/// `authorization.interactive`: exec, attach, run, portForward and `/cri/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Interactive {
    /// `requireCreate`: these need the verb `create`, whatever the method.
    pub require_create: bool,
    /// `allowedUsers`: if not empty, nobody else may use them.
    pub allowed_users: Vec<String>,
    /// `cacheAuthorizedTTL`: how long an allow for them is remembered.
    pub cache_authorized_ttl: Duration,
}

/// `enforcement`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Enforcement {
    /// Decide and enforce.
    Enforce,
}

/// `readOnlyPort`: the tombstone, which gives one answer to everything.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOnlyPort {
    /// Where it listens; empty = nowhere.
    pub listen: Vec<SocketAddr>,
    /// `readOnlyPort.answer`: the status, 410, 404 or 403.
    pub answer: u16,
    /// `readOnlyPort.healthz`: `/healthz` from loopback is answered by whether the kubelet can be connected to.
    pub healthz: bool,
}

/// `firewall`: the seal around the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Firewall {
    /// `firewall.required`: not ready unless the seal is in force and confirmed.
    pub required: bool,
    /// `firewall.managed`: a confirmed seal that somebody removed or changed is put back.
    pub managed: bool,
    /// `firewall.backend`; `None` = whichever the node can do, nftables first.
    pub backend: Option<Backend>,
    /// `firewall.mark`: the bits of the packet mark that are the gate's; `None` = those that nothing else uses.
    pub mark: Option<u32>,
    /// `firewall.apiServerUsers`: who counts as the API server; empty = every client certificate that may `nodes/proxy`.
    pub api_server_users: Vec<String>,
    /// `firewall.stateDirectory`: the confirmed plan, for ever.
    pub state_directory: PathBuf,
    /// `firewall.runDirectory`: the gate's exemption, until the next boot.
    pub run_directory: PathBuf,
}

/// `audit`.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// `audit.path`.
    pub sink: AuditSink,
    /// `audit.mode`.
    pub mode: AuditMode,
    /// `audit.commands`: what becomes of `command=`/`cmd=` values in an event's requestURI.
    pub commands: AuditCommands,
}

/// Where audit events go.
#[derive(Clone, Debug, PartialEq)]
pub enum AuditSink {
    /// `""`: nowhere.
    Off,
    /// `"-"`: standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `audit.mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditMode {
    /// Events are written behind the answer; when the queue is full they are dropped and counted.
    Batch,
    /// The event is written before the answer's head is released; when the queue is full the request waits.
    Blocking,
}

/// `audit.commands`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditCommands {
    /// Replaced by a short keyed hash, so that equal commands can be recognised.
    Hash,
    /// Left out.
    Omit,
    /// Written as they are.
    Show,
}

/// `limits`: every bound, with its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `handshakeTimeout`, 10s.
    pub handshake_timeout: Duration,
    /// `requestHeadTimeout`, 10s from the head's first byte.
    pub request_head_timeout: Duration,
    /// `idleTimeout`, 2m0s: a keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// `writeStallTimeout`, 1m0s: a client that takes no byte of its answer, unless that is a tunnel.
    pub write_stall_timeout: Duration,
    /// `upstreamConnectTimeout`, 5s: dial and handshake with the kubelet.
    pub upstream_connect_timeout: Duration,
    /// `reviewTimeout`, 10s: a TokenReview or SubjectAccessReview, retries included.
    pub review_timeout: Duration,
    /// `shutdownTimeout`, 30s: how long running requests may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// `requestHeadBytes`, 131072.
    pub request_head_bytes: usize,
    /// `http2Streams`, 100 per connection.
    pub http2_streams: u32,
    /// `connections`, 4096 in total.
    pub connections: usize,
    /// `connectionsPerAddress`, 512 from one source address.
    pub connections_per_address: usize,
    /// `streamsPerIdentity`, 256 upgraded streams of one user.
    pub streams_per_identity: usize,
    /// `rejectedTokensPerAddress`, 10 each second, ten times as many at once: tokens of one source address that the API
    /// server did not know.
    pub rejected_tokens_per_address: u32,
    /// `refusedCertificatesPerAddress`, 500 each second, ten times as many at once: certificates, those of the chain
    /// counted, that one source address showed for nothing.
    pub refused_certificates_per_address: u32,
    /// `cacheEntries`, 8192 finished reviews per cache.
    pub cache_entries: usize,
    /// `auditQueue`, 8192 events not yet written.
    pub audit_queue: usize,
    /// `concurrentReviews`, 64 calls to the API server at once.
    pub concurrent_reviews: usize,
    /// `upstreamIdleConnections`, 64 kept per worker.
    pub upstream_idle_connections: usize,
}

// === impl Settings ===

impl Settings {
    /// Reads the configuration file at `path`; `flags` win over it. The files that it names are not opened.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Read`] when the file cannot be read, [`SettingsError::Invalid`] with everything that is wrong
    /// with what it says.
    pub fn load(path: &Path, flags: &KubeletFlags) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let settings = Self::parse(&text, path, flags)?;
        settings.api_server(path, std::env::var_os("KUBERNETES_SERVICE_HOST").is_some())?;
        Ok(settings)
    }

    /// As [`Self::load`], for a text already read from `path`, and without a look at the environment.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Invalid`] with everything that is wrong.
    pub fn parse(text: &str, path: &Path, flags: &KubeletFlags) -> Result<Self, SettingsError> {
        validate::settings(text, path, flags)
    }

    /// Whether the API server can be found, if it is needed: by `kubeconfig`, or as every pod finds it.
    fn api_server(&self, path: &Path, in_cluster: bool) -> Result<(), SettingsError> {
        let needed = self.authentication.webhook || self.authorization.mode == AuthorizationMode::Webhook;
        if !needed || self.kubeconfig.is_some() || in_cluster {
            return Ok(());
        }
        Err(SettingsError::Invalid(vec![Problem::new(
            format!("{}: kubeconfig", path.display()),
            "is missing, KUBERNETES_SERVICE_HOST is not in the environment, and authentication.webhook.enabled or \
             authorization.mode: Webhook needs the API server; name a kubeconfig such as /etc/kubernetes/kubelet.conf",
        )]))
    }
}

#[cfg(test)]
mod tests;

/// Which of the kernel's packet filters carries the seal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// One table of its own, `inet kubelet_gate`, by `nft`.
    Nftables,
    /// Chains of its own in the tables of `iptables-nft` and `ip6tables-nft`.
    IptablesNft,
    /// Chains of its own in the tables of `iptables-legacy` and `ip6tables-legacy`.
    IptablesLegacy,
}

// === impl Backend ===

impl Backend {
    /// As in `firewall.backend`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}
