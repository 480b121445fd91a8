//! The read-only port serves pods and their environment to anybody: one path of it that still answers, and everything
//! the gate guards can be read next door.

use kubelet_gate::lab::client::Client;
use kubelet_gate::settings::{KubeletFlags, Settings};

use crate::world::{World, header};

/// Every method and target that was recorded on a kubelet's read-only port.
const RECORDED: &str = include_str!("data/read_only.tsv");

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_gone_and_is_counted() {
    let world = World::builder().always_allow().anonymous().start().await;
    let client = Client::plain(world.read_only);
    let (mut gone, mut malformed) = (0, 0);
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let (method, target) = line.split_once('\t').unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: node:10255\r\nConnection: close\r\n\r\n");
        let answer = String::from_utf8(client.raw(request.as_bytes()).await.unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if target == "\\pods" {
            // What is no request gets no sentence either.
            malformed += 1;
            assert!(
                head.starts_with("HTTP/1.1 400 ") && body.is_empty(),
                "{line}: {answer}"
            );
        } else {
            gone += 1;
            assert!(head.starts_with("HTTP/1.1 410 Gone\r\n"), "{line}: {answer}");
            assert_eq!(body.is_empty(), method == "HEAD", "{line}: {body}");
        }
    }
    println!("replay of the read-only port: {gone} are 410 now, {malformed} are no HTTP and 400, 0 others");
    assert_eq!((gone, malformed), (936, 8));
    let answer = client.get("/pods").await.unwrap();
    let sentence = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(
        sentence.contains("read-only port is closed") && sentence.contains("10250"),
        "{sentence}"
    );
    assert_eq!(sentence.matches('\n').count(), 1, "one sentence");
    assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(
        world.metric("read_only_port_requests_total", &[]),
        f64::from(gone + 1)
    );
    world.assert_nothing_forwarded();
    assert_eq!(world.audit(), [] as [serde_json::Value; 0]);
    world.stop().await;
}

#[test]
fn an_upstream_on_the_read_only_port_is_refused() {
    for url in [
        "http://127.0.0.1:10255",
        "https://127.0.0.1:10255",
        "http://[::1]:10255/",
    ] {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nlisten: [\"127.0.0.1:0\"]\n\
             kubeconfig: kubeconfig\nupstream: {{url: \"{url}\"}}\ntlsCertFile: a.crt\ntlsPrivateKeyFile: a.key\n\
             authentication: {{x509: {{clientCAFile: ca.crt}}}}\n"
        );
        let path = std::path::Path::new("/etc/kubelet-gate.yaml");
        let refused = Settings::parse(&text, path, &KubeletFlags::default())
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("upstream.url") && refused.contains("read-only port"),
            "{refused}"
        );
        let elsewhere = text.replace("10255", "10250").replace("https", "http");
        Settings::parse(&elsewhere, path, &KubeletFlags::default()).unwrap();
    }
}
