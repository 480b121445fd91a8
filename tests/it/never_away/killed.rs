//! Either process may be killed at any step of a hand-over: by the kernel when memory is short, or by an
//! operator. Then one of them serves, or the service manager starts another; never are there two, and never
//! is one left that neither serves nor ends.

use std::time::{Duration, Instant};

use fakes::client::{Alpn, Client, ClientTls};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::scaled;
use crate::load::Site;
use crate::patience::{eventually, eventually_answers, patience};
use crate::service_manager::{ServiceManager, is_alive, signal};
use crate::world::{PKI, Status as _, request};

/// The process that is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Old,
    New,
    /// `kubelet-gate upgrade`, which started the new one.
    Command,
}

/// A step that can be seen from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The old process waits for the new one.
    Folder,
    /// The new process runs.
    Started,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_process() {
    killed(Victim::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_process() {
    killed(Victim::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command() {
    killed(Victim::Command).await;
}

/// The new version crashes while the old one still serves a followed log. The service manager starts no gate
/// until the old one has ended too: `limits.shutdownTimeout` would be an outage.
///
/// Seen red: with the old process waiting for its streams.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_crashes_later_is_replaced_at_once() {
    let mut site = Site::new().await;
    site.configure(|file| file["limits"]["shutdownTimeout"] = json!("10m"));
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let tls = ClientTls {
        certificate: Some((PKI.bob.chain.clone(), PKI.bob.key.clone_key())),
        alpn: Alpn::H1,
        ..ClientTls::default()
    };
    let client = Client::new(site.address, tls).unwrap().with_deadline(patience());
    let log = "/containerLogs/default/web/nginx?follow=true";
    let log = client.open(request("GET", log, &[])).await.unwrap();
    let old = manager.main();
    manager.upgrade().await;
    assert!(is_alive(old));
    signal(manager.main(), Signal::KILL);
    manager.recover().await;
    assert_eq!(client.status("/healthz").await, 200);
    drop(log);
    manager.stop().await;
}

/// From the first step to after the last: a hand-over takes some 50 ms.
async fn killed(victim: Victim) {
    let site = Site::new().await;
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let tls = ClientTls {
        certificate: Some((PKI.bob.chain.clone(), PKI.bob.key.clone_key())),
        alpn: Alpn::H1,
        ..ClientTls::default()
    };
    let client = Client::new(site.address, tls).unwrap().with_deadline(patience());
    let moments = (0..scaled(4, 40)).map(|number| {
        let after = Duration::from_millis(number * scaled(12, 2));
        (if number == 0 { Step::Folder } else { Step::Started }, after)
    });
    for (step, after) in moments {
        let old = manager.main();
        let mut before = client.connect().await.unwrap();
        assert_eq!(before.status("/healthz").await, 200);
        let mut command = manager.exec_reload().spawn().unwrap();
        let hit = reach(&site, &manager, step, after, victim).await;
        let ended = spawn_blocking(move || command.wait().unwrap()).await.unwrap();
        let main = manager.main();
        println!("{victim:?} {hit:?} at {step:?} + {after:?}: {ended}, main {old} -> {main}");
        if is_alive(main) {
            // The connections of a process that lives go on. One that was killed may
            // still be seen for a moment.
            if hit != Some(old) && is_alive(old) {
                assert_eq!(before.status("/healthz").await, 200);
            }
            assert_eq!(client.status("/healthz").await, 200, "{}", manager.log());
        } else {
            // The service manager sees that the main process has ended.
            manager.recover().await;
        }
        eventually_answers("the gate serves", async || client.status("/healthz").await == 200).await;
        drop(before);
        // And it can be upgraded.
        manager.eventually_others(0).await;
        manager.upgrade().await;
        manager.eventually_others(0).await;
        eventually("no folder is left", || !site.path("run/upgrade").exists()).await;
    }
    manager.stop().await;
}

/// Waits for the step and kills the victim. Yields its process id, if it was there.
async fn reach(
    site: &Site,
    manager: &ServiceManager,
    step: Step,
    after: Duration,
    victim: Victim,
) -> Option<u32> {
    let began = Instant::now();
    let old = manager.main();
    let find = |subcommand: &str| {
        let words = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&format!("\0{subcommand}\0"))
        };
        manager.others().into_iter().find(words)
    };
    let reached = || match step {
        Step::Folder => site.path("run/upgrade/socket").exists(),
        Step::Started => find("serve").is_some(),
    };
    while !reached() {
        // It may have passed between two looks.
        if began.elapsed() > patience() || manager.main() != old {
            return None;
        }
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(after).await;
    let pid = match victim {
        Victim::Old => Some(old),
        Victim::New => find("serve").filter(|pid| *pid != old),
        Victim::Command => find("upgrade"),
    }?;
    signal(pid, Signal::KILL);
    Some(pid)
}
