//! Until the old process says that the new one is the gate, the new one must be no gate: it may still have to
//! end, and what it has answered or closed meanwhile was the old one's.

use std::fs;
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use fakes::client::{Alpn, Client};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::peers::Peer;
use super::{client, configure, ended, kill};
use crate::patience::{eventually, patience};
use crate::program::{Installation, assert_says, kubelet_gate};
use crate::world::PKI;

/// An old process, played by the test, and a new gate that has its sockets and waits for the last word.
struct Waiting {
    _installation: Installation,
    _kubelet: FakeKubelet,
    port: TcpListener,
    admin: TcpListener,
    old: Peer,
    new: Child,
}

impl Waiting {
    async fn start() -> Self {
        let installation = Installation::new();
        PKI.write(installation.directory.path()).unwrap();
        let pair = &PKI.kubelet_serving;
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        })
        .await
        .unwrap();
        let [port, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        configure(&installation, kubelet.address(), |file| {
            file["listen"] = json!([address(&port)]);
            file["admin"] = json!({"listen": address(&admin), "socket": "off"});
            file["readOnlyPort"] = json!({"listen": []});
        });

        let folder = installation.directory.path().join("run/upgrade");
        fs::create_dir_all(&folder).unwrap();
        for folder in [folder.parent().unwrap(), &folder] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket
            .bind(&SockAddr::unix(folder.join("socket")).unwrap())
            .unwrap();
        fs::set_permissions(folder.join("socket"), fs::Permissions::from_mode(0o600)).unwrap();
        socket.listen(1).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        let new = kubelet_gate()
            .args(["serve", "--take-over", "--config", &installation.config()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (port_of, admin_of) = (port.try_clone().unwrap(), admin.try_clone().unwrap());
        let old = tokio::task::spawn_blocking(move || {
            let old = Peer(socket.accept().unwrap().0);
            old.0.set_read_timeout(Some(patience())).unwrap();
            assert_eq!(old.hear().unwrap().0["say"], "hello");
            old.say(
                &json!({"say": "offer", "exemption": null, "manager": {"socket": null, "watchdog": null}}),
            );
            assert_eq!(old.hear().unwrap().0["say"], "ready");
            let handed = json!({
                "say": "handed", "listeners": 2, "letGo": [], "leaving": [], "seal": {"state": "unwatched"},
            });
            hand(&old, &handed, &[&port_of, &admin_of]);
            assert_eq!(old.hear().unwrap().0["say"], "serving");
            old
        });
        Self {
            _installation: installation,
            _kubelet: kubelet,
            port,
            admin,
            old: old.await.unwrap(),
            new,
        }
    }

    /// Waits for its end. Yields its exit code and what it has said.
    async fn ended(&mut self) -> (Option<i32>, String) {
        let status = ended(&mut self.new).await;
        let mut said = String::new();
        self.new.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.new.kill();
        let _ = self.new.wait();
    }
}

/// Says it, with these listeners.
fn hand(old: &Peer, what: &Value, listeners: &[&TcpListener]) {
    let bytes = what.to_string();
    let descriptors: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let parts = [IoSlice::new(bytes.as_bytes())];
    sendmsg(&old.0, &parts, &mut rights, SendFlags::NOSIGNAL).unwrap();
}

/// Two processes accept on the TLS port for a moment, and a request is answered by either. What a probe or
/// `firewall status` asks is about the gate.
///
/// Seen red: with the admin port opened beside the TLS port.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_is_answered_by_the_gate_alone() {
    let mut waiting = Waiting::start().await;
    let (port, admin) = (
        waiting.port.local_addr().unwrap(),
        waiting.admin.local_addr().unwrap(),
    );
    // A probe that waits to be accepted, by the old process.
    let probe = tokio::spawn(async move {
        Client::plain(admin)
            .with_deadline(patience())
            .get("/livez")
            .await
            .unwrap()
            .status()
    });
    for _ in 0..3 {
        assert_eq!(client(port, Alpn::H1).get("/pods").await.unwrap().status(), 200);
    }
    assert!(!probe.is_finished());
    let admin = waiting.admin.try_clone().unwrap();
    tokio::task::spawn_blocking(move || admin.accept().unwrap())
        .await
        .unwrap();
    waiting.old.say(&json!({"say": "yours"}));
    let admin = Client::plain(waiting.admin.local_addr().unwrap()).with_deadline(patience());
    assert_eq!(admin.get("/livez").await.unwrap().status(), 200);
    kill(waiting.new.id(), Signal::TERM);
    assert_eq!(waiting.ended().await.0, Some(0));
    probe.abort();
}

/// An operator, or the service manager, ends the new process. If it closed its listeners and was told
/// afterwards that it is the gate, there would be none.
///
/// Seen red: with SIGTERM looked at after the last word only.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_is_told_to_stop_leaves_the_old_one_the_gate() {
    let mut waiting = Waiting::start().await;
    kill(waiting.new.id(), Signal::TERM);
    let (code, said) = waiting.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &["was told to stop", "goes on"]);
    assert!(waiting.old.hear().is_none());
    // The sockets listen as before.
    for listener in [&waiting.port, &waiting.admin] {
        let address = listener.local_addr().unwrap();
        eventually("it is connected to", || {
            std::net::TcpStream::connect(address).is_ok()
        })
        .await;
    }
}
