//! Liveness probes of old nodes ask the read-only port on loopback. Strangers who hold connections to it must
//! not have the kubelet restarted.

use fakes::client::Client;
use tokio::time::timeout;

use super::play::Flood;
use crate::patience::patience;

/// Each stranger has one connection, so none holds more than a share, and all are young.
///
/// Seen red: with 64 places for all addresses, each probe waited for the deadline of a stranger; with the
/// places of loopback not kept apart, a probe was closed.
#[test]
fn silent_connections_from_outside() {
    let name = "silent connections to the read-only port from outside";
    let flood = Flood::new(name, "200, each again 1 s after its end").on_network();
    flood.begin_after(200).play_with(
        async |attacker| {
            let open = async |number: u32| {
                let from = attacker.ground.attacker(number);
                attacker.tcp(from, attacker.read_only).await.ok()
            };
            attacker.hold(200, open).await;
        },
        async |scene| {
            let local = Client::plain(scene.read_only([127, 0, 0, 1].into())).with_deadline(patience());
            // Twenty probes would wait for twenty deadlines of strangers.
            let probes = async {
                for _ in 0..20 {
                    assert_eq!(local.get("/healthz").await.unwrap().status(), 200);
                }
            };
            timeout(patience(), probes)
                .await
                .expect("the probes wait for strangers");
        },
        async |_, _| {},
    );
}
