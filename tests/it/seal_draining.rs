//! Connections that a seal has brought to the gate, when the seal goes. If the kernel stopped translating
//! their packets, every followed log and every shell on the node would be cut in the middle; and if what
//! keeps them stayed, a node that was put back as it was would not be as it was.

use std::time::Duration;

use fakes::client::Client;
use kubelet_gate::host::Namespace;
use tokio::runtime::{Builder, Runtime};

use crate::live_streams::Live;
use crate::node::{Node, on_every_backend, server_at};
use crate::patience::{eventually, patience, stretched};
use crate::world::{API_SERVER, request};

const CAT: &str = "/exec/default/web/nginx?command=cat&input=1&output=1";
const LOG: &str = "/containerLogs/default/web/nginx?follow=true";

/// Streams through the redirect, and the runtime of their network namespace if it is another.
struct Streams {
    live: Vec<Live>,
    elsewhere: Vec<Runtime>,
}

async fn log(client: Client) -> Live {
    let answer = client.open(request("GET", LOG, &[])).await.unwrap();
    assert_eq!(answer.status(), 200);
    Live::Log(answer)
}

async fn shell(client: Client) -> Live {
    let answer = client.websocket(CAT, &["v5.channel.k8s.io"], &[]).await.unwrap();
    Live::Socket(answer.switched().expect("a 101"))
}

// === impl Streams ===

impl Streams {
    /// A followed log and a shell from this node, its neighbour and a pod, over both protocols.
    async fn open(node: &Node) -> Self {
        let client = |address: &str| node.client(API_SERVER, address.parse().unwrap());
        let mut live = Vec::new();
        for address in ["127.0.0.1:10250", "[::1]:10250"] {
            live.push(log(client(address)).await);
            live.push(shell(client(address)).await);
        }
        let mut streams = Self {
            live,
            elsewhere: Vec::new(),
        };
        for (namespace, address) in [
            (&node.neighbour, "192.0.2.10:10250"),
            (&node.neighbour, "[2001:db8::10]:10250"),
            (&node.pod, "10.88.0.1:10250"),
        ] {
            streams.open_from(namespace, &client(address));
        }
        streams.go_on().await;
        streams
    }

    fn open_from(&mut self, namespace: &Namespace, client: &Client) {
        let open = || {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.unwrap();
            let live = runtime.block_on(async { [log(client.clone()).await, shell(client.clone()).await] });
            (runtime, live)
        };
        let (runtime, live) = namespace.run(open).unwrap();
        self.live.extend(live);
        self.elsewhere.push(runtime);
    }

    /// Bytes pass both ways; of a log, more lines come than were on their way.
    async fn go_on(&mut self) {
        for _ in 0..3 {
            for live in &mut self.live {
                live.assert_alive().await;
            }
        }
    }

    /// Every one has been reset.
    async fn are_cut(mut self) {
        for live in &mut self.live {
            let ended = async {
                match live {
                    Live::Log(answer) => while let Ok(Some(_)) = answer.body_mut().next().await {},
                    Live::Socket(session) => while let Ok(Some(_)) = session.next().await {},
                    Live::Spdy(_) => unreachable!(),
                }
            };
            // The client's own deadline for a piece would be longer than this one.
            tokio::time::timeout(patience() / 2, ended)
                .await
                .expect("it goes on");
        }
        self.leave();
    }

    fn leave(self) {
        drop(self.live);
        for runtime in self.elsewhere {
            runtime.shutdown_background();
        }
    }
}

/// Everything that any packet filter lists of this node, byte for byte but for counters and times.
fn listed(node: &Node) -> String {
    let saves = match node.backend {
        "iptables-legacy" => "; iptables-legacy-save; ip6tables-legacy-save",
        _ => "",
    };
    let counts = |word: &&str| !(word.starts_with('[') && word.ends_with(']'));
    node.shell(&format!(
        "nft -s list ruleset{saves}; ! which ipset >/dev/null || ipset list -name"
    ))
    .lines()
    .filter(|line| !line.starts_with('#'))
    .map(|line| line.split(' ').filter(counts).collect::<Vec<_>>().join(" ") + "\n")
    .collect()
}

/// The tables of iptables-legacy cannot be taken away again: the kernel has them from the first look at them.
fn look_at_legacy_tables(node: &Node) {
    if node.backend == "iptables-legacy" {
        node.shell(
            "for i in iptables-legacy ip6tables-legacy; do for t in raw nat filter; do $i -t $t -S \
             >/dev/null; done; done",
        );
    }
}

/// Some of what kube-proxy and a network plugin write: chains of type nat that stay.
fn other_programs_translate(node: &Node) {
    let iptables = node.iptables();
    node.shell(&format!(
        "for i in {iptables} {}; do
        $i -t nat -N KUBE-MARK-MASQ; $i -t nat -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
        $i -t nat -N KUBE-SERVICES; $i -t nat -A PREROUTING -j KUBE-SERVICES; $i -t nat -A OUTPUT -j KUBE-SERVICES
        $i -t nat -A KUBE-SERVICES -p tcp --dport 30080 -m addrtype --dst-type LOCAL -j KUBE-MARK-MASQ
        $i -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
        $i -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        done",
        iptables.replace("ip", "ip6")
    ));
}

/// As another program would list it: what the gate, or root where the gate may not, leaves in the end.
async fn eventually_as_before(node: &Node, before: &str) {
    eventually(&format!("{}: as before:\n{before}", node.backend), || {
        if node.backend == "iptables-legacy" {
            node.firewall_exits(2, "status --no-namespace");
        }
        listed(node) == before
    })
    .await;
}

const KEPT: [&str; 2] = ["kubelet_gate_draining", "KG-DRAINING"];

fn is_kept(node: &Node) -> bool {
    let listed = listed(node);
    KEPT.iter().any(|name| listed.contains(name))
}

/// Seen red: with a chain in which no rule looks at connections.
#[test]
fn streams_go_on_when_the_seal_is_removed_and_the_last_one_leaves_the_node_as_it_was() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        for beside_others in [false, true] {
            if beside_others {
                node.kill_gate();
                other_programs_translate(&node);
            }
            let before = listed(&node);
            node.seal().await;
            let mut streams = Streams::open(&node).await;
            let said = node.firewall_exits(0, "remove");
            assert!(
                said.contains("10 connections that the seal had brought"),
                "{said}"
            );
            assert!(said.contains("--cut"), "{said}");
            assert_eq!(server_at("127.0.0.1:10250").await, "kubelet");
            assert_eq!(server_at("[::1]:10250").await, "kubelet");
            streams.go_on().await;
            assert!(is_kept(&node), "{}", node.backend);
            // Neither another remove nor a look ends them.
            let said = node.firewall_exits(0, "remove");
            assert!(said.contains("connections that the seal had brought"), "{said}");
            let said = node.firewall_exits(2, "status --no-namespace");
            assert!(said.contains("connections that the seal had brought"), "{said}");
            streams.go_on().await;
            streams.leave();
            eventually_as_before(&node, &before).await;
        }
        node.stop().await;
    });
}

/// Seen red: with a chain in which no rule looks at connections.
#[test]
fn streams_go_on_when_a_trial_ends_and_the_last_one_leaves_the_node_as_it_was() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        let before = listed(&node);
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let window = stretched(Duration::from_secs(12)).as_secs();
        node.firewall_exits(0, &format!("apply --confirm-within {window}s"));
        let mut streams = Streams::open(&node).await;
        eventually("the kernel has ended the trial", || {
            let listed = node.firewall_prints("status --no-namespace");
            !listed.contains("on trial")
        })
        .await;
        assert_eq!(server_at("127.0.0.1:10250").await, "kubelet");
        streams.go_on().await;
        eventually("what is left of the trial is taken away", || {
            is_kept(&node) && !listed(&node).contains("kubelet-gate-trial")
        })
        .await;
        streams.go_on().await;
        streams.leave();
        eventually_as_before(&node, &before).await;
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn cutting_resets_the_streams_at_once_and_leaves_the_node_as_it_was() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        for beside_others in [false, true] {
            if beside_others {
                node.kill_gate();
                other_programs_translate(&node);
            }
            let before = listed(&node);
            node.seal().await;
            let streams = Streams::open(&node).await;
            node.firewall_exits(0, "remove --cut");
            assert_eq!(listed(&node), before, "{}", node.backend);
            streams.are_cut().await;
        }
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn a_connection_to_the_gates_own_port_keeps_nothing() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        let before = listed(&node);
        node.seal().await;
        let mut direct = log(node.client(API_SERVER, "127.0.0.1:19443".parse().unwrap())).await;
        direct.assert_alive().await;
        node.firewall_exits(0, "remove");
        assert_eq!(listed(&node), before, "{}", node.backend);
        for _ in 0..3 {
            direct.assert_alive().await;
        }
        drop(direct);
        node.stop().await;
    });
}

/// Seen red: without a reset, by which a client that only reads learns of it.
///
/// The chain says until when it is kept: that is written anew here, as if the hour were over.
#[test]
fn a_stream_that_never_ends_is_cut_when_the_hour_is_over() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        let before = listed(&node);
        node.seal().await;
        let mut streams = Streams::open(&node).await;
        node.firewall_exits(0, "remove");
        let comment = "kubelet-gate-keeps-translating-until-1700000000-to-ports-19443-19255";
        let rule = format!("-m conntrack --ctstate DNAT -m comment --comment {comment}");
        // One after the other, so that connections are looked at all the time.
        match node.backend {
            "nftables" => node.shell(&format!(
                "c='inet kubelet_gate_draining keep_tracking'
                h=$(nft -a list chain $c | sed -n 's/.*# handle //p' | tail -1)
                nft add rule $c ct status dnat comment '\"{comment}\"'; nft delete rule $c handle $h"
            )),
            _ => node.shell(&format!(
                "for i in {0} {1}; do $i -t nat -A KG-DRAINING {rule}; $i -t nat -D KG-DRAINING 1; done",
                node.iptables(),
                node.iptables().replace("ip", "ip6")
            )),
        };
        if node.backend == "iptables-legacy" {
            streams.go_on().await;
        }
        eventually_as_before(&node, &before).await;
        streams.are_cut().await;
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn waiting_ends_with_the_last_stream_and_a_new_seal_keeps_them_open() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        let before = listed(&node);
        node.seal().await;
        let mut streams = Streams::open(&node).await;
        node.firewall_exits(0, "remove");
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        assert!(!is_kept(&node), "{}", node.backend);
        streams.go_on().await;
        // No gate is needed to take it away.
        let mut waiting = node.firewall_starts("remove --wait");
        eventually("it is removed", || is_kept(&node)).await;
        streams.go_on().await;
        assert!(waiting.try_wait().unwrap().is_none());
        streams.leave();
        let mut status = None;
        eventually("the command has ended", || {
            status = waiting.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success(), "{status:?}");
        assert_eq!(listed(&node), before, "{}", node.backend);
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn tables_of_other_programs_stay_whether_or_not_they_are_empty() {
    on_every_backend(async |mut node: Node| {
        look_at_legacy_tables(&node);
        // As iptables-nft leaves them.
        node.shell(
            "nft 'table ip nat { chain PREROUTING { type nat hook prerouting priority -100; }; }
            table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }
            table ip6 raw { }'",
        );
        let before = listed(&node);
        node.seal().await;
        node.firewall_exits(0, "remove");
        assert_eq!(listed(&node), before, "{}", node.backend);
        node.kill_gate();
        node.seal().await;
        let rule = "-t nat -A POSTROUTING -s 10.88.0.0/24 -j MASQUERADE";
        node.shell(&format!("{} {rule}", node.iptables()));
        node.firewall_exits(0, "remove");
        let after = node.shell(&format!("{}-save -t nat", node.iptables()));
        assert!(
            after.contains("-A POSTROUTING -s 10.88.0.0/24 -j MASQUERADE"),
            "{after}"
        );
        assert!(!after.contains("KG-"), "{after}");
        node.stop().await;
    });
}
