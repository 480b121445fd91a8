//! Under a seal `sources.port` is in the kernel's rules. A stranger's packet must get no answer at
//! all, a client of the list must get through, and the seal must not be reported open because the gate
//! hangs up on the node itself.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kubelet_gate::host::Namespace;
use kubelet_gate::network::Network;
use kubelet_gate::seal::{Firewall, Plan, PortKind, SealedPort};
use kubelet_gate::settings::Backend;
use serde_json::json;

use crate::node::{GATEWAY, NODE, Node, on_a_node, on_every_backend, server_at, server_seen_from};
use crate::patience::{eventually, eventually_answers, stretched};
use crate::program::assert_says;

/// How the kernel answers a request for a connection.
fn dial(address: &str) -> Result<TcpStream, ErrorKind> {
    let address = address.parse().unwrap();
    let dialled = TcpStream::connect_timeout(&address, stretched(Duration::from_secs(1)));
    dialled.map_err(|error| error.kind())
}

fn dial_from(namespace: &Namespace, address: &str) -> Result<TcpStream, ErrorKind> {
    namespace.run(|| dial(address)).unwrap()
}

/// Starts a gate with this list, which has served the API server, and confirms a seal around it.
async fn seal(node: &mut Node, port: &[&str]) {
    node.start_gate_with(|configuration| configuration["sources"] = json!({"port": port}))
        .await;
    node.api_server_calls_gate().await;
    node.firewall_exits(0, "apply --confirm-within 60s");
    node.firewall_exits(0, "confirm");
}

fn is_dropped(dialled: &Result<TcpStream, ErrorKind>) -> bool {
    matches!(dialled, Err(ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

/// Seen red: without the rules for the gate's own port.
#[test]
fn a_stranger_gets_no_answer_and_a_listed_source_reaches_the_gate() {
    on_every_backend(async |mut node: Node| {
        let backend = node.backend;
        // Of the node's own addresses, the one that pods call is not listed.
        let listed = [
            "127.0.0.0/8",
            "::1",
            "192.0.2.0/24",
            "2001:db8::20",
            "2001:db8::10",
        ];
        seal(&mut node, &listed).await;
        let refused_before = node.metric("rejections_total", &[("reason", "source")]).await;
        for port in [10250, 19443] {
            for address in ["127.0.0.1", "[::1]", NODE[0], NODE[1]] {
                let address = format!("{address}:{port}");
                if port == 10250 {
                    assert_eq!(server_at(&address).await, "gate", "{backend}: node to {address}");
                } else {
                    assert!(dial(&address).is_ok(), "{backend}: node to {address}");
                }
            }
            for address in NODE.map(|address| format!("{address}:{port}")) {
                let dialled = dial_from(&node.neighbour, &address);
                assert!(dialled.is_ok(), "{backend}: neighbour to {address}: {dialled:?}");
            }
            for address in [GATEWAY, NODE[0]].map(|address| format!("{address}:{port}")) {
                let dialled = dial_from(&node.pod, &address);
                assert!(is_dropped(&dialled), "{backend}: pod to {address}: {dialled:?}");
            }
            // From 10.88.0.1, which is the node's own and not listed.
            let dialled = dial(&format!("{GATEWAY}:{port}")).err();
            assert_eq!(dialled, Some(ErrorKind::ConnectionRefused), "{backend}: {port}");
        }
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "gate");
        assert_eq!(server_seen_from(&node.neighbour, "[2001:db8::10]:10250"), "gate");
        // The tombstone is for everyone.
        assert_eq!(server_seen_from(&node.pod, "10.88.0.1:10255"), "gate");
        // The gate itself gets through to the kubelet.
        node.api_server_calls_gate().await;
        node.api_server_calls_kubelet().await;
        // But for those of apply, which dials the gate from another network before there is a seal.
        let refused = node.metric("rejections_total", &[("reason", "source")]).await;
        assert_eq!(refused, refused_before, "{backend}");
        let said = node.firewall_exits(0, "status");
        assert!(
            said.starts_with("sealed\n") && !said.contains("another sources.port"),
            "{said}"
        );
        node.firewall_exits(0, "remove");
        node.stop().await;
    });
}

#[test]
fn a_list_of_one_family_closes_the_other() {
    on_every_backend(async |mut node: Node| {
        seal(&mut node, &["127.0.0.1", "192.0.2.20"]).await;
        for port in [10250, 19443] {
            let dialled = dial_from(&node.neighbour, &format!("{}:{port}", NODE[0]));
            assert!(dialled.is_ok(), "{}: {dialled:?}", node.backend);
            let dialled = dial_from(&node.neighbour, &format!("{}:{port}", NODE[1]));
            assert!(is_dropped(&dialled), "{}: {dialled:?}", node.backend);
        }
        node.stop().await;
    });
}

/// Seen red: without the rules before those that leave the gate's addresses alone, and with the family that
/// no network is of left open.
#[test]
fn a_gate_that_has_the_port_itself_is_open_to_the_list_alone() {
    on_every_backend(async |node: Node| {
        let backend = match node.backend {
            "nftables" => Backend::Nftables,
            "iptables-nft" => Backend::IptablesNft,
            _ => Backend::IptablesLegacy,
        };
        let plan = |sources: &[&str]| Plan {
            sources: sources.iter().map(|text| Network::parse(text).unwrap()).collect(),
            backend,
            ports: vec![SealedPort {
                port: 11250,
                kind: PortKind::Secure,
                redirect_ipv4: None,
                redirect_ipv6: None,
                gate_addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
            }],
        };
        let _listening = ["127.0.0.1:11250", "192.0.2.10:11250", "[2001:db8::10]:11250"]
            .map(|address| TcpListener::bind(address).unwrap());
        let gate = ["192.0.2.10:11250", "[2001:db8::10]:11250"];
        Firewall::of(backend)
            .load(
                Some(&plan(&["192.0.2.20", "192.0.2.128/25", "2001:db8::20"])),
                None,
                None,
            )
            .unwrap();
        for address in gate {
            let dialled = dial_from(&node.neighbour, address);
            assert!(dialled.is_ok(), "{}: {address}: {dialled:?}", node.backend);
            assert_eq!(
                dial(address).err(),
                Some(ErrorKind::ConnectionRefused),
                "the node itself"
            );
        }
        assert!(is_dropped(&dial_from(&node.pod, gate[0])));
        assert!(dial("127.0.0.1:11250").is_err(), "the kubelet");
        Firewall::of(backend)
            .load(Some(&plan(&["10.0.0.0/8", "0.0.0.0/0"])), None, None)
            .unwrap();
        assert!(dial_from(&node.pod, gate[0]).is_ok() && dial(gate[0]).is_ok());
        assert!(is_dropped(&dial_from(&node.neighbour, gate[1])));
        Firewall::of(backend).remove().unwrap();
        node.stop().await;
    });
}

/// The gate hangs up on the node itself, before any rule of the seal does. Seen red: without the look at how
/// the connection ended, the node counted as not sealed.
#[test]
fn a_list_without_the_node_does_not_read_as_a_way_around() {
    on_a_node(async |mut node: Node| {
        node.seal().await;
        node.kill_gate();
        node.start_gate_with(|configuration| {
            configuration["sources"] = json!({"port": ["192.0.2.20"]});
        })
        .await;
        node.eventually_seal_is("sealed").await;
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_says(
            &words,
            &["goes by another sources.port than the configuration", "nothing"],
        );
        eventually_answers("the log names the difference", async || {
            node.log()
                .contains("the seal goes by another sources.port than the gate")
        })
        .await;
        let dialled = dial_from(&node.pod, "10.88.0.1:10250");
        assert!(
            !is_dropped(&dialled),
            "the rules do not have the list: {dialled:?}"
        );

        // With the new plan the kernel refuses.
        let said = node.firewall_exits(2, "apply --confirm-within 60s");
        assert_says(&said, &["has not served the API server yet"]);
        node.firewall_exits(0, "apply --confirm-within 60s --accept-unseen-api-server");
        node.firewall_exits(0, "confirm");
        assert!(is_dropped(&dial_from(&node.pod, "10.88.0.1:10250")));
        assert_eq!(dial("127.0.0.1:10250").err(), Some(ErrorKind::ConnectionRefused));
        let said = node.firewall_exits(0, "status");
        assert!(
            said.starts_with("sealed\n") && !said.contains("another sources.port"),
            "{said}"
        );
        node.stop().await;
    });
}

/// Seen red: with the API server's address compared with nothing.
#[test]
fn a_seal_that_leaves_out_the_api_server_is_refused() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let lists = |lists: serde_json::Value| {
            node.configuration(move |configuration| configuration["sources"] = lists);
        };
        lists(json!({"port": ["192.0.2.20"]}));
        let said = node.firewall_exits(2, "apply --confirm-within 60s");
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_says(
            &words,
            &["sources.port does not have 127.0.0.1, where the API server was served last"],
        );
        lists(json!({"port": ["192.0.2.20"], "excludeApiServer": true}));
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "remove");
        node.stop().await;
    });
}

/// Seen red: with the gate's own port not observed.
#[test]
fn observe_proposes_the_callers_of_the_gate_and_of_the_port_behind_it() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let mut observing = node.firewall("observe --for 3s");
        observing
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null());
        let observing = observing.spawn().unwrap();
        let said = std::thread::spawn(move || observing.wait_with_output().unwrap());
        let mut open = Vec::new();
        eventually("observe has ended", || {
            open.extend(dial_from(&node.neighbour, "192.0.2.10:19443").ok());
            open.extend(dial_from(&node.neighbour, "[2001:db8::10]:10250").ok());
            open.extend(dial_from(&node.pod, "10.88.0.1:10255").ok());
            open.truncate(30);
            said.is_finished()
        })
        .await;
        let said = tokio::task::spawn_blocking(move || said.join().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let proposal = said.split_once("sources:\n").unwrap().1;
        assert_says(
            proposal,
            &[
                "    - 127.0.0.0/8",
                "    - 192.0.2.20  # ",
                "    - 2001:db8::20  # ",
            ],
        );
        assert_says(proposal, &["  interactive:\n    - 127.0.0.1\n"]);
        assert!(
            !proposal.contains("10.88.0.2"),
            "a caller of the read-only port: {said}"
        );
        node.stop().await;
    });
}
