//! `upstream`: where the kubelet may be, and how it proves itself.

use super::*;

#[test]
fn the_upstream_is_loopback_and_never_the_read_only_port() {
    let http: SocketAddr = "127.0.0.1:10251".parse().unwrap();
    assert_eq!(
        good(&upstream("{url: 'http://127.0.0.1:10251/'}")).upstream.url,
        UpstreamUrl::Http(http)
    );
    let socket = good(&upstream("{url: 'unix:///run/kubelet.sock'}")).upstream;
    assert_eq!(
        (socket.url, socket.trust),
        (UpstreamUrl::Unix("/run/kubelet.sock".into()), None)
    );
    good(&upstream("{url: 'https://[::1]:10250', certificateFile: a}"));
    good(&upstream(
        "{url: 'https://198.51.100.1:10250', certificateFile: a, allowRemote: true}",
    ));
    for (section, expected) in [
        (
            "{url: 'http://127.0.0.1:10255'}",
            "is the kubelet's read-only port",
        ),
        (
            "{url: 'https://[::1]:10255', certificateFile: a}",
            "is the kubelet's read-only port",
        ),
        (
            "{url: 'https://198.51.100.1:10250', certificateFile: a}",
            "set upstream.allowRemote: true",
        ),
        (
            "{url: 'http://198.51.100.1:10250', allowRemote: true}",
            "unencrypted",
        ),
        (
            "{url: 'https://0.0.0.0:10250', certificateFile: a}",
            "is nothing to connect to",
        ),
        (
            "{url: 'https://127.0.0.1:0', certificateFile: a}",
            "is nothing to connect to",
        ),
        (
            "{url: 'https://localhost:10250', certificateFile: a}",
            "write https://127.0.0.1:10250",
        ),
        (
            "{url: 'https://127.0.0.1', certificateFile: a}",
            "write https://127.0.0.1:10250",
        ),
        (
            "{url: 'https://u:p@127.0.0.1:10250', certificateFile: a}",
            "scheme, IP address and port alone",
        ),
        (
            "{url: 'https://127.0.0.1:10250/pods', certificateFile: a}",
            "scheme, IP address and port alone",
        ),
        (
            "{url: '127.0.0.1:10250'}",
            "is not a URL that the gate can forward to",
        ),
        ("{url: 'unix://run/x.sock'}", "absolute path"),
    ] {
        let said = error(&upstream(section));
        assert!(
            said.contains(":4: upstream.url: ") && said.contains(expected),
            "{section}\n{said}"
        );
    }
}

#[test]
fn the_kubelet_proves_itself_in_exactly_one_way() {
    let ca = good(&upstream(
        "{url: 'https://127.0.0.1:10250', caFile: /ca.crt, serverName: worker-1}",
    ));
    let expected = UpstreamTrust::Ca {
        ca_file: "/ca.crt".into(),
        server_name: "worker-1".to_owned(),
    };
    assert_eq!(ca.upstream.trust, Some(expected));
    for (keys, expected) in [
        ("", "upstream.certificateFile: is missing: https must be verified"),
        (
            ", caFile: a",
            "upstream.serverName: is missing, though upstream.caFile is there",
        ),
        (
            ", serverName: a",
            "upstream.caFile: is missing, though upstream.serverName is there",
        ),
        (
            ", certificateFile: a, caFile: b",
            "upstream.certificateFile: contradicts upstream.caFile",
        ),
        (
            ", certificateFile: a, serverName: b",
            "upstream.certificateFile: contradicts upstream.serverName",
        ),
        (
            ", caFile: a, serverName: 'a b'",
            "upstream.serverName: \"a b\" is neither a DNS name nor an IP address",
        ),
        (
            ", certificateFile: a, clientCertificateFile: b",
            "upstream.clientKeyFile: is missing",
        ),
        (
            ", certificateFile: a, clientKeyFile: b",
            "upstream.clientCertificateFile: is missing",
        ),
    ] {
        let said = error(&upstream(&format!("{{url: 'https://127.0.0.1:10250'{keys}}}")));
        assert!(said.contains(expected), "{keys}\n{said}");
    }
    for key in ["certificateFile", "caFile", "serverName"] {
        let said = error(&upstream(&format!("{{url: 'unix:///run/x.sock', {key}: a}}")));
        assert!(
            said.contains(&format!(
                "upstream.{key}: \"a\" belongs to TLS, but upstream.url is unix://"
            )),
            "{said}"
        );
    }
}
