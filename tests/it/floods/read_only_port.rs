//! Liveness probes of old nodes ask the read-only port on loopback. Strangers who hold connections to it must
//! not have the kubelet restarted.

use fakes::client::Client;

use super::play::Flood;
use crate::patience::patience;

#[test]
fn silent_connections_from_outside() {
    let name = "200 silent connections to the read-only port from outside";
    let flood = Flood::new(name, "each again 1 s after its end").on_network();
    flood.begin_after(200).play_with(
        async |attacker| {
            let open = async |number: u32| {
                let from = attacker.ground.attacker(number % 50);
                attacker.tcp(from, attacker.read_only).await.ok()
            };
            attacker.hold(200, open).await;
        },
        async |scene| {
            let local = Client::plain(scene.gate.read_only[1]).with_deadline(patience());
            for _ in 0..20 {
                assert_eq!(local.get("/healthz").await.unwrap().status(), 200);
            }
        },
        async |_, _| {},
    );
}
