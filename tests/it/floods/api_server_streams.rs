//! `kubectl exec` reaches every kubelet as the API server, whichever tenant runs it. If that one user had no
//! more streams than each other, one tenant would take exec from all.

use fakes::client::{Alpn, UpgradeAnswer};
use futures_util::future::join_all;
use serde_json::json;

use super::play::Flood;
use super::scaled;
use super::scene::client;
use crate::world::{API_SERVER, PKI};

const ATTACH: &str = "/exec/default/web/nginx?command=cat&input=1&output=1&error=1";
const PROTOCOL: [&str; 1] = ["v5.channel.k8s.io"];

/// Seen red: with one bound for all users, another tenant's exec was answered 429.
#[test]
fn of_one_tenant() {
    let streams: u32 = scaled(16, 256);
    let flood = Flood::new("streams through the API server", "256");
    let flood = flood
        .begin_after(u64::from(streams))
        .configure(move |configuration, _| {
            if scaled(true, false) {
                configuration["limits"]["streamsPerIdentity"] = json!(streams);
            }
        });
    flood.play_with(
        async move |attacker| {
            let client = attacker.client(0, PKI.pair(API_SERVER), Alpn::H1);
            let each = (0..streams).map(async |_| {
                let stream = client.websocket(ATTACH, &PROTOCOL, &[]).await;
                attacker.note();
                std::future::pending::<()>().await;
                drop(stream);
            });
            join_all(each).await;
        },
        async |scene| {
            let client = client(scene.address(), PKI.pair(API_SERVER), Alpn::H1);
            let client = client.with_source(scene.ground.known());
            match client.websocket(ATTACH, &PROTOCOL, &[]).await.unwrap() {
                UpgradeAnswer::Switched(..) => {}
                UpgradeAnswer::Refused(answer) => panic!("another tenant's exec: {answer:?}"),
            }
        },
        async |_, _| {},
    );
}
