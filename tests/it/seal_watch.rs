//! A seal that is gone and believed to be there is worse than none. The gate watches it, and has itself
//! exempted after a restart; what was confirmed holds from boot on, without a gate.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use crate::node::{GATE, Node, on_a_node, on_every_backend, server_at, server_seen_from, without_exemption};
use crate::patience::{eventually, eventually_answers, stays};
use crate::world::API_SERVER;

/// Seen red: with the fingerprint not compared, and with `firewall.required` not looked at.
#[test]
fn flushed_rules_are_missed_at_once() {
    on_every_backend(async |mut node: Node| {
        node.require();
        node.start_gate_with(|configuration| configuration["firewall"]["managed"] = false.into())
            .await;
        node.api_server_calls_gate().await;
        // Until the watch has looked, the gate is not ready either, for another reason.
        eventually_answers("no seal is in force", async || {
            let (status, said) = node.admin("/readyz").await.unwrap();
            status == 503 && said.contains("[-] seal: none is in force")
        })
        .await;
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "confirm");
        node.eventually_ready().await;
        for port in ["10250", "10255"] {
            for family in ["ipv4", "ipv6"] {
                let labels = [("port", port), ("family", family)];
                assert_eq!(node.metric("bypass_sealed", &labels).await, 1.0);
            }
        }
        node.flush_rules();
        eventually_answers("the gate is not ready", async || {
            let (status, said) = node.admin("/readyz").await.unwrap();
            let gone = said.contains("[-] seal: the rules of the seal are gone");
            status == 503 && (gone || said.contains("[-] seal: the rules of the seal are not"))
        })
        .await;
        assert_eq!(node.metric("bypass_sealed", &[("port", "10250")]).await, 0.0);
        eventually_answers("the time is counted", async || {
            node.metric("seal_open_seconds_total", &[]).await > 0.0
        })
        .await;
        let said = node.firewall_exits(2, "status --no-namespace");
        assert!(
            said.starts_with("NOT SEALED") && said.contains("BYPASS"),
            "{said}"
        );
        node.stop().await;
    });
}

/// Seen red: without listening to the kernel's announcements.
#[test]
fn removed_rules_are_put_back_where_the_gate_manages_them() {
    on_every_backend(async |mut node: Node| {
        // The lock of iptables-legacy is root's: there the gate can only report.
        if node.backend == "iptables-legacy" {
            return node.stop().await;
        }
        node.require();
        node.seal().await;
        let before = node.rules();
        node.eventually_ready().await;
        node.flush_rules();
        node.eventually_listed(&before).await;
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        node.api_server_calls_gate().await;
        node.stop().await;
    });
}

/// Seen red: with a watch that finds nothing while another process holds the lock; and with a lock that every
/// user may open.
#[test]
fn a_process_that_holds_the_lock_does_not_blind_the_watch() {
    on_a_node(async |mut node: Node| {
        node.require();
        node.seal().await;
        node.eventually_seal_is("sealed").await;
        let lock = std::fs::File::open(node.file("state/lock")).unwrap();
        assert_eq!(lock.metadata().unwrap().mode() & 0o777, 0o600);
        lock.lock().unwrap();
        node.flush_rules();
        eventually_answers("the gate is not ready", async || {
            let (status, said) = node.admin("/readyz").await.unwrap();
            status == 503 && said.contains("[-] seal: ")
        })
        .await;
        assert_eq!(node.metric("bypass_sealed", &[("port", "10250")]).await, 0.0);
        // Once the lock is free the rules are put back, as `firewall.managed` says.
        drop(lock);
        node.eventually_seal_is("sealed").await;
        node.stop().await;
    });
}

/// Seen red: with the listing after the reload not remembered, ten times a second.
#[test]
fn rules_that_another_version_lists_otherwise_are_loaded_once() {
    on_every_backend(async |mut node: Node| {
        // See above.
        if node.backend == "iptables-legacy" {
            return node.stop().await;
        }
        node.require();
        node.seal().await;
        node.kill_gate();
        let file = node.file("state/confirmed.json");
        let mut confirmed: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        confirmed["tool"] = "nft v0".into();
        confirmed["fingerprint"] = "as v0 lists it".into();
        std::fs::write(&file, confirmed.to_string()).unwrap();
        node.start_gate().await;
        let reloads = |node: &Node| node.log().matches("were put back").count();
        eventually_answers("the rules are loaded", async || reloads(&node) > 0).await;
        node.eventually_seal_is("sealed").await;
        // Each reload would announce itself within a tenth of a second.
        stays(Duration::from_secs(2), "one reload", || reloads(&node) == 1).await;
        // Later changes are missed.
        node.flush_rules();
        eventually_answers("the rules are put back", async || reloads(&node) == 2).await;
        node.stop().await;
    });
}

#[test]
fn a_gate_that_starts_again_is_let_through() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        let first = node.running_gate();
        node.kill_gate();
        let without = server_at("127.0.0.1:10250").await;
        assert_eq!(without, "none", "sealed without a gate");
        node.start_gate().await;
        let second = node.running_gate();
        let marks = [first, second].map(|gate| gate["exemption"]["mark"].clone());
        assert_ne!(marks[0], marks[1], "a mark is used once");
        node.admitted().await;
        node.eventually_ready().await;
        node.api_server_calls_gate().await;
        node.stop().await;
    });
}

/// Seen red: with a boot file whose output chain lets every process through; and with a gate that does not
/// admit itself.
#[test]
fn a_node_that_boots_without_a_gate_is_sealed() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        let confirmed = node.rules();
        node.kill_gate();
        let unit = std::fs::read_to_string(node.file("kubelet-gate-firewall.service")).unwrap();
        assert!(
            unit.contains("Before=network-pre.target kubelet.service k3s.service"),
            "{unit}"
        );
        node.flush_rules();
        node.delete_chains();
        let booting = server_at("127.0.0.1:10250").await;
        assert_eq!(booting, "kubelet", "nothing is loaded yet");
        for command in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            node.shell(command);
        }
        for port in [10248, 10250, 10255] {
            let address = format!("192.0.2.10:{port}");
            assert_eq!(server_seen_from(&node.neighbour, &address), "none", "{address}");
        }
        for address in ["127.0.0.1:10250", "[::1]:10250", "127.0.0.1:10255"] {
            assert_eq!(server_at(address).await, "none", "{address}");
        }
        node.start_gate().await;
        node.admitted().await;
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "gate");
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "status");
        let [loaded, confirmed] = [node.rules(), confirmed].map(|rules| without_exemption(&rules));
        assert_eq!(loaded, confirmed);
        node.stop().await;
    });
}

#[test]
fn a_wildcard_kubelet_finds_its_ports_free_a_hundred_times() {
    on_a_node(async |mut node: Node| {
        node.seal().await;
        for _ in 0..100 {
            node.restart_kubelet().await;
        }
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        node.api_server_calls_gate().await;
        node.stop().await;
    });
}

/// T35: a process that takes the kubelet's port while the kubelet is away receives no requests, and is named.
#[test]
fn a_squatter_on_the_kubelets_port_is_named() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.replace_kubelet_by_a_squatter().await;
        let client = node.client(API_SERVER, ([127, 0, 0, 1], GATE).into());
        let answer = client.get("/containerLogs/default/web/nginx").await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(node.metric("pin_mismatches_total", &[]).await >= 1.0);
        let named = format!("process {} ", std::process::id());
        eventually("the log names the squatter", || node.log().contains(&named)).await;
        node.stop().await;
    });
}

/// With the kubelet's own certificate at the gate the pin matches, and a connection that is not exempted is
/// redirected back to the gate. Seen red: with the other end not looked at, one request became hundreds of
/// nested ones.
#[test]
fn a_gate_that_is_not_let_through_does_not_ask_itself() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        node.kill_gate();
        // While another process changes the seal, the gate waits before it exempts itself.
        let state = kubelet_gate::seal::State::new(&node.file("state"));
        let changing = state.lock().unwrap();
        node.start_gate_with(|configuration| {
            configuration["tlsCertFile"] = "kubelet-serving.crt".into();
            configuration["tlsPrivateKeyFile"] = "kubelet-serving.key".into();
            // The gate also admits the client certificate that it shows the kubelet.
            configuration["upstream"]["clientCertificateFile"] = format!("{API_SERVER}.crt").into();
            configuration["upstream"]["clientKeyFile"] = format!("{API_SERVER}.key").into();
        })
        .await;
        let log = || std::fs::read_to_string(node.file("audit/audit.log")).unwrap();
        let asked = || log().matches("/pods?not-let-through").count();
        let client = node.client(API_SERVER, ([127, 0, 0, 1], GATE).into());
        let answer = client.get("/pods?not-let-through").await.unwrap();
        eventually("it is audited", || asked() > 0).await;
        assert_eq!((answer.status().as_u16(), asked()), (502, 1));
        drop(changing);
        node.admitted().await;
        node.api_server_calls_gate().await;
        node.stop().await;
    });
}
