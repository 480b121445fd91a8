//! The gate hands its sockets over to the process that follows it.

use std::time::{Duration, Instant};

use super::figures::Row;
use super::{plan, requests, upgrades};
use crate::load::{Load, Site, Tally, lost};
use crate::patience::eventually;
use crate::service_manager::{ServiceManager, listening};

/// A gate that binds its own sockets.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_socket_unit() {
    let site = Site::new().await;
    let manager = ServiceManager::start_unit(site.unit()).await;
    let row = Row::new("hand-over");
    in_a_row(manager, site.load(plan()).await, row, requests()).await;
}

/// The service manager believes the main process alone, and ends one that gives no sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_the_main_process_alone() {
    let site = Site::new().await;
    let unit = site.unit().watchdog(Duration::from_secs(2));
    let mut manager = ServiceManager::start_unit(unit).await;
    for _ in 0..2 {
        manager.upgrade().await;
        let (main, seen) = (manager.main(), manager.told().len());
        eventually("the new process gives signs of life", || {
            let told = manager.told();
            let signs = told[seen..]
                .iter()
                .filter(|told| told.text.contains("WATCHDOG=1"));
            signs.filter(|told| told.pid == main && told.accepted).count() >= 2
        })
        .await;
    }
    let ignored: Vec<_> = manager.told().into_iter().filter(|told| !told.accepted).collect();
    assert!(ignored.is_empty(), "{ignored:?}");
    manager.stop().await;
}

/// A gate whose port the service manager holds as well.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_socket_unit() {
    let site = Site::new().await;
    let unit = site.unit().socket("tls", listening(site.address));
    let manager = ServiceManager::start_unit(unit).await;
    let row = Row::new("hand-over, socket unit");
    in_a_row(manager, site.load(plan()).await, row, requests()).await;
}

/// Upgrades the unit under this load, with so many requests for each, and stops both.
pub(super) async fn in_a_row(mut manager: ServiceManager, mut load: Load, mut row: Row, requests: u64) {
    for _ in 0..upgrades() {
        load.eventually_asked(requests).await;
        // While two processes drain, a third hand-over is refused.
        manager.eventually_others(1).await;
        let began = Instant::now();
        manager.upgrade().await;
        row.took(began.elapsed());
    }
    load.eventually_asked(requests).await;
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
