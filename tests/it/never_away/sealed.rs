//! A sealed node's rules exempt the gate's own connections. A new process that they do not exempt is cut off
//! from the kubelet, and an upgrade that changes them may leave the node open, or closed.

use std::net::SocketAddr;
use std::sync::Arc;

use super::by_hand_over::in_a_row;
use super::figures::Row;
use super::plan;
use crate::load::{Expected, Load};
use crate::node::{GATE, Node, on_every_backend};
use crate::service_manager::{ServiceManager, Unit};

#[test]
fn no_rule_changes() {
    on_every_backend(async |node: Node| {
        let here = |port| SocketAddr::from(([192, 0, 2, 10], port));
        let expected = Expected::of(here(10250)).await;
        let unit = Unit::new(node.gate_command(node.gate_uid), node.configuration(|_| {}));
        let manager = ServiceManager::start_unit(unit).await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "confirm");
        let rules = node.rules();
        assert!(!rules.is_empty());

        // The rules lead the callers of the kubelet's port to the gate.
        let addresses = [here(GATE), here(10250), SocketAddr::from(([127, 0, 0, 1], 10250))];
        let load = Load::begin(&addresses, expected, plan(), Arc::default());
        let row = Row::new(match node.backend {
            "nftables" => "hand-over, sealed by nftables",
            "iptables-nft" => "hand-over, sealed by iptables-nft",
            _ => "hand-over, sealed by iptables-legacy",
        });
        in_a_row(manager, load, row).await;
        assert_eq!(node.rules(), rules);
        node.stop().await;
    });
}
