//! An attacker's network must be closed without a restart, on connections that are open already too; and the
//! lists that close it must not close the node to its API server by mistake.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use fakes::client::Connection;
use kubelet_gate::settings::{KubeletFlags, Settings};
use serde_json::{Value, json};

use crate::patience::{eventually, eventually_answers};
use crate::world::{API_SERVER, Status as _, World, request};

const LOG: &str = "/containerLogs/default/web/nginx";
const EXEC: &str = "/exec/default/web/nginx?command=cat&input=1&output=1";

fn source(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn file(world: &World) -> PathBuf {
    world.file("kubelet-gate.yaml")
}

/// Writes these lists into the configuration, and has the gate read it as on SIGHUP.
fn change(world: &World, lists: Value) {
    let mut configuration: Value = serde_json::from_slice(&fs::read(file(world)).unwrap()).unwrap();
    configuration["sources"] = lists;
    fs::write(file(world), format!("{configuration:#}\n")).unwrap();
    world.gate.reload();
}

/// A world whose gate follows its configuration file.
async fn start(lists: Value) -> World {
    let world = World::builder().set("sources", lists).start().await;
    let settings = Settings::load(&file(&world), &KubeletFlags::default()).unwrap();
    world
        .gate
        .follow_configuration(file(&world), KubeletFlags::default(), settings);
    world
}

async fn ask(connection: &mut Connection, target: &str) -> (u16, String) {
    let answer = connection.send(request("GET", target, &[])).await.unwrap();
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    (answer.status().as_u16(), body)
}

/// Seen red: with the connection left open.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_open_is_judged_by_the_new_list_and_closed() {
    let world = start(json!({})).await;
    let mut open = Vec::new();
    for (last, client) in [
        (2, world.client("bob")),
        (3, world.client("bob")),
        (3, world.h2_client("bob")),
    ] {
        let mut connection = client.with_source(source(last)).connect().await.unwrap();
        assert_eq!(ask(&mut connection, "/pods").await.0, 200);
        open.push(connection);
    }
    world.kubelet.clear();
    change(&world, json!({"port": ["127.0.0.2"]}));
    let [here, h1, h2] = &mut open[..] else {
        unreachable!()
    };
    assert_eq!(ask(here, "/pods").await.0, 200);
    world.kubelet.clear();
    for connection in [h1, h2] {
        let (status, body) = ask(connection, "/pods").await;
        assert_eq!(
            (status, body.as_str()),
            (403, "Forbidden: this port is not open to your address\n")
        );
        eventually("the connection is closed", || connection.is_closed()).await;
    }
    world.assert_nothing_forwarded();
    assert_eq!(world.metric("rejections_total", &[("reason", "source")]), 2.0);
    assert!(
        world
            .client("bob")
            .with_source(source(3))
            .get("/pods")
            .await
            .is_err()
    );
    eventually("both refusals are in the audit", || {
        let events = world.audit();
        let refused = |event: &&Value| event.to_string().contains("sources.port does not have 127.0.0.3");
        events.iter().filter(refused).count() == 2
    })
    .await;

    change(&world, json!({}));
    assert_eq!(
        world.client("bob").with_source(source(3)).status("/pods").await,
        200
    );
    drop(open);
    world.stop().await;
}

/// Seen red: with new lists not judged.
#[tokio::test(flavor = "multi_thread")]
async fn lists_that_leave_out_the_api_server_are_refused_unless_they_say_so() {
    let world = start(json!({})).await;
    let api_server = world.client(API_SERVER).with_source(source(5));
    assert_eq!(api_server.status(LOG).await, 200);
    // An administrator is not the API server.
    assert_eq!(world.client("bob").with_source(source(9)).status(LOG).await, 200);
    let failing = || world.metric("reload_failing", &[("what", "configuration")]);
    for lists in [
        json!({"port": ["127.0.0.2", "127.0.0.9"]}),
        json!({"port": ["127.0.0.0/8"], "interactive": ["127.0.0.2"]}),
    ] {
        change(&world, lists);
        assert_eq!(failing(), 1.0);
        assert_eq!(
            api_server.status(LOG).await,
            200,
            "the last good lists stay in force"
        );
        assert_eq!(world.client("bob").with_source(source(3)).status(LOG).await, 200);
    }
    change(&world, json!({"port": ["127.0.0.5"]}));
    assert_eq!(failing(), 0.0);
    assert!(world.client("bob").with_source(source(9)).get(LOG).await.is_err());
    change(&world, json!({"port": ["127.0.0.2"], "excludeApiServer": true}));
    assert_eq!(failing(), 0.0);
    assert!(api_server.get(LOG).await.is_err());
    let said = world.admin_client().get("/readyz?verbose").await.unwrap();
    let said = String::from_utf8_lossy(said.body()).into_owned();
    assert!(
        said.contains("sources.port does not have 127.0.0.5, where the API server"),
        "{said}"
    );
    world.stop().await;
}

/// Seen red: with a stream judged by the reviews alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_shell_from_a_source_that_is_no_longer_listed_ends() {
    let world = start(json!({})).await;
    for lists in [
        json!({"interactive": ["127.0.0.2"]}),
        json!({"port": ["127.0.0.2"]}),
    ] {
        change(&world, json!({}));
        let open = async |last| {
            let client = world.client("bob").with_source(source(last));
            let answer = client.websocket(EXEC, &["v5.channel.k8s.io"], &[]).await.unwrap();
            answer.switched().unwrap()
        };
        let (mut here, elsewhere) = (open(2).await, open(3).await);
        eventually("two shells are counted", || world.metric("streams", &[]) == 2.0).await;
        change(&world, lists.clone());
        eventually_answers("one of the two shells has ended", async || {
            world.metric("streams", &[]) == 1.0
        })
        .await;
        here.send_stdin(b"still here\n").await.unwrap();
        assert_eq!(here.read_stdout(11).await.unwrap(), b"still here\n", "{lists}");
        drop(elsewhere);
        here.close().await.unwrap();
        eventually("no stream is left", || world.metric("streams", &[]) == 0.0).await;
    }
    world.stop().await;
}
