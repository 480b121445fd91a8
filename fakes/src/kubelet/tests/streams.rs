use super::*;

#[tokio::test]
async fn exec_runs_over_both_channel_protocols_and_none() {
    let lab = Lab::start().await;
    let target = "/exec/default/web/nginx?command=hostname&output=1&error=1";
    for offered in [
        &["v4.channel.k8s.io"][..],
        &["nope", "v5.channel.k8s.io"],
        &["channel.k8s.io"],
        &[],
    ] {
        let mut session = lab
            .client
            .websocket(target, offered, &[])
            .await
            .unwrap()
            .switched()
            .unwrap();
        assert_eq!(session.protocol(), offered.last().copied());
        let outcome = session.exec_read().await.unwrap();
        assert_eq!(outcome.stdout_text(), "web\n");
        let with_status = offered.last().is_some_and(|name| name.starts_with('v'));
        assert_eq!(outcome.exit_code(), with_status.then_some(0), "{offered:?}");
    }
    let target = "/exec/default/web/nginx?command=nmap&output=1&error=1";
    let mut session = lab
        .client
        .websocket(target, &["v4.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    let outcome = session.exec_read().await.unwrap();
    assert_eq!(
        (outcome.stderr.as_slice(), outcome.exit_code()),
        (b"sh: nmap: not found\n".as_slice(), Some(127))
    );
    let refused = lab
        .client
        .websocket(target, &["nope"], &[])
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert_eq!((refused.status().as_u16(), refused.body().len()), (403, 0));
    eventually("the streams' end", || lab.kubelet.open_streams() == 0).await;
}

#[tokio::test]
async fn standard_input_reaches_cat_and_the_shell() {
    let lab = Lab::start().await;
    let target = "/exec/payments/ledger/app?command=cat&input=1&output=1";
    let mut cat = lab
        .client
        .websocket(target, &["v5.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    cat.send_stdin(b"hello").await.unwrap();
    assert_eq!(cat.read_stdout(5).await.unwrap(), b"hello");
    assert_eq!(lab.kubelet.open_streams(), 1);
    cat.ping().await.unwrap();
    cat.close_stdin().await.unwrap();
    assert_eq!(cat.exec_read().await.unwrap().exit_code(), Some(0));

    let target = "/exec/payments/ledger/app?command=sh&input=1&output=1&tty=1";
    let mut shell = lab
        .client
        .websocket(target, &["v4.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    shell.send_stdin(b"env\nnope\nexit 3\n").await.unwrap();
    let outcome = shell.exec_read().await.unwrap();
    assert!(
        outcome.stdout_text().contains("STRIPE_API_KEY=")
            && outcome.stdout_text().ends_with("nope: not found\n")
    );
    assert_eq!(outcome.exit_code(), Some(3));

    let target = "/attach/default/web/nginx?input=1&output=1";
    let mut attached = lab
        .client
        .websocket(target, &["v4.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    attached.send_stdin(b"typed").await.unwrap();
    assert_eq!(attached.read_stdout(5).await.unwrap(), b"typed");
    attached.close().await.unwrap();
    let target = "/attach/default/web/nginx?output=1";
    let mut watched = lab
        .client
        .websocket(target, &["v4.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    assert!(watched.read_stdout(10).await.unwrap().starts_with(b"10.244.0.7"));
    drop(watched);
    eventually("the streams' end", || lab.kubelet.open_streams() == 0).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_websockets() {
    let lab = Lab::start().await;
    let target = "/portForward/default/web?port=8080";
    let mut forward = lab
        .client
        .websocket(target, &["v4.channel.k8s.io"], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    assert_eq!(forward.next().await.unwrap().unwrap().as_ref(), [0, 0x90, 0x1f]);
    assert_eq!(forward.next().await.unwrap().unwrap().as_ref(), [1, 0x90, 0x1f]);
    forward.send_channel(0, b"GET /").await.unwrap();
    assert_eq!(
        forward.next_channel().await.unwrap().unwrap(),
        (0, Bytes::from("GET /"))
    );
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    let mut tunnel = lab
        .client
        .websocket("/portForward/default/web", &[tunnel], &[])
        .await
        .unwrap()
        .switched()
        .unwrap();
    tunnel.send("frames").await.unwrap();
    assert_eq!(tunnel.next().await.unwrap().unwrap(), "frames");
    let portless = lab
        .client
        .websocket("/portForward/default/web", &["v4.channel.k8s.io"], &[])
        .await
        .unwrap();
    assert_eq!(
        portless.refused().unwrap().body(),
        "query parameter \"port\" is required"
    );
}

#[tokio::test]
async fn spdy_gives_bytes_back_early_ones_first() {
    let lab = Lab::start().await;
    lab.kubelet
        .adjust(|knobs| knobs.early_stream_bytes = Bytes::from("early"));
    for (method, target, protocol) in [
        (
            "POST",
            "/exec/default/web/nginx?command=sh&input=1",
            "v4.channel.k8s.io",
        ),
        ("GET", "/attach/default/web/nginx?output=1", "v4.channel.k8s.io"),
        ("POST", "/portForward/default/web", "portforward.k8s.io"),
    ] {
        let answer = lab.client.spdy(method, target, &[]).await.unwrap();
        assert_eq!(answer.status(), 101, "{target}");
        assert_eq!(answer.headers()["x-stream-protocol-version"], protocol);
        let mut stream = answer.switched().unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"earlyping");
    }
    let unknown = [("x-stream-protocol-version", "v9")];
    let refused = lab
        .client
        .spdy("POST", "/portForward/default/web", &unknown)
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(
        refused.headers()["x-accepted-stream-protocol-versions"],
        "portforward.k8s.io"
    );
    eventually("the streams' end", || lab.kubelet.open_streams() == 0).await;
}
