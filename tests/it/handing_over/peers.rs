//! Either process may be killed at any step. The other one goes on, or both have ended and nothing is left.

use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fakes::client::Alpn;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Node, ended, kill, runs};
use crate::patience::{eventually, patience};
use crate::program::kubelet_gate;

/// What the new process says, in its order.
pub(super) const SAID: [&str; 3] = ["hello", "ready", "serving"];

/// A process that says what a gate says, up to a step.
pub(super) struct Peer(pub(super) Socket);

impl Peer {
    /// Connects once the socket is there.
    pub(super) async fn connect(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        let address = SockAddr::unix(path).unwrap();
        eventually("the socket is there", || socket.connect(&address).is_ok()).await;
        Self(socket)
    }

    pub(super) fn say(&self, what: &Value) {
        let bytes = what.to_string();
        let (parts, mut none) = ([IoSlice::new(bytes.as_bytes())], SendAncillaryBuffer::default());
        sendmsg(&self.0, &parts, &mut none, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next message, with its descriptors; `None`: the gate has closed the connection.
    pub(super) fn hear(&self) -> Option<(Value, Vec<OwnedFd>)> {
        let mut bytes = vec![0; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let descriptors = rights.flatten().collect();
        (received.bytes > 0).then(|| {
            (
                serde_json::from_slice(&bytes[..received.bytes]).unwrap(),
                descriptors,
            )
        })
    }

    /// Says what the new process says, up to this step.
    pub(super) fn say_up_to(&self, step: usize) -> Vec<OwnedFd> {
        let mut sockets = Vec::new();
        for what in &SAID[..step] {
            self.say(&json!({"say": what, "version": 1}));
            let (answer, descriptors) = self.hear().unwrap();
            let expected = match *what {
                "hello" => "offer",
                "ready" => "handed",
                _ => "yours",
            };
            assert_eq!(answer["say"], expected);
            sockets.extend(descriptors);
        }
        sockets
    }
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_ends_at_any_step_leaves_the_old_one_as_it_was() {
    let mut node = Node::start().await;
    let asking = node.asks();
    for step in 1..SAID.len() {
        node.gate.signal(Signal::USR2);
        let peer = Peer::connect(&node.run("upgrade/socket")).await;
        let sockets = peer.say_up_to(step);
        assert_eq!(
            sockets.len(),
            if step == 2 { 3 } else { 0 },
            "TLS, admin port, admin socket"
        );
        drop((peer, sockets));
        eventually("the end is noticed", || {
            node.log().matches("nothing was handed over").count() == step
        })
        .await;
        assert_eq!(
            node.metric("upgrades_total", &[("result", "failed")]).await,
            step as f64
        );
    }
    asking.asks_more(4).await;
    asking.stop().await;
    node.goes_on().await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_delays_nothing() {
    let mut node = Node::start().await;
    node.gate.signal(Signal::USR2);
    let silent = Peer::connect(&node.run("upgrade/socket")).await;
    node.can_be_taken_over().await;
    assert!(silent.hear().is_none());
}

/// What is no message, or not its turn, is refused. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_talks_nonsense_gets_nothing() {
    let mut node = Node::start().await;
    let socket = node.run("upgrade/socket");
    for (said, why) in [
        (json!({"say": "serving"}), "order of the hand-over"),
        (json!({"say": "hello", "version": 2}), "speaks version 2"),
    ] {
        node.gate.signal(Signal::USR2);
        let peer = Peer::connect(&socket).await;
        peer.say(&said);
        while let Some((answer, descriptors)) = peer.hear() {
            assert!(answer["say"] == "refused" && descriptors.is_empty(), "{answer}");
        }
        node.says(why).await;
    }
    // Once the sockets were handed, the next word counts as well.
    node.gate.signal(Signal::USR2);
    let peer = Peer::connect(&socket).await;
    let sockets = peer.say_up_to(2);
    peer.say(&json!({"say": "ready"}));
    assert_eq!(peer.hear().unwrap().0["say"], "refused");
    drop((peer, sockets));
    assert!(!node.log().contains("mark"), "{}", node.log());
    node.goes_on().await;
}

/// A new process that is killed, by chance at one step or another: the old one goes on, or the new
/// one was the gate already.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_process_is_killed_the_other_one_goes_on_or_nothing_is_left() {
    for round in 0..8_u64 {
        let node = Node::start().await;
        let (mut command, old) = (kubelet_gate(), node.gate.pid());
        let (said, says) = UnixStream::pair().unwrap();
        command
            .args(["serve", "--take-over", "--config", &node.installation.config()])
            .stdin(OwnedFd::from(says))
            .stderr(Stdio::null());
        node.gate.signal(Signal::USR2);
        let mut new = command.spawn().unwrap();
        drop(command);
        heard(&said, "ready\n").await;
        // A step takes some milliseconds.
        tokio::time::sleep(Duration::from_millis(3 * (round / 2))).await;
        if round % 2 == 0 {
            new.kill().unwrap();
            new.wait().unwrap();
            let was_gate = || node.log().contains("another process is the gate now");
            eventually("the old process goes on, or has left before", || {
                was_gate() || node.log().contains("nothing was handed over")
            })
            .await;
            if !was_gate() {
                assert!(runs(old) && !node.run("upgrade").exists());
                assert_eq!(node.client(Alpn::H1).get("/pods").await.unwrap().status(), 200);
            }
        } else {
            kill(old, Signal::KILL);
            new_goes_on_or_ends(&node, &mut new).await;
        }
    }
}

async fn new_goes_on_or_ends(node: &Node, new: &mut Child) {
    let mut status = None;
    eventually("the new process is the gate, or has ended", || {
        status = new.try_wait().unwrap();
        status.is_some() || node.serving() == new.id()
    })
    .await;
    match status {
        Some(status) => {
            assert!(!status.success());
            // The next start finds every port free, and removes what is left. The kernel closes the sockets
            // of a killed process, and those in messages that nothing has read, a moment after its end.
            eventually("the port is free", || {
                TcpListener::bind(node.gate.address).is_ok()
            })
            .await;
        }
        None => {
            assert_eq!(node.client(Alpn::H1).get("/pods").await.unwrap().status(), 200);
            assert_eq!(node.admin("/readyz").await.0, 200);
            assert!(!node.run("upgrade").exists());
            new.kill().unwrap();
            new.wait().unwrap();
        }
    }
}

async fn heard(said: &UnixStream, word: &str) {
    let (mut said, word) = (said.try_clone().unwrap(), word.to_owned());
    said.set_read_timeout(Some(patience())).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; word.len()];
        said.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, word.as_bytes());
    })
    .await
    .unwrap();
}

/// The command that started it has given up. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_whose_command_has_ended_does_not_take_over() {
    let mut node = Node::start().await;
    node.gate.signal(Signal::USR2);
    let mut command: Command = kubelet_gate();
    let (said, says) = UnixStream::pair().unwrap();
    drop(said);
    let log = node.installation.path("abandoned.log");
    command
        .args(["serve", "--take-over", "--config", &node.installation.config()])
        .stdin(OwnedFd::from(says))
        .stderr(std::fs::File::create(&log).unwrap());
    let status = ended(&mut command.spawn().unwrap()).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("kubelet-gate upgrade, which started this process, has ended"),
        "{said}"
    );
    node.says("nothing was handed over").await;
    node.goes_on().await;
}
