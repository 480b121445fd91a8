//! A stream ends on one side first. If the gate then cuts off what the other side still sends, the end of a
//! command's output is lost; if it leaves the other side open, shells and sockets stay behind on the node.
//! These tests play the kubelet byte by byte.

use fakes::client::{Client, Duplex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::patience::{eventually, patience};
use crate::world::World;

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
const UPGRADE: &str = "POST /exec/default/web/nginx?command=cat&input=1&output=1 HTTP/1.1\r\nHost: x\r\n\
                       Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";

/// A gate whose kubelet is a listening socket of the test.
async fn before_a_socket() -> (World, TcpListener) {
    let kubelet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", kubelet.local_addr().unwrap());
    let world = World::builder()
        .http_upstream()
        .set("upstream.url", url)
        .start()
        .await;
    (world, kubelet)
}

/// Reads up to and including these bytes.
async fn read_to(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end) {
            read.push(stream.read_u8().await.expect("more"));
        }
    };
    timeout(patience(), reading).await.expect("it never came");
    read
}

/// Both ends of a new tunnel.
async fn tunnel(client: &Client, kubelet: &TcpListener) -> (Box<dyn Duplex>, TcpStream) {
    let mut here = client.stream().await.unwrap();
    here.write_all(UPGRADE.as_bytes()).await.unwrap();
    let (mut there, _) = kubelet.accept().await.unwrap();
    read_to(&mut there, b"\r\n\r\n").await;
    there.write_all(SWITCH.as_bytes()).await.unwrap();
    let answer = read_to(&mut here, b"\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    (here, there)
}

async fn everything(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    // By end of stream or by reset.
    let _ = timeout(patience(), stream.read_to_end(&mut read))
        .await
        .expect("it is still open");
    read
}

async fn ended(world: &World) {
    eventually("the stream is gone", || world.metric("streams", &[]) == 0.0).await;
}

/// Seen red with `Tunnel::run` not waiting for the other direction: the last bytes are lost.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_clients_end_the_kubelets_last_bytes_arrive() {
    let (world, kubelet) = before_a_socket().await;
    let (mut here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    here.write_all(b"input").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(
        everything(&mut there).await,
        b"input",
        "all of it, and then its end"
    );
    there.write_all(b"last words").await.unwrap();
    drop(there);
    assert_eq!(everything(&mut here).await, b"last words");
    ended(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_kubelets_end_the_clients_last_bytes_arrive() {
    let (world, kubelet) = before_a_socket().await;
    let (mut here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    let output = vec![b'o'; 3_000_000];
    let speaking = {
        let output = output.clone();
        tokio::spawn(async move {
            there.write_all(&output).await.unwrap();
            there.shutdown().await.unwrap();
            there
        })
    };
    // A slow client reads it long after the kubelet has sent all of it.
    let mut read = vec![0; 1000];
    here.read_exact(&mut read).await.unwrap();
    here.write_all(b"last words").await.unwrap();
    here.flush().await.unwrap();
    read.extend(everything(&mut here).await);
    assert!(read == output, "{} bytes came", read.len());
    let mut there = speaking.await.unwrap();
    assert_eq!(everything(&mut there).await, b"last words");
    ended(&world).await;
    world.stop().await;
}

/// Seen red with `Tunnel::run` waiting for the other direction without `FLUSH`: both sides stay open for
/// ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_goes_on_after_the_others_end_is_closed() {
    let (world, kubelet) = before_a_socket().await;
    // The client has ended; the kubelet goes on writing and reads nothing.
    let (mut here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    here.shutdown().await.unwrap();
    let talking = async { while there.write_all(&[b'.'; 1000]).await.is_ok() {} };
    let listening = everything(&mut here);
    timeout(patience(), async { tokio::join!(talking, listening) })
        .await
        .expect("the kubelet's side is still open");
    ended(&world).await;

    // The kubelet has ended; the client goes on writing.
    let (mut here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    there.shutdown().await.unwrap();
    let talking =
        async { while here.write_all(&[b'.'; 1000]).await.is_ok() && here.flush().await.is_ok() {} };
    let listening = everything(&mut there);
    timeout(patience(), async { tokio::join!(talking, listening) })
        .await
        .expect("the client's side is still open");
    ended(&world).await;

    // Neither writes any more, and neither closes.
    let (mut here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    here.shutdown().await.unwrap();
    assert_eq!(everything(&mut here).await, b"");
    assert_eq!(everything(&mut there).await, b"");
    ended(&world).await;
    drop((here, there));
    world.stop().await;
}

/// Pieces of the 101, bytes right behind it, and bytes of the client before it are neither lost nor doubled.
/// Seen red: with `Tunnel::run` dropping `early`, the kubelet's bytes never come.
#[tokio::test(flavor = "multi_thread")]
async fn early_bytes_are_neither_lost_nor_taken_for_a_request() {
    let (world, kubelet) = before_a_socket().await;
    let bob = world.client("bob");
    // The client's bytes look like a request and are part of the tunnel.
    let early = "GET /pods HTTP/1.1\r\nHost: x\r\n\r\n";
    for informational in [
        "",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let mut here = bob.stream().await.unwrap();
        here.write_all(format!("{UPGRADE}{early}").as_bytes())
            .await
            .unwrap();
        let (mut there, _) = kubelet.accept().await.unwrap();
        read_to(&mut there, b"\r\n\r\n").await;
        there.set_nodelay(true).unwrap();
        let answer = format!("{informational}{SWITCH}early bytes of the kubelet");
        for piece in answer.as_bytes().chunks(7) {
            there.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let answer = read_to(&mut here, b"early bytes of the kubelet").await;
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        assert_eq!(read_to(&mut there, early.as_bytes()).await, early.as_bytes());
        here.shutdown().await.unwrap();
        assert_eq!(everything(&mut there).await, b"");
        drop(there);
        ended(&world).await;
    }
    assert_eq!(world.metric("requests_total", &[]), 3.0);
    world.stop().await;
}

/// Seen red with answers below 400 passed on: a 200 instead of 502.
///
/// CVE-2018-1002105: bytes that a client sent for a tunnel that never came must not be answered as requests,
/// least of all on a connection of the API server.
#[tokio::test(flavor = "multi_thread")]
async fn early_bytes_of_a_refused_upgrade_are_dropped() {
    let (world, kubelet) = before_a_socket().await;
    let behind = "GET /pods HTTP/1.1\r\nHost: x\r\n\r\n";
    for (status, passed_on) in [
        (400, 400),
        (403, 403),
        (500, 500),
        (200, 502),
        (204, 502),
        (302, 502),
        (426, 426),
    ] {
        let mut here = world.client("bob").stream().await.unwrap();
        here.write_all(format!("{UPGRADE}{behind}").as_bytes())
            .await
            .unwrap();
        let (mut there, _) = kubelet.accept().await.unwrap();
        read_to(&mut there, b"\r\n\r\n").await;
        let answer =
            format!("HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
        there.write_all(answer.as_bytes()).await.unwrap();
        let answer = String::from_utf8(everything(&mut here).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {passed_on} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert_eq!(everything(&mut there).await, b"", "nothing more, and closed");
    }
    assert_eq!(world.metric("requests_total", &[]), 7.0);
    world.stop().await;
}

/// A client whose connection is reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_the_other_side() {
    let (world, kubelet) = before_a_socket().await;
    let (here, mut there) = tunnel(&world.client("bob"), &kubelet).await;
    // Closing over unread bytes resets.
    there.write_all(b"unread").await.unwrap();
    eventually("they are on their way", || world.metric("streams", &[]) == 1.0).await;
    drop(here);
    assert_eq!(everything(&mut there).await, b"");
    ended(&world).await;

    let (mut here, there) = tunnel(&world.client("bob"), &kubelet).await;
    there.set_zero_linger().unwrap();
    drop(there);
    assert_eq!(everything(&mut here).await, b"");
    ended(&world).await;
    world.stop().await;
}
