//! The gate is stopped and started, while the service manager holds its port.

use std::time::Instant;

use super::figures::Row;
use super::{plan, requests, upgrades};
use crate::load::{Site, lost};
use crate::service_manager::{ServiceManager, listening};

#[tokio::test(flavor = "multi_thread")]
async fn on_a_socket_unit() {
    let site = Site::new().await;
    let unit = site.unit().socket("tls", listening(site.address));
    let mut manager = ServiceManager::start_unit(unit).await;
    let mut load = site.load(plan()).await;
    let mut row = Row::new("stop and start, socket unit");
    for _ in 0..upgrades() {
        load.eventually_asked(requests()).await;
        let began = Instant::now();
        manager.restart().await;
        row.took(began.elapsed());
    }
    load.eventually_asked(requests()).await;
    let tally = load.stop().await;
    row.note(&tally);
    lost(&tally);
    manager.stop().await;
}
