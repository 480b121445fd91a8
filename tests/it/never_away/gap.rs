//! Without a socket unit and without a hand-over, as in a DaemonSet, a restart is a gap: nothing listens until
//! the old process has ended. A followed log makes that as long as `limits.shutdownTimeout`.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use fakes::client::{Alpn, Client, ClientTls};
use rustix::process::Signal;
use serde_json::json;

use super::scaled;
use crate::load::Site;
use crate::patience::eventually;
use crate::service_manager::{ServiceManager, is_alive, listening, signal};
use crate::world::{PKI, request};

/// Seen red: with the sockets dropped only after the drain, the port is not free while it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_free_at_once_but_systemd_starts_nothing_until_the_old_process_has_ended() {
    let mut site = Site::new().await;
    for timeout in scaled(&[2][..], &[30, 10, 2]) {
        site.configure(|file| file["limits"] = json!({"shutdownTimeout": format!("{timeout}s")}));
        let mut manager = ServiceManager::start_unit(site.unit()).await;
        let client = Client::new(site.address, bob()).unwrap();
        let log = "/containerLogs/default/web/nginx?follow=true";
        let log = client.open(request("GET", log, &[])).await.unwrap();
        assert_eq!(log.status(), 200);

        let (old, began) = (manager.main(), Instant::now());
        signal(old, Signal::TERM);
        eventually("the port refuses connections", || {
            TcpStream::connect(site.address).is_err()
        })
        .await;
        let refused = began.elapsed();
        // Another process could listen there now.
        drop(listening(site.address));
        assert!(is_alive(old), "nothing drains: the log is not followed");
        manager.restart().await;
        let gap = began.elapsed();
        assert!(gap >= Duration::from_secs(*timeout), "{gap:?}");
        assert_eq!(client.get("/healthz").await.unwrap().status(), 200);
        println!("shutdownTimeout {timeout} s, a log followed: refused after {refused:?}, for {gap:?}");
        drop(log);

        let began = Instant::now();
        manager.restart().await;
        println!("nothing open: refused for {:?}", began.elapsed());
        manager.stop().await;
    }
}

fn bob() -> ClientTls {
    ClientTls {
        certificate: Some((PKI.bob.chain.clone(), PKI.bob.key.clone_key())),
        alpn: Alpn::H1,
        ..ClientTls::default()
    }
}
