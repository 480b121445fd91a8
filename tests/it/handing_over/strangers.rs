//! Whichever process has the gate's sockets sees every token that is sent to the node. Another user's must
//! not get them, nor one that only runs as the same user.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kubelet_gate::host::as_user;
use rustix::process::Signal;

use super::peers::Peer;
use super::{Node, ended};
use crate::patience::eventually;
use crate::program::assert_says;
use crate::skipped::skip;

const STRANGER: u32 = 65_534;

/// Lets every user of this machine come to the socket, as no gate does.
fn open_up(node: &Node) {
    let mut folder = node.run("upgrade/socket");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o666)).unwrap();
    while folder.pop() && folder.starts_with(node.installation.directory.path()) {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn another_users_process_gets_nothing() {
    if !rustix::process::getuid().is_root() {
        return skip("only root can become another user");
    }
    let mut node = Node::start().await;
    node.gate.signal(Signal::USR2);
    let socket = node.run("upgrade/socket");
    // It listens once it has this mode.
    eventually("the socket is its user's alone", || {
        fs::metadata(&socket).is_ok_and(|socket| socket.permissions().mode() & 0o777 == 0o600)
    })
    .await;
    let folder = fs::metadata(node.run("upgrade")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let refused = as_user(STRANGER, || std::os::unix::net::UnixStream::connect(&socket)).unwrap();
    assert!(refused.is_err());

    open_up(&node);
    let handle = tokio::runtime::Handle::current();
    let peer = as_user(STRANGER, || handle.block_on(Peer::connect(&socket))).unwrap();
    let (answer, descriptors) = peer.hear().unwrap();
    assert!(answer["say"] == "refused" && descriptors.is_empty(), "{answer}");
    assert_says(&answer.to_string(), &[&format!("user {STRANGER}'s")]);
    assert!(peer.hear().is_none());
    node.says("a process may not take over").await;
    assert_eq!(
        node.metric("upgrades_total", &[("result", "stranger")]).await,
        1.0
    );
    // The right one is not kept waiting.
    let upgraded = node.upgrade(&[]).await;
    assert_eq!(upgraded.status.code(), Some(0), "{}", upgraded.said);
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_cgroup_gets_nothing() {
    let Some(cgroup) = Cgroup::new() else {
        return skip("no cgroup of version 2 can be made here");
    };
    let mut node = Node::start().await;
    node.gate.signal(Signal::USR2);
    let socket = node.run("upgrade/socket");
    eventually("the socket is there", || socket.exists()).await;
    let log = node.installation.path("stranger.log");
    let mut command = Command::new("sh");
    command
        .args(["-ec", r#"echo $$ > "$0/cgroup.procs"; exec "$@""#])
        .arg(&cgroup.0)
        .arg(crate::program::kubelet_gate().get_program())
        .args(["serve", "--take-over", "--config", &node.installation.config()])
        .stdin(std::process::Stdio::null())
        .stderr(fs::File::create(&log).unwrap());
    let status = ended(&mut command.spawn().unwrap()).await;
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    // Either looks at the other.
    assert_says(&said, &["is in the cgroup", "systemctl reload"]);
    node.says("a process may not take over").await;
    node.can_be_taken_over().await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_the_gates_is_neither_used_nor_removed() {
    let mut node = Node::start().await;
    let elsewhere = PathBuf::from(node.installation.path("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("socket"), "kept").unwrap();
    symlink(&elsewhere, node.run("upgrade")).unwrap();
    let refused = node.upgrade(&[]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.said);
    node.says("it is no folder").await;
    assert_eq!(fs::read_to_string(elsewhere.join("socket")).unwrap(), "kept");
    fs::remove_file(node.run("upgrade")).unwrap();

    // What a gate that was killed has left is removed.
    fs::create_dir(node.run("upgrade")).unwrap();
    fs::write(node.run("upgrade/socket"), "").unwrap();
    node.can_be_taken_over().await;
}

/// A cgroup of its own, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| Path::new(place).to_owned())
        })?;
        let cgroup = root.join(format!("kubelet-gate-stranger-{}", std::process::id()));
        fs::create_dir(&cgroup).ok()?;
        Some(Self(cgroup))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
