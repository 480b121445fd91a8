//! Probes ask the admin port. A user of the node who fills it with silent connections would have the gate
//! killed by its own supervisor.

use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tokio::io::AsyncWriteExt as _;

use super::attackers::Attacker;
use super::play::Flood;
use super::scaled;

/// The attackers' thread becomes another user's: of root's connections the gate keeps some apart.
fn become_another_user() {
    let uid = Uid::from_raw(65_534);
    set_thread_res_uid(uid, uid, uid).unwrap();
}

fn flood(name: &'static str, rate: &'static str) -> Flood {
    Flood::new(name, rate).on_network().begin_after(64)
}

/// Seen red: with 64 places for all users, no probe was answered within 20 s.
#[test]
fn silent_connections() {
    flood(
        "silent connections to the admin port",
        "256, each again 1 s after its end",
    )
    .play(async |attacker| {
        become_another_user();
        let open = async |_| attacker.tcp([127, 0, 0, 1].into(), attacker.admin).await.ok();
        attacker.hold(scaled(64, 256), open).await;
    });
}

/// Seen red: in the same way.
#[test]
fn connections_that_do_not_read() {
    let name = "connections to the admin port that ask and do not read";
    flood(name, "64, each again 1 s after its end").play(async |attacker| {
        become_another_user();
        let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
        let each = (0..64).map(async |_| {
            loop {
                if let Ok(mut connection) = attacker.tcp([127, 0, 0, 1].into(), attacker.admin).await {
                    while connection.write_all(many.as_bytes()).await.is_ok() {}
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        });
        futures_util::future::join_all(each).await;
    });
}

/// The census is at its largest: each caller of the read-only port has a name of its own.
///
/// Seen red: with a build for each request, 200 in a second.
#[test]
fn the_census() {
    let flood = Flood::new(
        "the full census, asked for",
        "4 connections, each again when answered",
    )
    .on_network();
    let attack = async |attacker: Attacker| {
        become_another_user();
        let callers = scaled(200, 5000);
        for number in 0..callers {
            let agent = format!("{number}-{}", "x".repeat(200));
            ask(
                &attacker,
                attacker.read_only,
                &format!("User-Agent: {agent}\r\n"),
                "/pods",
            )
            .await;
        }
        let forever = async || {
            loop {
                ask(&attacker, attacker.admin, "", "/readonly-census").await;
            }
        };
        tokio::join!(forever(), forever(), forever(), forever());
    };
    flood.begin_after(scaled(200, 5000)).play_with(
        attack,
        async |_| {},
        async |scene, outcome| {
            let built = scene.metric("admin_reports_total", &[("report", "census")]).await;
            // One in a quarter of a second. The attack goes on for a moment after the measured time.
            let most = (outcome.took.as_secs_f64() + 2.0) / 0.25;
            assert!((1.0..=most).contains(&built), "{built} built, at most {most}");
        },
    );
}

async fn ask(attacker: &Attacker, to: std::net::SocketAddr, headers: &str, target: &str) {
    let from = if to.ip().is_loopback() {
        to.ip()
    } else {
        attacker.ground.attacker(0)
    };
    if let Ok(mut connection) = attacker.tcp(from, to).await {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        let _ = connection.write_all(request.as_bytes()).await;
        super::attackers::read_to_end(&mut connection).await;
    }
}
