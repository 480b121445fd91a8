//! Other programs load, delete and load again what rules the node has: its firewall when it is reloaded, an
//! operator, kube-proxy when it starts again. A caller must never be led around the gate by that for longer
//! than the gate needs to see it, and each place that tells of the seal must tell the same afterwards.
//!
//! ufw and firewalld are Debian's own, each with a configuration of its own for the node.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::node::{Node, on_every_backend, server_seen_from};
use crate::patience::{eventually, eventually_answers, patience};
use crate::program::assert_says;
use crate::seal_kept_out::eventually_all_say;
use crate::skipped::skip_test;

/// Which servers took the neighbour's connections while `work` went on; what it is given waits for a few more
/// of them.
fn under_traffic(node: &Node, work: impl FnOnce(&dyn Fn())) -> BTreeMap<&'static str, usize> {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let neighbour = &node.neighbour;
    let (asked, more) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let stop = &stop;
        let asking = scope.spawn(move || {
            let mut servers = BTreeMap::new();
            while !stop.load(Relaxed) {
                *servers
                    .entry(server_seen_from(neighbour, "192.0.2.10:10250"))
                    .or_default() += 1;
                let _ = asked.send(());
            }
            servers
        });
        {
            let _stop = Stop(stop);
            work(&|| {
                while more.try_recv().is_ok() {}
                // The first may have begun before; one that the change breaks is waited for, and asked again.
                for _ in 0..2 {
                    more.recv_timeout(4 * patience()).unwrap();
                }
            });
        }
        asking.join().unwrap()
    })
}

/// Whether the program is there; if not, the test is skipped and says so.
fn is_installed(program: &str, name: &str) -> bool {
    if Path::new(program).exists() {
        return true;
    }
    let why = format!("{program} is missing");
    assert!(
        std::env::var_os("KUBELET_GATE_NAMESPACES").is_none(),
        "{name}: {why}"
    );
    skip_test(name, &why);
    false
}

/// Starts a gate that puts the seal back, and seals the node around it.
async fn seal(node: &mut Node) {
    node.require();
    node.seal().await;
    node.admitted().await;
    eventually_all_say(node, "sealed").await;
}

async fn assert_sealed(node: &Node) {
    eventually_all_say(node, "sealed").await;
    let said = node.firewall_exits(0, "status");
    assert!(said.starts_with("sealed\n"), "{said}");
    let server = server_seen_from(&node.neighbour, "192.0.2.10:10250");
    assert_eq!(server, "gate", "{}", node.backend);
}

/// (Not seen red.)
#[test]
fn every_rule_of_the_node_is_flushed() {
    on_every_backend(async |mut node: Node| {
        seal(&mut node).await;
        let servers = under_traffic(&node, |more| {
            more();
            for _ in 0..3 {
                node.flush_rules();
                more();
            }
        });
        assert!(servers.contains_key("gate"), "{}: {servers:?}", node.backend);
        // With iptables-legacy the gate may be unable to put them back: then it says so.
        eventually_answers("the gate has judged the flush", async || {
            let sealed = node
                .firewall_prints("status --no-namespace")
                .starts_with("sealed\n");
            node.seal_state().await == if sealed { "sealed" } else { "open" }
        })
        .await;
        if node.backend != "iptables-legacy" {
            assert_sealed(&node).await;
        }
        node.stop().await;
    });
}

/// kube-proxy's tables in nft mode, with a Service; each time it starts they are deleted and made again.
///
/// (Not seen red.)
#[test]
fn kube_proxy_starts_again() {
    const RULES: &str = "table ip kube-proxy {
        set cluster-ips { type ipv4_addr; elements = { 10.96.0.10 }; }
        map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
            elements = { 10.96.0.10 . tcp . 80 : goto service-web }; }
        map service-nodeports { type inet_proto . inet_service : verdict
            elements = { tcp . 30080 : goto service-web }; }
        chain filter-prerouting { type filter hook prerouting priority dstnat - 10; ct state new jump firewall; }
        chain filter-input { type filter hook input priority -110; ct state new jump cluster-ips-check; }
        chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
        chain nat-output { type nat hook output priority -100; jump services; }
        chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
        chain firewall { }
        chain cluster-ips-check { ip daddr @cluster-ips reject; }
        chain services {
            ip daddr . meta l4proto . th dport vmap @service-ips
            fib daddr type local meta l4proto . th dport vmap @service-nodeports
        }
        chain service-web { ip saddr != 10.244.0.0/16 jump mark-for-masquerade; meta l4proto tcp dnat to 10.88.0.2:8080; }
        chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
        chain masquerading {
            meta mark & 0x4000 == 0 return
            meta mark set meta mark xor 0x4000
            masquerade fully-random
        }
    }";
    on_every_backend(async |mut node: Node| {
        node.shell(&format!("nft '{RULES}'"));
        seal(&mut node).await;
        let servers = under_traffic(&node, |more| {
            for _ in 0..10 {
                node.shell("nft delete table ip kube-proxy");
                more();
                node.shell(&format!("nft '{RULES}'"));
                more();
            }
        });
        assert_eq!(
            servers.keys().collect::<Vec<_>>(),
            [&"gate"],
            "{}: {servers:?}",
            node.backend
        );
        assert_sealed(&node).await;
        node.stop().await;
    });
}

/// Debian's ufw on this node.
fn ufw(node: &Node, arguments: &str) -> String {
    let variant = node.iptables().rsplit('-').next().unwrap();
    node.shell(&format!(
        "exec unshare -m sh -ec '
            d={}
            if [ ! -d $d ]; then
                mkdir $d; cp -a /etc/ufw $d/ufw; cp -a /etc/alternatives $d/alternatives
                for n in iptables iptables-save iptables-restore; do
                    ln -sf /usr/sbin/$(echo $n | sed s/tables/tables-{variant}/) $d/alternatives/$n
                    six=ip6${{n#ip}}
                    ln -sf /usr/sbin/$(echo $six | sed s/tables/tables-{variant}/) $d/alternatives/$six
                done
            fi
            mount --bind $d/ufw /etc/ufw; mount --bind $d/alternatives /etc/alternatives
            mount -t tmpfs none /run
            exec ufw {arguments}' 2>&1",
        node.file("ufw.d").display(),
    ))
}

/// (Not seen red.)
#[test]
fn ufw_is_reloaded() {
    if !is_installed("/usr/sbin/ufw", "seal_beside_firewalls::ufw_is_reloaded") {
        return;
    }
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        ufw(&node, "allow 10250/tcp");
        ufw(&node, "--force enable");
        let said = node.firewall_exits(2, "apply").replace("\n    ", " ");
        assert_says(
            &said,
            &[
                "but not the gate's ports 19443, 19255",
                "table filter, chain ufw-user-input",
                "for port in 19443 19255; do ufw allow $port/tcp; done",
            ],
        );
        for port in [19443, 19255] {
            ufw(&node, &format!("allow {port}/tcp"));
        }
        node.kill_gate();
        seal(&mut node).await;
        let servers = under_traffic(&node, |more| {
            more();
            ufw(&node, "reload");
            more();
        });
        assert!(servers.contains_key("gate"), "{}: {servers:?}", node.backend);
        assert!(!servers.contains_key("kubelet"), "{}: {servers:?}", node.backend);
        assert_sealed(&node).await;
        // What it opened is taken back.
        ufw(&node, "delete allow 19443/tcp");
        let said = node.firewall_exits(2, "status");
        assert_says(&said, &["NOT SEALED", "ufw allow"]);
        eventually_all_say(&node, "shut").await;
        node.stop().await;
    });
}

/// Debian's firewalld on this node, with a bus of its own.
struct Firewalld {
    processes: Vec<Child>,
    bus: String,
}

impl Firewalld {
    async fn start(node: &Node) -> Self {
        let (socket, configuration) = (node.file("bus"), node.file("firewalld"));
        let bus = format!("unix:path={}", socket.display());
        node.shell(&format!("cp -a /etc/firewalld {}", configuration.display()));
        let mut daemon = node.command("dbus-daemon");
        daemon
            .args(["--session", "--nofork", "--nopidfile", "--address", &bus])
            .stderr(Stdio::null());
        let mut started = Self {
            processes: vec![daemon.spawn().unwrap()],
            bus,
        };
        eventually("the bus is there", || socket.exists()).await;
        let mut firewalld = node.command("firewalld");
        firewalld
            .args([
                "--nofork",
                "--nopid",
                // It changes the mode of the file that is named here.
                "--log-file",
                node.file("firewalld.log").to_str().unwrap(),
                "--system-config",
            ])
            .arg(&configuration)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &started.bus)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        started.processes.push(firewalld.spawn().unwrap());
        eventually("firewalld runs", || {
            let mut command = node.command("firewall-cmd");
            command
                .arg("--state")
                .env("DBUS_SYSTEM_BUS_ADDRESS", &started.bus);
            command.output().unwrap().status.success()
        })
        .await;
        started
    }

    fn tell(&self, node: &Node, arguments: &str) -> String {
        node.shell(&format!(
            "DBUS_SYSTEM_BUS_ADDRESS={} firewall-cmd {arguments}",
            self.bus
        ))
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// (Not seen red.)
#[test]
fn firewalld_is_reloaded() {
    if !is_installed(
        "/usr/sbin/firewalld",
        "seal_beside_firewalls::firewalld_is_reloaded",
    ) {
        return;
    }
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let firewalld = Firewalld::start(&node).await;
        firewalld.tell(&node, "--permanent --add-port=10250/tcp");
        firewalld.tell(&node, "--reload");
        // It accepts redirected connections by itself: packets under the trial decide.
        let said = node
            .firewall_exits(0, "apply --confirm-within 60s")
            .replace("\n    ", " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_says(
            &said,
            &[
                "but not the gate's ports 19443, 19255",
                "table inet firewalld",
                "for port in 19443 19255; do firewall-cmd --permanent --add-port=$port/tcp; done; \
                 firewall-cmd --reload",
                "A rule accepts redirected connections",
                "ct status dnat accept",
            ],
        );
        node.firewall_exits(0, "confirm");
        let server = server_seen_from(&node.neighbour, "192.0.2.10:10250");
        assert_eq!(server, "gate", "{}", node.backend);
        node.firewall_exits(0, "remove");
        node.kill_gate();
        seal(&mut node).await;
        let servers = under_traffic(&node, |more| {
            more();
            firewalld.tell(&node, "--reload");
            more();
        });
        assert!(servers.contains_key("gate"), "{}: {servers:?}", node.backend);
        // Of iptables it flushes the rules of every program: the gate puts its own back, a moment later.
        if node.backend == "nftables" {
            assert!(!servers.contains_key("kubelet"), "{servers:?}");
        }
        assert_sealed(&node).await;
        // Without that rule the gate's port is shut.
        node.shell(
            "nft -a list chain inet firewalld filter_INPUT | sed -n 's/.*ct status dnat accept # handle //p' |
            xargs -n 1 nft delete rule inet firewalld filter_INPUT handle",
        );
        let said = node.firewall_exits(2, "status");
        assert_says(&said, &["NOT SEALED", "firewall-cmd"]);
        eventually_all_say(&node, "shut").await;
        node.stop().await;
    });
}
