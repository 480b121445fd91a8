//! A restart that closes the gate's ports refuses `kubectl logs` of every pod of the node for as long as it
//! takes. systemd, which holds the sockets of a socket unit, passes them to each gate that it starts; and it
//! ends a gate that has stuck, if the gate stops saying that it is alive. A gate that took a socket which is
//! not what it would have bound itself would listen where the operator does not expect it, or share its
//! clients with another process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use fakes::client::{Client, ClientTls};
use nix::sys::ptrace;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::patience::{eventually, patience, stays, stretched};
use crate::program::{Installation, Serving, assert_says, code, kubelet_gate_changed_by, output, stderr};
use crate::skipped::skip;

/// The program, started as systemd would, with these descriptors from 3 on; at most two.
fn passing(descriptors: Vec<OwnedFd>) -> Command {
    let count = descriptors.len();
    let names = ["kubelet-gate.socket"; 2][..count].join(":");
    passing_as(
        descriptors,
        &format!("LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}"),
    )
}

fn passing_as(descriptors: Vec<OwnedFd>, variables: &str) -> Command {
    let moved = ["", "exec 3<&0 </dev/null", "exec 3<&0 4<&1 </dev/null >/dev/null"][descriptors.len()];
    let mut command = kubelet_gate_changed_by(&format!("{{ {moved}\nexport {variables}; }}"));
    let mut descriptors = descriptors.into_iter();
    if let Some(first) = descriptors.next() {
        command.stdin(first);
    }
    if let Some(second) = descriptors.next() {
        command.stdout(second);
    }
    command
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn listening_on(address: SocketAddr) -> Installation {
    let installation = Installation::new();
    installation.configure(|configuration| configuration["listen"] = [address.to_string()].into());
    installation
}

/// Seen red: with the addresses bound instead, which is refused while the sockets of systemd have them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_the_start_is_answered_after_it() {
    let ((tls, address), (admin, admin_address)) = (bound(), bound());
    let installation = listening_on(address);
    installation.configure(|configuration| {
        configuration["listen"] = [address.to_string()].into();
        configuration["admin"]["listen"] = admin_address.to_string().into();
    });
    let mut probe = TcpStream::connect(admin_address).unwrap();
    probe
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let client = Client::new(address, ClientTls::default()).unwrap();
    let request = tokio::spawn(async move { client.with_deadline(patience()).get("/pods").await });
    eventually("the client waits for the gate", || {
        let waiting = fs::read_to_string("/proc/net/tcp").unwrap();
        waiting
            .lines()
            .any(|line| line.contains(&format!(":{:04X} 0100007F:", address.port())) && line.contains(" 01 "))
    })
    .await;

    let holder = tls.try_clone().unwrap();
    let mut serving = Serving::by(passing(vec![tls.into(), admin.into()]), &installation.config()).await;
    assert_eq!((serving.address, serving.admin), (address, admin_address));
    assert_eq!(request.await.unwrap().unwrap().status(), 401);
    let mut answer = [0; 15];
    probe.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");

    // No child of the gate gets the sockets.
    for descriptor in [3, 4] {
        let about = format!("/proc/{}/fdinfo/{descriptor}", serving.pid());
        let about = fs::read_to_string(about).unwrap();
        let flags = about
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & 0o2_000_000, 0, "closed on exec: {about}");
    }
    // The next gate takes the same socket, and nobody was refused meanwhile.
    serving.signal(Signal::TERM);
    serving.exit().await;
    drop(serving);
    TcpStream::connect(address).unwrap();
    let again = Serving::by(passing(vec![holder.into()]), &listening_on(address).config()).await;
    assert_eq!(again.address, address);
}

/// Seen red: each with its check left out; without that of `SO_REUSEPORT` another process got half of the
/// connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_not_as_the_gates_own_is_refused() {
    let socket = |domain, address: &str, change: &dyn Fn(&Socket)| {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        change(&socket);
        socket
            .bind(&address.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    };
    let (datagrams, at) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        "127.0.0.1:1".parse().unwrap(),
    );
    let (silent, silent_at) = socket(Domain::IPV4, "127.0.0.1:0", &|_| {});
    let (shared, shared_at) = socket(Domain::IPV4, "127.0.0.1:0", &|socket| {
        socket.set_reuse_port(true).unwrap()
    });
    shared.listen(1).unwrap();
    let own = Socket::new(Domain::IPV6, Type::STREAM, None)
        .unwrap()
        .only_v6()
        .unwrap();
    let (half, half_at) = socket(Domain::IPV6, "[::]:0", &|socket| {
        socket.set_only_v6(!own).unwrap()
    });
    half.listen(1).unwrap();
    let (strange, strange_at) = bound();
    let accepted = {
        let _client = TcpStream::connect(strange_at).unwrap();
        strange.accept().unwrap().0
    };
    for (descriptor, listen, said) in [
        (
            OwnedFd::from(datagrams),
            at,
            vec![
                "kubelet-gate.socket",
                "descriptor 3",
                "stream socket",
                "ListenStream=",
            ],
        ),
        (
            fs::File::open("/dev/null").unwrap().into(),
            at,
            vec!["kubelet-gate.socket", "descriptor 3", "not a"],
        ),
        (
            silent.into(),
            silent_at,
            vec!["does not listen", "kubelet-gate.socket"],
        ),
        (
            accepted.into(),
            strange_at,
            vec!["does not listen", "without Accept=yes"],
        ),
        (
            shared.into(),
            shared_at,
            vec!["other processes", "remove ReusePort="],
        ),
        (
            half.into(),
            half_at,
            vec!["takes IPv4 as well", "remove BindIPv6Only="],
        ),
        (
            strange.into(),
            "127.0.0.1:0".parse().unwrap(),
            vec!["PLACEHOLDER"],
        ),
    ] {
        let installation = listening_on(listen);
        let mut command = passing(vec![descriptor]);
        if said == ["PLACEHOLDER"] {
            // Of another address of this machine.
            installation.configure(|configuration| {
                configuration["listen"] = ["127.0.0.2:0"].into();
                configuration["admin"]["listen"] = "127.0.0.3:0".into();
            });
        }
        command.args(["serve", "--config", &installation.config()]);
        let output = output(command).await;
        let text = stderr(&output);
        assert_ne!(code(&output), 0, "{text}");
        match &said[..] {
            ["PLACEHOLDER"] => assert_says(
                &text,
                &[
                    &format!("kubelet-gate.socket: ListenStream={strange_at}"),
                    "names this address neither in listen",
                    "systemctl daemon-reload",
                ],
            ),
            said => assert_says(&text, said),
        }
    }
}

/// Seen red: without the look at `LISTEN_PID`, and with a number that is none taken for 0.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_to_another_process_is_left_alone_and_nonsense_is_refused() {
    let (listener, _) = bound();
    let installation = Installation::new();
    for variables in ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_FDS=1", "LISTEN_PID=$$"] {
        let command = passing_as(vec![listener.try_clone().unwrap().into()], variables);
        Serving::by(command, &installation.config()).await;
    }
    for count in ["x", "-1", "4294967296"] {
        let variables = format!("LISTEN_PID=$$ LISTEN_FDS={count}");
        let mut command = passing_as(Vec::new(), &variables);
        command.args(["serve", "--config", &installation.config()]);
        let output = output(command).await;
        assert_eq!(code(&output), 64, "{count}");
        assert_says(&stderr(&output), &["LISTEN_FDS=", count]);
    }
}

async fn next(socket: &UnixDatagram) -> String {
    let mut message = vec![0; 4096];
    let received = timeout(patience(), socket.recv(&mut message));
    let length = received.await.expect("nothing is told").unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

/// Whether nothing comes for a while, once what was under way has arrived.
async fn falls_silent(socket: &UnixDatagram, time: Duration) -> bool {
    let mut message = vec![0; 4096];
    let deadline = tokio::time::Instant::now() + patience();
    while tokio::time::Instant::now() < deadline {
        if timeout(time, socket.recv(&mut message)).await.is_err() {
            return true;
        }
    }
    false
}

/// One thread of the gate is stopped, as if it had stuck. Seen red: with signs of life that ask no thread,
/// and with those of a watchdog that is another process'.
#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_stop_when_one_worker_is_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let installation = Installation::new();
    installation.configure(|configuration| configuration["workers"] = 2.into());
    let started = async |pid: &str| {
        let mut command = kubelet_gate_changed_by(&format!("export WATCHDOG_USEC=100000 WATCHDOG_PID={pid}"));
        command.env("NOTIFY_SOCKET", &path);
        Serving::by(command, &installation.config()).await
    };
    {
        let _serving = started("1").await;
        assert_eq!(next(&socket).await, "READY=1\n");
        assert!(
            falls_silent(&socket, Duration::from_millis(500)).await,
            "another's watchdog"
        );
    }
    let mut serving = started("$$").await;
    assert_eq!(next(&socket).await, "READY=1\n");
    for _ in 0..3 {
        assert_eq!(next(&socket).await, "WATCHDOG=1\n");
    }

    let mut tasks = fs::read_dir(format!("/proc/{}/task", serving.pid())).unwrap();
    let worker = tasks.find_map(|task| {
        let task = task.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        (name.trim() == "worker-1").then(|| task.file_name().to_str()?.parse().ok())?
    });
    let worker = nix::unistd::Pid::from_raw(worker.expect("a thread is named worker-1"));
    // A thread of this process that traces it: the gate goes on when that ends.
    let (go_on, until) = std::sync::mpsc::channel::<()>();
    let (seized, is_seized) = std::sync::mpsc::channel();
    let tracer = std::thread::spawn(move || {
        let stopped =
            ptrace::seize(worker, ptrace::Options::empty()).and_then(|()| ptrace::interrupt(worker));
        let traces = stopped.is_ok();
        seized.send(stopped).unwrap();
        let _ = until.recv();
        if traces {
            let _ = nix::sys::wait::waitpid(worker, Some(nix::sys::wait::WaitPidFlag::__WALL));
            let _ = ptrace::detach(worker, None);
        }
    });
    if let Err(error) = is_seized.recv().unwrap() {
        return skip(&format!("no thread of the gate can be stopped: {error}"));
    }
    assert!(
        falls_silent(&socket, stretched(Duration::from_secs(1))).await,
        "worker-1 is stuck"
    );
    stays(Duration::from_millis(300), "the gate serves", || {
        TcpStream::connect(serving.admin).is_ok()
    })
    .await;
    drop(go_on);
    tracer.join().unwrap();
    assert_eq!(next(&socket).await, "WATCHDOG=1\n");

    serving.signal(Signal::TERM);
    eventually("the gate says that it stops", || {
        let mut message = vec![0; 4096];
        let length = socket.try_recv(&mut message).unwrap_or_default();
        &message[..length] == b"STOPPING=1\n"
    })
    .await;
    serving.exit().await;
}
