//! A file that cannot be read keeps no other from being taken up.

use std::fs;

use serde_json::json;

use super::write_private;
use crate::world::{PKI, Status as _, World};

fn failed(world: &World, what: &str) -> bool {
    world.metric("reload_failing", &[("what", what)]) == 1.0
}

/// Seen red: with certificate, key and CAs read as one.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_serving_pair_keeps_no_ca_out_and_a_bad_bundle_no_pair() {
    let world = World::start().await;
    let bundle = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()].concat();
    assert_eq!(world.client("carol").status("/healthz").await, 401);
    fs::remove_file(world.file("gate-serving.key")).unwrap();
    fs::write(world.file("ca.crt"), bundle).unwrap();
    world.gate.reload();
    assert!(failed(&world, "serving"));
    assert_eq!(world.client("carol").status("/healthz").await, 200);

    let renewed = crate::trust_changes::serving_pair();
    renewed.write(world.file("").as_path()).unwrap();
    fs::write(world.file("ca.crt"), "").unwrap();
    world.gate.reload();
    assert!(failed(&world, "serving"));
    let shown = world.stranger().handshake().await.unwrap().server_certificate;
    assert_eq!(shown.unwrap(), renewed.chain[0].to_vec());
    assert_eq!(world.client("carol").status("/healthz").await, 200);
    world.stop().await;
}

/// Seen red: with the files of `upstream` read as one.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pin_keeps_no_token_out() {
    let world = World::builder()
        .configure(|configuration, folder| {
            write_private(&folder.join("token"), "first");
            configuration["upstream"]["tokenFile"] = json!("token");
        })
        .start()
        .await;
    let sent = async || {
        world.kubelet.clear();
        assert_eq!(world.client("bob").status("/pods").await, 200);
        let seen = world.kubelet.requests();
        let headers = seen.last().unwrap().headers.iter();
        let found = headers.filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        found.map(|(_, value)| value.clone()).collect::<String>()
    };
    assert_eq!(sent().await, "Bearer first");
    fs::rename(world.file("kubelet-serving.crt"), world.file("away.crt")).unwrap();
    fs::write(world.file("token"), "second").unwrap();
    world.gate.reload();
    assert!(failed(&world, "upstream"));
    assert_eq!(sent().await, "Bearer second");
    fs::rename(world.file("away.crt"), world.file("kubelet-serving.crt")).unwrap();
    world.gate.reload();
    assert!(!failed(&world, "upstream"));
    world.stop().await;
}
