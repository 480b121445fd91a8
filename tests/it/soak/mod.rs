//! What goes wrong only after a while: memory or descriptors that leak with each reload, each upgrade, each
//! client that goes away; an answer that is lost when two of them happen at once. Clients of every kind ask,
//! while files change, the gate is upgraded, and the kubelet and the API server come and go.
//!
//! The short form, which every `cargo test` runs, takes some seconds. `just soak`, or `KUBELET_GATE_SOAK=1800`
//! with a release build, takes so many seconds, has 4,000 idle connections, and writes its summary to
//! `target/soak.md`.

mod events;
mod generations;
mod summary;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use self::events::{Event, Events};
use self::generations::Generations;
use crate::load::{Outages, Plan, Site, lost};
use crate::service_manager::ServiceManager;

/// How long the full form takes.
static FULL: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let text = std::env::var("KUBELET_GATE_SOAK").ok()?;
    match text.parse() {
        Ok(seconds) if seconds >= 30 => Some(Duration::from_secs(seconds)),
        _ => panic!("KUBELET_GATE_SOAK is {text:?}: expected seconds, 30 or more, or no such variable"),
    }
});

/// The first value in the short form, the second in the full form.
fn scaled<T>(short: T, full: T) -> T {
    if FULL.is_some() { full } else { short }
}

/// What happens, in this order, again and again. Before an upgrade, the one before it has settled.
const ROUND: [Event; 10] = [
    Event::Certificates,
    Event::Kubelet,
    Event::DenyList,
    Event::ApiServer,
    Event::Configuration,
    Event::Kubelet,
    Event::Certificates,
    Event::ApiServer,
    Event::DenyList,
    Event::Upgrade,
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_leaks() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).unwrap();
    let mut site = Site::new().await;
    site.put("denied.txt", "# end\n");
    site.configure(|file| {
        file["authentication"]["denyFiles"] = json!(["denied.txt"]);
        file["authorization"] = json!({"paths": {"deny": []}});
        // All clients have one address here. A kubelet's are more than one, and fewer.
        file["limits"] = json!({"connections": 6000, "connectionsPerAddress": 6000});
    });
    let mut manager = ServiceManager::start_unit(site.unit()).await;
    let mut generations = Generations::begin(&manager, &site).await;
    let outages = Arc::new(Outages::default());
    let mut load = site.load_with(plan(), outages.clone()).await;
    let mut events = Events::new(outages);

    let (began, length) = (Instant::now(), FULL.unwrap_or(Duration::from_secs(8)));
    // The shortest form plays every event once.
    let beat = (length / 10).min(Duration::from_secs(15));
    for event in ROUND.into_iter().cycle() {
        load.eventually_asked(scaled(20, 200)).await;
        tokio::time::sleep(beat / 2).await;
        if event == Event::Upgrade {
            generations.ends(&manager, &site).await;
        }
        events.play(event, &mut site, &manager).await;
        tokio::time::sleep(beat / 2).await;
        generations.is_warm(&manager, &site).await;
        if event == Event::Upgrade && began.elapsed() >= length {
            break;
        }
    }
    generations.ends(&manager, &site).await;
    let took = began.elapsed();
    let tally = load.stop().await;
    generations.is_quiet(&manager, &site).await;
    summary::note(took, &tally, &events, &generations);
    lost(&tally);
    let resent = tally.sum(|kind| ["kept", "idle"].contains(&kind), |counts| counts.resent);
    assert_eq!(resent, 0, "idle connections were closed under their clients");
    generations.assert_no_leak();
    manager.eventually_others(0).await;
    manager.stop().await;
}

fn plan() -> Plan {
    Plan {
        kept: scaled(1, 4),
        new: scaled(1, 2),
        idle: scaled(40, 4000),
        idle_for: Duration::from_secs(scaled(2, 60)),
        rough: scaled(1, 4),
        streams: scaled(1, 4),
        pause: Duration::from_millis(scaled(5, 10)),
        lasting: Duration::from_secs(scaled(1, 8)),
    }
}
