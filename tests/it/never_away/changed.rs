//! A new version comes with a new configuration, and a mistake in it. The gate that serves must go on, and
//! say why it was not replaced.

use serde_json::json;

use super::{plan, scaled};
use crate::load::{Site, lost};
use crate::patience::eventually;
use crate::program::assert_says;
use crate::service_manager::ServiceManager;

/// How many requests are judged between two upgrades.
const REQUESTS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_start_leaves_the_old_one_as_it_was() {
    let mut site = Site::new().await;
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let mut load = site.load(plan()).await;
    load.eventually_asked(REQUESTS).await;
    let old = manager.main();
    for _ in 0..scaled(1, 5) {
        // Its check fails.
        site.configure(|file| file["workers"] = json!("many"));
        assert!(!manager.reload().await.success());
        assert_says(&manager.log(), &["gate.yaml", "workers"]);
        load.eventually_asked(REQUESTS).await;

        // Its check passes, and then it cannot listen: no interface has this address (RFC 5737).
        let address = site.address;
        site.configure(|file| {
            file["workers"] = json!(1);
            file["listen"] = json!([address, "192.0.2.77:10443"]);
        });
        assert!(!manager.reload().await.success());
        eventually("both say so", || {
            let log = manager.log();
            log.contains("192.0.2.77:10443") && log.contains("this process goes on")
        })
        .await;
        load.eventually_asked(REQUESTS).await;
        site.configure(|file| file["listen"] = json!([address]));
        assert_eq!((manager.main(), manager.others()), (old, vec![]));
    }
    manager.upgrade().await;
    load.eventually_asked(REQUESTS).await;
    let tally = load.stop().await;
    lost(&tally);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_may_have_another_path() {
    let site = Site::new().await;
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let mut load = site.load(plan()).await;
    load.eventually_asked(REQUESTS).await;
    std::fs::rename(site.path("gate.yaml"), site.path("other.yaml")).unwrap();
    manager.change_configuration(site.path("other.yaml"));
    manager.upgrade().await;
    load.eventually_asked(REQUESTS).await;
    let line = std::fs::read(format!("/proc/{}/cmdline", manager.main())).unwrap();
    assert_says(&String::from_utf8_lossy(&line), &["other.yaml"]);
    let tally = load.stop().await;
    lost(&tally);
    manager.stop().await;
}

/// Each process enters the sandbox of its own configuration: the old one's does not bind the new one, and
/// what the old one left open is no way in. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_may_be_stricter_or_looser() {
    let mut site = Site::new().await;
    site.configure(|file| file["sandbox"] = json!("Off"));
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let mut load = site.load(plan()).await;
    load.eventually_asked(REQUESTS).await;
    for sandbox in ["Required", "BestEffort", "Off", "Required", "Off"] {
        site.configure(|file| file["sandbox"] = json!(sandbox));
        let replaced = manager.reload().await.success();
        if !replaced && sandbox == "Required" {
            let log = manager.log();
            // A machine without Landlock cannot hold it.
            assert_says(&log, &["sandbox is Required and cannot be held here", "Landlock"]);
            load.eventually_asked(REQUESTS).await;
            continue;
        }
        assert!(replaced, "{}", manager.log());
        let status = std::fs::read_to_string(format!("/proc/{}/status", manager.main())).unwrap();
        let confined = if sandbox == "Off" { "0" } else { "1" };
        assert_says(&status, &[&format!("NoNewPrivs:\t{confined}")]);
        load.eventually_asked(REQUESTS).await;
        manager.eventually_others(0).await;
    }
    let tally = load.stop().await;
    lost(&tally);
    manager.stop().await;
}
