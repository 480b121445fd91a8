#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::changes::{Changes, Effect, KEYS, in_force};
use crate::settings::{KubeletFlags, Settings};

/// The least that a configuration says.
const LEAST: &str = "\
apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
listen: ['192.0.2.1:10250']
kubeconfig: /kubeconfig
upstream: {url: 'https://127.0.0.1:10350', certificateFile: /pin.crt}
tlsCertFile: /serving.crt
tlsPrivateKeyFile: /serving.key
";

/// Every key with another value than in `LEAST`, but for `apiVersion` and `kind`, which have one value, and
/// for `upstream.url`, which cannot be at once remote and verified in both ways.
const OTHER: &str = "\
apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
nodeName: other
nodeNameFromHost: true
listen: ['192.0.2.2:10250']
kubeconfig: /other
upstream:
  url: https://192.0.2.3:10350
  allowRemote: true
  caFile: /ca.crt
  serverName: kubelet
  clientCertificateFile: /client.crt
  clientKeyFile: /client.key
  tokenFile: /token
  allowFleetCredential: true
tlsCertFile: /other.crt
tlsPrivateKeyFile: /other.key
tlsMinVersion: VersionTLS13
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
authentication:
  anonymous: {enabled: true}
  x509:
    clientCAFile: /clients.crt
    clientCertificates: Require
    crlFiles: [/list.crl]
    legacyV1Certificates: true
  webhook: {enabled: false, cacheTTL: 1m0s, audiences: [kubelet]}
  denyFiles: [/deny]
authorization:
  mode: AlwaysAllow
  static: [{users: [scraper], verbs: [get], subresources: [metrics]}]
  webhook:
    cacheAuthorizedTTL: 1m0s
    cacheUnauthorizedTTL: 1s
    staleAllow: {maxAge: 1m0s, subresources: [metrics]}
  interactive: {requireCreate: false, allowedUsers: [bob], cacheAuthorizedTTL: 1s}
  paths: {deny: [/debug]}
sources: {port: [192.0.2.0/24], interactive: [192.0.2.1/32], excludeApiServer: true}
readOnlyPort: {listen: ['192.0.2.2:10255'], answer: 404, healthz: true}
streamingConnectionIdleTimeout: 1m0s
streams: {recheckInterval: 1m0s, maxUnverified: 10m0s, maxLifetime: 1h0m0s}
limits:
  handshakeTimeout: 11s
  requestHeadTimeout: 11s
  idleTimeout: 11s
  writeStallTimeout: 11s
  followStallTimeout: 11s
  upstreamConnectTimeout: 11s
  reviewTimeout: 11s
  shutdownTimeout: 11s
  requestHeadBytes: 8192
  http2Streams: 11
  connections: 1100
  unauthenticatedConnections: 110
  connectionsPerAddress: 11
  requestsPerIdentity: 11
  streams: 110
  streamsPerIdentity: 11
  rejectedTokensPerAddress: 11
  refusedCertificatesPerAddress: 11
  cacheEntries: 11
  auditQueue: 11
  concurrentReviews: 11
  upstreamConnections: 110
  upstreamIdleConnections: 11
firewall:
  required: true
  managed: true
  backend: nftables
  mark: '0x0000107f'
  apiServerUsers: [apiserver]
  stateDirectory: /state
  runDirectory: /run/other
audit:
  path: /audit.log
  mode: blocking
  commands: omit
  strangers: full
  maxSizeMB: 11
  maxBackups: 11
admin: {listen: '127.0.0.1:1', socket: /admin.sock, group: admins, hosts: [node]}
upgrade: {drainTimeout: 2h0m0s}
sandbox: Required
workers: 2
";

fn settings(text: &str) -> Settings {
    Settings::parse(text, Path::new("/gate.yaml"), &KubeletFlags::default()).unwrap()
}

/// `LEAST` with other sections.
fn with(more: &str) -> Settings {
    settings(&format!("{LEAST}{more}"))
}

/// Seen red: with `audit.path` among the live ones.
#[test]
fn every_key_has_a_row_that_says_when_it_takes_effect() {
    let (old, new) = (settings(LEAST), settings(OTHER));
    let (before, after) = (old.keys().unwrap(), new.keys().unwrap());
    let held = in_force(&old, new.clone()).keys().unwrap();
    let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
    assert!(known.is_sorted(), "{known:?}");
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        known,
        "add a row to KEYS in src/serve/reload/changes.rs for a new key, and a line to OTHER here"
    );
    for (key, effect) in KEYS {
        if ["apiVersion", "kind"].contains(key) {
            continue;
        }
        assert_ne!(before[*key], after[*key], "give {key} another value in OTHER");
        let expected = match effect {
            Effect::AtStart => &before[*key],
            Effect::Live(_) => &after[*key],
        };
        assert_eq!(&held[*key], expected, "{key}: KEYS and in_force disagree");
    }
    let changes = Changes::between(&old, &new).unwrap();
    let at_start = KEYS
        .iter()
        .filter(|(_, effect)| matches!(effect, Effect::AtStart));
    let at_start: Vec<_> = at_start
        .map(|(key, _)| *key)
        .filter(|key| !["apiVersion", "kind"].contains(key))
        .collect();
    assert_eq!(changes.at_start, at_start);
}

/// Each pair is one change: from the first text to the second it loosens what is named,
/// or nothing, and so back.
#[test]
fn a_change_loosens_in_one_direction() {
    let tls = "authentication: {x509: {clientCAFile: /a.crt";
    let user = "authorization: {interactive: {allowedUsers: ";
    let deny = "authorization: {paths: {deny: ";
    let audiences = "authentication: {webhook: {audiences: ";
    let key = |key: &str, what: &str| format!("{key} {what}");
    let users = "authorization.interactive.allowedUsers";
    let all = key(users, "names no user any more, so that all are allowed");
    let every = key(
        "authentication.webhook.audiences",
        "every audience of the API server is accepted",
    );
    let none = String::new;
    for (old, new, there, back) in [
        (
            "authentication: {anonymous: {enabled: false}}".to_owned(),
            "authentication: {anonymous: {enabled: true}}".to_owned(),
            key("authentication.anonymous.enabled", "is switched on"),
            none(),
        ),
        (
            "authentication: {denyFiles: [/a, /b]}".to_owned(),
            "authentication: {denyFiles: [/b]}".to_owned(),
            key("authentication.denyFiles", "has no more /a"),
            none(),
        ),
        (
            "authorization: {mode: Webhook}".to_owned(),
            "authorization: {mode: AlwaysAllow}".to_owned(),
            key("authorization.mode", "becomes AlwaysAllow"),
            none(),
        ),
        (
            "authorization: {interactive: {requireCreate: true}}".to_owned(),
            "authorization: {interactive: {requireCreate: false}}".to_owned(),
            key("authorization.interactive.requireCreate", "is switched off"),
            none(),
        ),
        (
            format!("{deny}[/a, /b/]}}}}"),
            format!("{deny}[/a]}}}}"),
            key("authorization.paths.deny", "has no more /b/"),
            none(),
        ),
        (
            format!("{deny}[/a/b/, /c]}}}}"),
            format!("{deny}[/c, /a]}}}}"),
            none(),
            key("authorization.paths.deny", "has no more /a"),
        ),
        (
            "sources: {port: [10.0.0.0/8]}".to_owned(),
            "sources: {port: [10.0.0.0/8, 10.1.0.0/16, '::1']}".to_owned(),
            key("sources.port", "has ::1"),
            none(),
        ),
        (
            "sources: {port: [10.0.0.0/8]}".to_owned(),
            "sources: {port: [10.1.0.0/16]}".to_owned(),
            none(),
            key("sources.port", "has 10.0.0.0/8"),
        ),
        (
            "sources: {interactive: []}".to_owned(),
            "sources: {interactive: [10.0.0.1]}".to_owned(),
            none(),
            key(
                "sources.interactive",
                "names no network any more, so that every address is let in",
            ),
        ),
        (format!("{user}[]}}}}"), format!("{user}[bob]}}}}"), none(), all),
        (
            format!("{user}[bob]}}}}"),
            format!("{user}[bob, eve]}}}}"),
            key(users, "has eve"),
            none(),
        ),
        (
            format!("{audiences}[]}}}}"),
            format!("{audiences}[a]}}}}"),
            key("authentication.webhook.audiences", "has a"),
            every,
        ),
        (
            format!("{audiences}[a, b]}}}}"),
            format!("{audiences}[a]}}}}"),
            none(),
            key("authentication.webhook.audiences", "has b"),
        ),
        (
            "authentication: {webhook: {cacheTTL: 1m0s}}".to_owned(),
            "authentication: {webhook: {cacheTTL: 2m0s}}".to_owned(),
            key("authentication.webhook.cacheTTL", "is longer"),
            none(),
        ),
        (
            "authentication: {webhook: {enabled: false}, x509: {clientCAFile: /a.crt}}".to_owned(),
            "authentication: {webhook: {enabled: true}, x509: {clientCAFile: /a.crt}}".to_owned(),
            key("authentication.webhook.enabled", "is switched on"),
            none(),
        ),
        (
            "authorization: {webhook: {cacheAuthorizedTTL: 1m0s}}".to_owned(),
            "authorization: {webhook: {cacheAuthorizedTTL: 2m0s}}".to_owned(),
            key("authorization.webhook.cacheAuthorizedTTL", "is longer"),
            none(),
        ),
        (
            "authorization: {webhook: {cacheUnauthorizedTTL: 1m0s}}".to_owned(),
            "authorization: {webhook: {cacheUnauthorizedTTL: 2m0s}}".to_owned(),
            none(),
            none(),
        ),
        (
            "authorization: {webhook: {staleAllow: {maxAge: 1m, subresources: [stats]}}}".to_owned(),
            "authorization: {webhook: {staleAllow: {maxAge: 2m, subresources: [stats, metrics]}}}".to_owned(),
            "authorization.webhook.staleAllow.maxAge is longer; authorization.webhook.staleAllow.subresources \
             has metrics"
                .to_owned(),
            none(),
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get], subresources: [stats]}]}".to_owned(),
            "authorization: {static: [{users: [a, b], verbs: [get], subresources: [stats]}]}".to_owned(),
            key("authorization.static", "allows more by rule 1"),
            none(),
        ),
        (
            "authorization: {interactive: {cacheAuthorizedTTL: 1s}}".to_owned(),
            "authorization: {interactive: {cacheAuthorizedTTL: 2s}}".to_owned(),
            key("authorization.interactive.cacheAuthorizedTTL", "is longer"),
            none(),
        ),
        (
            String::new(),
            format!("{tls}}}}}"),
            key("authentication.x509.clientCAFile", "names /a.crt"),
            none(),
        ),
        (
            format!("{tls}, clientCertificates: Require}}}}"),
            format!("{tls}, clientCertificates: Request}}}}"),
            key(
                "authentication.x509.clientCertificates",
                "no certificate is required any more",
            ),
            none(),
        ),
        (
            format!("{tls}, crlFiles: [/1, /2]}}}}"),
            format!("{tls}, crlFiles: [/2]}}}}"),
            key("authentication.x509.crlFiles", "has no more /1"),
            none(),
        ),
        (
            format!("{tls}}}}}"),
            format!("{tls}, legacyV1Certificates: true}}}}"),
            key("authentication.x509.legacyV1Certificates", "is switched on"),
            none(),
        ),
        (
            "tlsMinVersion: VersionTLS13".to_owned(),
            "tlsMinVersion: VersionTLS12".to_owned(),
            key("tlsMinVersion", "is lower"),
            none(),
        ),
        (
            "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]".to_owned(),
            "tlsCipherSuites: []".to_owned(),
            key("tlsCipherSuites", "offers suites that were not offered"),
            none(),
        ),
        (
            "audit: {commands: hash, mode: blocking, strangers: full}".to_owned(),
            "audit: {commands: show, mode: batch, strangers: summarised}".to_owned(),
            "audit.commands shows commands; audit.mode may drop events; audit.strangers writes fewer events"
                .to_owned(),
            none(),
        ),
        (
            "streamingConnectionIdleTimeout: 1m0s".to_owned(),
            "streamingConnectionIdleTimeout: 2m0s".to_owned(),
            none(),
            none(),
        ),
    ] {
        let (first, second) = (with(&old), with(&new));
        let loosened = |old, new| Changes::between(old, new).unwrap().loosened.join("; ");
        assert_eq!(loosened(&first, &second), there, "{old} → {new}");
        assert_eq!(loosened(&second, &first), back, "{new} → {old}");
    }
}

/// A writer that stops after any byte, for however long: what is left of the file is refused, loosens and so
/// waits, or allows no more than the whole file.
#[test]
fn no_part_of_a_configuration_is_laxer_by_the_clock() {
    let text = "\
authentication:
  x509: {clientCAFile: /ca.crt, clientCertificates: Require, crlFiles: [/a.crl, /b.crl]}
  webhook:
    cacheTTL: 10s
    audiences:
    - kubelet
authorization:
  webhook: {cacheAuthorizedTTL: 10s}
  interactive:
    cacheAuthorizedTTL: 1s
    allowedUsers:
    - bob
    - carol
  paths:
    deny:
    - /debug
    - /logs
";
    let whole = format!("{LEAST}{text}");
    let old = settings(&whole);
    let mut waits = 0;
    for end in 0..whole.len() {
        let part = Settings::parse(&whole[..end], Path::new("/gate.yaml"), &KubeletFlags::default());
        let Ok(part) = part else { continue };
        let changes = Changes::between(&old, &part).unwrap();
        if !changes.loosened.is_empty() {
            waits += 1;
            continue;
        }
        // What gets past: a list of users that is shorter and not empty, a shorter time.
        let (interactive, rules) = (&part.authorization.interactive, &part.authorization);
        assert!(!interactive.allowed_users.is_empty(), "{end}");
        assert!(rules.cache_authorized_ttl <= old.authorization.cache_authorized_ttl);
        assert_eq!(rules.deny_paths, old.authorization.deny_paths, "{end}");
        assert_eq!(part.authentication.audiences, old.authentication.audiences);
        assert_eq!(part.tls, old.tls, "{end}");
    }
    assert!(waits > 50, "{waits}");
}
