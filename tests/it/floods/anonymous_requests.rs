//! Each request leaves an event in the audit. Strangers who make them as large as they may fill the disk of
//! the node.

use fakes::client::Alpn;
use tokio::io::{AsyncWriteExt as _, split};

use super::attackers::read_to_end;
use super::play::Flood;

/// Audit that strangers may cause, in bytes: at once, and each second.
const AT_ONCE: f64 = 2e6;
const PER_SECOND: f64 = 1e6;

/// Seen red: with every refusal audited in full, 18,444 requests wrote 141 MB.
#[test]
fn do_not_fill_the_audit() {
    let name = "anonymous requests with a URI of 8 KB";
    Flood::new(name, "4 connections, as fast as the gate reads").play_with(
        async |attacker| {
            let request = format!("GET /pods?{} HTTP/1.1\r\nHost: node\r\n\r\n", "x".repeat(8000));
            let forever = async |number: u32| {
                loop {
                    let Ok(connection) = attacker.client(number, None, Alpn::H1).stream().await else {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    };
                    let (mut reads, mut writes) = split(connection);
                    let write = async {
                        while writes.write_all(request.as_bytes()).await.is_ok() {
                            attacker.note();
                        }
                    };
                    tokio::select! {
                        () = write => {}
                        () = read_to_end(&mut reads) => {}
                    }
                }
            };
            tokio::join!(forever(0), forever(1), forever(2), forever(3));
        },
        async |_| {},
        async |_, outcome| {
            let written = outcome.during.audit_bytes - outcome.before.audit_bytes;
            let bound = AT_ONCE + PER_SECOND * outcome.took.as_secs_f64();
            assert!(
                (written as f64) < bound,
                "{written} bytes of audit, more than {bound}"
            );
        },
    );
}
