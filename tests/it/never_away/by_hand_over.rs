//! The gate hands its sockets over to the process that follows it.

use std::time::Instant;

use super::figures::Row;
use super::{plan, requests, upgrades};
use crate::load::{Load, Site, Tally, lost};
use crate::service_manager::{ServiceManager, listening};

/// A gate that binds its own sockets.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_socket_unit() {
    let site = Site::new().await;
    let manager = ServiceManager::start_unit(site.unit()).await;
    let row = Row::new("hand-over");
    in_a_row(manager, site.load(plan()).await, row).await;
}

/// A gate whose port the service manager holds as well.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_socket_unit() {
    let site = Site::new().await;
    let unit = site.unit().socket("tls", listening(site.address));
    let manager = ServiceManager::start_unit(unit).await;
    let row = Row::new("hand-over, socket unit");
    in_a_row(manager, site.load(plan()).await, row).await;
}

/// Upgrades the unit under this load, and stops both.
pub(super) async fn in_a_row(mut manager: ServiceManager, mut load: Load, mut row: Row) {
    for _ in 0..upgrades() {
        load.eventually_asked(requests()).await;
        // While two processes drain, a third hand-over is refused.
        manager.eventually_others(1).await;
        let began = Instant::now();
        manager.upgrade().await;
        row.took(began.elapsed());
    }
    load.eventually_asked(requests()).await;
    let tally = load.stop().await;
    row.note(&tally);
    lost(&tally);
    no_idle_connection_was_closed(&tally);
    // Their streams have ended, and so do they.
    manager.eventually_others(0).await;
    manager.stop().await;
}

/// A client may send its next request at the moment at which an idle connection is closed, and then it fails.
fn no_idle_connection_was_closed(tally: &Tally) {
    let on_http1 = |kind: &str| ["kept", "idle"].contains(&kind);
    assert_eq!(tally.sum(on_http1, |counts| counts.resent), 0);
}
