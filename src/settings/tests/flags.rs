//! Flags win over the file.

use super::*;

#[test]
fn flags_win_over_the_file() {
    let flags = flags_of(&[
        "--anonymous-auth",
        "--client-ca-file=/flag/ca.crt",
        "--authentication-token-webhook=false",
        "--authentication-token-webhook-cache-ttl=1m",
        "--authorization-mode=AlwaysAllow",
        "--authorization-webhook-cache-authorized-ttl",
        "1.5h",
        "--authorization-webhook-cache-unauthorized-ttl=0",
        "--kubeconfig=/flag/kubeconfig",
        "--tls-cert-file=/flag/crt",
        "--tls-private-key-file=/flag/key",
        "--tls-min-version=VersionTLS13",
        "--tls-cipher-suites=TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "--hostname-override=Worker-9",
        "--address=192.0.2.99",
        "--port=10443",
        "--read-only-port=10255",
    ]);
    let settings = Settings::parse(EXAMPLE, Path::new("/etc/gate/gate.yaml"), &flags).unwrap();
    let authentication = &settings.authentication;
    assert!(authentication.anonymous && !authentication.webhook);
    assert_eq!(settings.tls.client_ca_file, Some("/flag/ca.crt".into()));
    assert_eq!(authentication.webhook_cache_ttl, Duration::from_secs(60));
    assert_eq!(settings.authorization.mode, AuthorizationMode::AlwaysAllow);
    assert_eq!(
        settings.authorization.cache_authorized_ttl,
        Duration::from_secs(5400)
    );
    assert_eq!(settings.authorization.cache_unauthorized_ttl, Duration::ZERO);
    assert_eq!(settings.kubeconfig, Some("/flag/kubeconfig".into()));
    assert_eq!(settings.tls.cert_file, PathBuf::from("/flag/crt"));
    assert_eq!(settings.tls.private_key_file, PathBuf::from("/flag/key"));
    assert_eq!(settings.tls.min_version, TlsVersion::Tls13);
    assert_eq!(
        suites(&settings),
        [
            "TLS_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
        ]
    );
    assert_eq!(settings.node_name.as_deref(), Some("worker-9"));
    assert_eq!(settings.listen, ["192.0.2.99:10443".parse().unwrap()]);
    assert_eq!(
        settings.read_only_port.listen,
        ["192.0.2.99:10255".parse().unwrap()]
    );
}

#[test]
fn a_flag_alone_changes_only_its_own_key() {
    let with = |arguments: &[&str], text: &str| {
        Settings::parse(text, Path::new("/etc/gate/gate.yaml"), &flags_of(arguments)).unwrap()
    };
    let addresses = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<SocketAddr>>()
    };
    let two = LEAST.replace(
        r#"["192.0.2.10:10250"]"#,
        r#"["192.0.2.10:10250", "192.0.2.11:10250"]"#,
    );
    assert_eq!(
        with(&["--port=1"], &two).listen,
        addresses(&["192.0.2.10:1", "192.0.2.11:1"])
    );
    assert_eq!(with(&["--address=::1"], &two).listen, addresses(&["[::1]:10250"]));
    let none = LEAST.replace("listen: [\"192.0.2.10:10250\"]\n", "");
    assert_eq!(
        with(&["--address=192.0.2.1"], &none).listen,
        addresses(&["192.0.2.1:10250"])
    );
    assert_eq!(with(&["--port=1"], &none).listen, addresses(&["0.0.0.0:1"]));
    let tombstone = least_and("readOnlyPort: {listen: ['192.0.2.10:10255']}");
    assert_eq!(
        with(&["--read-only-port=0"], &tombstone).read_only_port.listen,
        []
    );
    assert_eq!(
        with(&[], &tombstone).read_only_port.listen,
        addresses(&["192.0.2.10:10255"])
    );
    assert_eq!(with(&["--anonymous-auth=false"], LEAST), good(LEAST));
}

#[test]
fn an_error_names_the_flag_it_came_from() {
    let said = |arguments: &[&str]| {
        Settings::parse(LEAST, Path::new("gate.yaml"), &flags_of(arguments))
            .unwrap_err()
            .to_string()
    };
    assert!(said(&["--authorization-mode=X"]).starts_with("--authorization-mode: \"X\" is not known"));
    assert!(
        said(&["--address=127.0.0.1"])
            .starts_with("--address: 127.0.0.1:10250 is also 127.0.0.1:10250 of upstream")
    );
    for bad in [
        "--port=0",
        "--port=65536",
        "--address=x",
        "--anonymous-auth=yes",
        "--kubeconfig",
    ] {
        assert!(Line::try_parse_from(["kubelet-gate", bad]).is_err(), "{bad}");
    }
    assert!(Line::try_parse_from(["kubelet-gate", "--authentication-token-webhook-cache-ttl=2"]).is_err());
}

#[test]
fn a_flags_zero_is_zero_and_stays_so_when_printed() {
    let flags = flags_of(&[
        "--authentication-token-webhook-cache-ttl=0",
        "--authorization-webhook-cache-authorized-ttl=0s",
        "--authorization-webhook-cache-unauthorized-ttl=0",
    ]);
    let settings = Settings::parse(EXAMPLE, Path::new("/etc/gate/gate.yaml"), &flags).unwrap();
    let ttls = |settings: &Settings| {
        [
            settings.authentication.webhook_cache_ttl,
            settings.authorization.cache_authorized_ttl,
            settings.authorization.cache_unauthorized_ttl,
        ]
    };
    assert_eq!(ttls(&settings), [Duration::ZERO; 3]);
    let again = good(&settings.to_yaml().unwrap());
    assert_eq!(ttls(&again), [Duration::from_nanos(1); 3]);
}

#[test]
fn the_flags_leave_the_commands_own_description_alone() {
    #[derive(Parser)]
    #[command(about = "the command's own")]
    struct Described {
        #[command(flatten)]
        _flags: KubeletFlags,
    }
    let help = <Described as clap::CommandFactory>::command()
        .render_long_help()
        .to_string();
    assert!(help.starts_with("the command's own\n"), "{help}");
}
