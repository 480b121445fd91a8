//! Values, by themselves and against each other.

use super::*;

#[test]
fn relative_paths_start_at_the_file_and_in_flags_at_the_working_directory() {
    let flags = flags_of(&["--tls-private-key-file", "flag.key"]);
    let settings = Settings::parse(LEAST, Path::new("/etc/gate/gate.yaml"), &flags).unwrap();
    assert_eq!(settings.tls.cert_file, PathBuf::from("/etc/gate/gate.crt"));
    assert_eq!(
        settings.tls.private_key_file,
        std::env::current_dir().unwrap().join("flag.key")
    );
    let settings = Settings::parse(LEAST, Path::new("gate.yaml"), &KubeletFlags::default()).unwrap();
    assert_eq!(
        settings.tls.cert_file,
        std::env::current_dir().unwrap().join("gate.crt")
    );
}

#[test]
fn the_node_name_is_trimmed_lower_cased_and_judged() {
    assert_eq!(
        good(&least_and("nodeName: ' Worker-1.Example '"))
            .node_name
            .as_deref(),
        Some("worker-1.example")
    );
    for name in [
        "a_b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a b",
        "ä",
        "system:node:a",
        &"a".repeat(254),
    ] {
        assert!(
            error(&least_and(&format!("nodeName: '{name}'"))).contains("cannot be the name of a Node"),
            "{name}"
        );
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (more, expected) in [
        (
            "limits: {handshakeTimeout: 0s}",
            r#"limits.handshakeTimeout: "0s" is out of range; write 100ms to 5m0s"#,
        ),
        ("limits: {idleTimeout: 2}", "limits.idleTimeout: 2 is not a text"),
        (
            "limits: {idleTimeout: '2'}",
            r#"limits.idleTimeout: "2": a duration needs a unit"#,
        ),
        (
            "limits: {connections: 0}",
            "limits.connections: 0 is out of range; write 1 to 1000000",
        ),
        (
            "limits: {http2Streams: 4294967297}",
            "limits.http2Streams: 4294967297 is out of range; write 1 to 10000",
        ),
        (
            "limits: {requestHeadBytes: 10}",
            "limits.requestHeadBytes: 10 is out of range; write 8192 to 1048576",
        ),
        ("workers: 0", "workers: 0 is out of range"),
        (
            "tlsMinVersion: TLS1.3",
            r#"tlsMinVersion: "TLS1.3" is not known; write one of VersionTLS12, VersionTLS13"#,
        ),
        (
            "authorization: {mode: webhook}",
            r#"authorization.mode: "webhook" is not known; write one of Webhook, AlwaysAllow"#,
        ),
        (
            "authentication: {webhook: {cacheTTL: -1s}}",
            "authentication.webhook.cacheTTL: \"-1s\": a duration cannot",
        ),
        (
            "authentication: {webhook: {audiences: ['']}}",
            "authentication.webhook.audiences[0]: \"\" is no name",
        ),
        (
            "admin: {listen: '0.0.0.0:19250'}",
            "admin.listen: \"0.0.0.0:19250\" is not a loopback address",
        ),
        (
            "admin: {listen: localhost}",
            "admin.listen: \"localhost\" is not an address; write IP:PORT",
        ),
        (
            "audit: {path: /var/log/gate.log}",
            "audit.path: \"/var/log/gate.log\" is under /var/log",
        ),
        (
            "audit: {path: /var/lib/../log/x}",
            "is under /var/log, which the kubelet serves",
        ),
        (
            "audit: {mode: sync}",
            "audit.mode: \"sync\" is not known; write one of batch, blocking",
        ),
        (
            "firewall: {backend: ipset}",
            "\"ipset\" is not known; write one of auto, nftables, iptables-nft, iptables-legacy",
        ),
        (
            "readOnlyPort: {answer: 200}",
            "readOnlyPort.answer: 200 is not known; write one of 410, 404, 403",
        ),
        (
            "tlsCipherSuites: [TLS_AES_128_GCM_SHA256, frobnicate]",
            r#"tlsCipherSuites[1]: "frobnicate" is not known; write some of TLS_AES_128_GCM_SHA256, "#,
        ),
        (
            "authorization: {webhook: {staleAllow: {maxAge: 61m}}}",
            "authorization.webhook.staleAllow.maxAge: \"61m\" is out of range; write 0s to 1h0m0s",
        ),
        (
            "authorization: {webhook: {staleAllow: {subresources: [metrics, pods]}}}",
            "staleAllow.subresources[1]: \"pods\" is not possible: only subresources that show measurements",
        ),
        (
            "authorization: {webhook: {staleAllow: {subresources: []}}}",
            "staleAllow.subresources: is empty; write some of metrics, healthz, stats",
        ),
        (
            "authorization: {static: {users: [a]}}",
            "authorization.static: a mapping is not a list of rules; write - {users: [NAME], ",
        ),
        (
            "authorization: {static: [a]}",
            "authorization.static[0]: \"a\" is not a mapping; write the keys below it",
        ),
        (
            "authorization: {static: [{user: [a]}]}",
            "authorization.static[0].user: unknown key; the nearest known key is \
             authorization.static[].users: write users",
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get], subresources: [metrics], x: 1}]}",
            "authorization.static[0].x: unknown key; the keys of this place are groups, subresources, users, \
             verbs",
        ),
        (
            "authorization: {static: [{verbs: [get], subresources: [metrics]}]}",
            "authorization.static[0]: names neither users nor groups",
        ),
        (
            "authorization: {static: [{users: [''], verbs: [get], subresources: [metrics]}]}",
            "authorization.static[0].users[0]: \"\" is no name",
        ),
        (
            "authorization: {static: [{users: [a], subresources: [metrics]}]}",
            "authorization.static[0]: names no verbs; write verbs: [get]",
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get, create], subresources: [metrics]}]}",
            "authorization.static[0].verbs: has [get, create], and",
        ),
        (
            "authorization: {static: [{users: [a], verbs: ['*'], subresources: [metrics]}]}",
            "authorization.static[0].verbs: has [*], and",
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get]}]}",
            "authorization.static[0].subresources: is empty; write some of metrics, healthz, stats",
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get], subresources: ['*']}]}",
            "authorization.static[0].subresources[0]: \"*\" is not possible",
        ),
        (
            "authorization: {static: [{users: [a], verbs: [get], subresources: [metrics, log]}]}",
            "authorization.static[0].subresources[1]: \"log\" is not possible",
        ),
        (
            "authorization: {paths: {deny: [debug]}}",
            "authorization.paths.deny[0]: \"debug\" does not begin with /",
        ),
        (
            "authorization: {paths: {deny: [/a/../b]}}",
            "deny[0]: \"/a/../b\" has an empty segment, . or ..",
        ),
        (
            "authorization: {paths: {deny: [/]}}",
            "deny[0]: \"/\" denies everything",
        ),
        (
            "authorization: {paths: {deny: [/a, /%64ebug]}}",
            "deny[1]: \"/%64ebug\" is percent-encoded",
        ),
    ] {
        let said = error(&least_and(more));
        assert!(
            said.starts_with("/etc/gate/gate.yaml:7: ") && said.contains(expected),
            "{more}\n{said}"
        );
    }
    good(&least_and(
        "authorization: {paths: {deny: [/debug/pprof/, /checkpoint]}}",
    ));
    assert_eq!(
        good(&least_and("audit: {path: '-'}\nadmin: {listen: ''}"))
            .admin
            .listen,
        None
    );
    assert_eq!(good(&least_and("audit: {path: ''}")).audit.sink, AuditSink::Off);
}

#[test]
fn missing_keys_are_named() {
    for (key, line) in [
        ("listen", "listen:"),
        ("tlsCertFile", "tlsCertFile:"),
        ("tlsPrivateKeyFile", "tlsPriv"),
    ] {
        let text: String = LEAST
            .lines()
            .filter(|l| !l.starts_with(line))
            .map(|l| format!("{l}\n"))
            .collect();
        let said = error(&text);
        assert!(
            said.starts_with(&format!("/etc/gate/gate.yaml: {key}: is missing; ")),
            "{said}"
        );
    }
    assert!(error(&upstream("{}")).contains("upstream.url: is missing; write https://127.0.0.1:10250"));
}

#[test]
fn old_tls_versions_are_read_with_a_warning() {
    let settings = good(&least_and("tlsMinVersion: VersionTLS10"));
    assert_eq!(settings.tls.min_version, TlsVersion::Tls12);
    assert!(settings.warnings[0].contains(":7: tlsMinVersion: TLS 1.0 and 1.1 are not offered"));
    assert_eq!(
        good(&least_and("tlsMinVersion: ''")).tls.min_version,
        TlsVersion::Tls12
    );
    assert_eq!(
        good(&least_and("tlsMinVersion: VersionTLS13")).tls.min_version,
        TlsVersion::Tls13
    );
}

#[test]
fn cipher_suites_are_judged() {
    let good_one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let settings = good(&least_and(&format!(
        "tlsCipherSuites: [TLS_RSA_WITH_AES_128_GCM_SHA256, {good_one}]"
    )));
    assert_eq!(suites(&settings), [good_one]);
    assert_eq!(
        settings.warnings,
        [
            "/etc/gate/gate.yaml:7: tlsCipherSuites: not implemented here and so not offered: \
             TLS_RSA_WITH_AES_128_GCM_SHA256"
        ]
    );
    let said = error(&least_and(
        "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265]",
    ));
    assert!(
        said.starts_with(
            "/etc/gate/gate.yaml:7: tlsCipherSuites[0]: \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265\" is not \
             known"
        ) && said.ends_with(good_one),
        "{said}"
    );
    let said = error(&least_and("tlsCipherSuites: [TLS_RSA_WITH_AES_128_GCM_SHA256]"));
    assert!(
        said.contains("none of TLS_RSA_WITH_AES_128_GCM_SHA256 is implemented here"),
        "{said}"
    );
}

#[test]
fn contradictions_are_refused() {
    for (more, expected) in [
        (
            "authentication: {webhook: {enabled: false}}",
            "no client could ever authenticate",
        ),
        (
            "authentication: {x509: {clientCertificates: Require}}",
            "clientCAFile: is missing, though authentication.x509",
        ),
        (
            "authentication: {x509: {crlFiles: [ca.crl]}}",
            "crlFiles: is given without authentication.x509.clientCAFile",
        ),
        (
            "authentication: {x509: {clientCAFile: ca, crlFiles: [ca.crl, '']}}",
            "authentication.x509.crlFiles[1]: is missing; name a file with revocation lists",
        ),
        (
            "authentication: {denyFiles: [deny, '']}",
            "authentication.denyFiles[1]: is missing; name a deny list",
        ),
        (
            "readOnlyPort: {listen: ['192.0.2.10:10250']}",
            "readOnlyPort.listen: 192.0.2.10:10250 is also 192.0.2.10:10250 of listen",
        ),
        (
            "readOnlyPort: {listen: ['127.0.0.1:10250']}",
            "is also 127.0.0.1:10250 of upstream.url",
        ),
        (
            "readOnlyPort: {listen: ['127.0.0.1:10255', '127.0.0.1:10255']}",
            "readOnlyPort.listen[1]: \"127.0.0.1:10255\" is there twice",
        ),
        (
            "admin: {listen: '127.0.0.1:10250'}",
            "admin.listen: 127.0.0.1:10250 is also 127.0.0.1:10250 of upstream.url",
        ),
        ("admin: {listen: '[::ffff:127.0.0.1]:10250'}", "of upstream.url"),
    ] {
        let said = error(&least_and(more));
        assert!(said.contains(expected), "{more}\n{said}");
    }
    let everywhere = LEAST.replace("192.0.2.10:10250", "0.0.0.0:10250");
    assert!(error(&everywhere).contains(":3: listen: 0.0.0.0:10250 is also 127.0.0.1:10250 of upstream.url"));
    let all =
        least_and("readOnlyPort: {listen: ['127.0.0.1:10443']}").replace("192.0.2.10:10250", "[::]:10443");
    assert!(error(&all).contains("readOnlyPort.listen: 127.0.0.1:10443 is also [::]:10443 of listen"));
    let any = LEAST.replace(r#"["192.0.2.10:10250"]"#, r#"["127.0.0.1:0", "127.0.0.1:0"]"#);
    assert_eq!(good(&any).listen.len(), 2, "port 0 is any port");
}

#[test]
fn open_doors_are_warned_about() {
    let warnings = |more: &str| good(&least_and(more)).warnings.join("\n");
    let open = warnings("authentication: {anonymous: {enabled: true}}\nauthorization: {mode: AlwaysAllow}");
    assert!(
        open.contains(":8: authorization.mode: EVERY CLIENT THAT REACHES THE PORT"),
        "{open}"
    );
    assert!(warnings("authorization: {mode: AlwaysAllow}").contains("EVERY AUTHENTICATED USER"));
    assert!(warnings("authentication: {anonymous: {enabled: true}}").contains("judged as system:anonymous"));
    assert!(warnings("authorization: {interactive: {requireCreate: false}}").contains("requireCreate"));
    let v1 =
        "authentication: {x509: {clientCAFile: ca, legacyV1Certificates: true, clientCertificates: Require}}";
    assert!(warnings(v1).contains("legacyV1Certificates: has no effect while"));
    assert_eq!(warnings(&v1.replace("Require", "Request")), "");
    assert!(warnings("audit: {path: ''}").contains("nothing is written about any request"));
    assert!(warnings("audit: {maxBackups: 0}").contains("nothing bounds the disk"));
    assert_eq!(warnings("audit: {maxSizeMB: 0, maxBackups: 0}"), "");
    assert_eq!(warnings(""), "");
}

#[test]
fn revocation_lists_are_found_beside_the_configuration() {
    let settings = good(&least_and(
        "authentication: {x509: {clientCAFile: ca, crlFiles: [ca.crl, /pki/b.crl]}}",
    ));
    let files = ["/etc/gate/ca.crl", "/pki/b.crl"].map(PathBuf::from);
    assert_eq!(settings.tls.crl_files, files);
}

#[test]
fn deny_lists_are_found_beside_the_configuration() {
    let settings = good(&least_and("authentication: {denyFiles: [deny, /run/deny]}"));
    let files = ["/etc/gate/deny", "/run/deny"].map(PathBuf::from);
    assert_eq!(settings.authentication.deny_files, files);
}

#[test]
fn the_api_server_must_be_found_when_it_is_needed() {
    let outside = |text: &str| {
        let flags = KubeletFlags::default();
        validate::settings(text, Path::new("gate.yaml"), &flags, false).map(|(settings, _)| settings)
    };
    let said = outside(LEAST).unwrap_err().to_string();
    assert!(said.starts_with("gate.yaml: kubeconfig: is missing"), "{said}");
    good(LEAST);
    outside(EXAMPLE).unwrap();
    let alone = "authentication: {webhook: {enabled: false}, x509: {clientCAFile: a}}\nauthorization: \
        {mode: AlwaysAllow}";
    outside(&least_and(alone)).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = Settings::load(&folder.path().join("none.yaml"), &KubeletFlags::default())
        .unwrap_err()
        .to_string();
    assert!(
        said.ends_with(
            "none.yaml: the configuration cannot be read: there is no such file; name a readable file with \
             --config"
        ),
        "{said}"
    );
    let said = Settings::load(folder.path(), &KubeletFlags::default())
        .unwrap_err()
        .to_string();
    assert!(said.contains("cannot be read: it is a directory; name"), "{said}");
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    assert_eq!(
        Settings::load(&file, &KubeletFlags::default()).unwrap(),
        good(EXAMPLE)
    );
}

/// What version 0.1 took, `maxSizeMB: 0` and `maxBackups: 0`, still means what it meant.
#[test]
fn the_audit_file_is_rotated_unless_the_size_is_zero() {
    let rotation = |audit: &str| good(&least_and(audit)).audit.rotation;
    let megabytes = |number: u64, backups| {
        Some(AuditRotation {
            bytes: number * 1024 * 1024,
            backups,
        })
    };
    assert_eq!(rotation(""), megabytes(100, Some(5)));
    assert_eq!(rotation("audit: {maxSizeMB: 0, maxBackups: 0}"), None);
    assert_eq!(
        rotation("audit: {maxSizeMB: 1, maxBackups: 0}"),
        megabytes(1, None)
    );
    assert_eq!(rotation("audit: {maxBackups: 2}"), megabytes(100, Some(2)));
    assert!(error(&least_and("audit: {maxSizeMB: 1000001}")).contains("write 0 to 1000000"));
}

/// Seen red: with the index left out of the place.
#[test]
fn sources_are_networks_and_what_has_no_effect_is_warned_about() {
    let sources = |text: &str| least_and(&format!("sources: {text}"));
    for (text, expected) in [
        (
            "{port: [10.1.2.3/8]}",
            "sources.port[0]: \"10.1.2.3/8\" has bits set beyond /8; write 10.0.0.0/8",
        ),
        (
            "{port: [10.0.0.0/8, node-1]}",
            "sources.port[1]: \"node-1\" is no network; write a CIDR",
        ),
        (
            "{interactive: [fe80::1%eth0]}",
            "sources.interactive[0]: \"fe80::1%eth0\" names the interface",
        ),
        ("{port: 10.0.0.0/8}", "sources.port: \"10.0.0.0/8\" is not a list"),
        ("{ports: []}", "sources.ports"),
    ] {
        let error = error(&sources(text));
        assert!(error.contains(expected), "{text}: {error}");
    }
    let many = vec!["::1"; 1025].join(", ");
    let error = error(&sources(&format!("{{port: [{many}]}}")));
    assert!(
        error.contains("sources.port: has 1025 networks; write 1024 at most"),
        "{error}"
    );

    for (text, warnings) in [
        ("{port: [10.0.0.0/8, '::1'], interactive: [10.0.0.7]}", &[][..]),
        ("{interactive: [10.0.0.7]}", &[]),
        (
            "{port: [10.0.0.0/8, 10.0.0.0/8]}",
            &["sources.port[1]: 10.0.0.0/8 is there twice"],
        ),
        (
            "{port: [10.0.0.0/8, '::ffff:10.1.0.0/112']}",
            &["10.1.0.0/16 is within 10.0.0.0/8"],
        ),
        (
            "{port: [10.1.0.0/16, 10.0.0.0/8]}",
            &["10.1.0.0/16 is within 10.0.0.0/8"],
        ),
        (
            "{port: [10.0.0.0/8], interactive: [10.0.0.7, 11.0.0.0/8]}",
            &["sources.interactive[1]: 11.0.0.0/8 is not within a network of sources.port"],
        ),
    ] {
        let settings = good(&sources(text));
        assert_eq!(
            settings.warnings.len(),
            warnings.len(),
            "{text}: {:?}",
            settings.warnings
        );
        for (warning, expected) in settings.warnings.iter().zip(warnings) {
            assert!(warning.contains(expected), "{text}: {warning}");
        }
    }
    let settings = good(&sources("{port: ['::ffff:192.0.2.10'], excludeApiServer: true}"));
    let yaml = settings.to_yaml().unwrap();
    assert!(yaml.contains("192.0.2.10") && !yaml.contains("ffff"), "{yaml}");
}
