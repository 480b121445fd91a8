//! exec credential plugins: small shell scripts, run as a kubeconfig names them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Act, Server, Signed, client, eventually, kubeconfig_text, reload};
use crate::apiserver::credentials::Credentials;
use crate::apiserver::failure::Cause;
use crate::apiserver::{ApiServer, Kubeconfig, ReviewError};

const V1: &str = "client.authentication.k8s.io/v1";
const DEADLINE: Duration = Duration::from_secs(20);

/// `users[].user` with a plugin that runs this script; `changes` go into the `exec`.
fn user(server: &Server, script: &str, changes: &Value) -> String {
    // Each run leaves a line.
    let script = format!("echo >>{}\n{script}", server.path("runs").display());
    server.write("plugin.sh", &script);
    let mut exec = json!({
        "apiVersion": V1,
        "command": "sh",
        "args": [server.path("plugin.sh")],
        "interactiveMode": "Never",
    });
    for (key, value) in changes.as_object().unwrap() {
        exec[key] = value.clone();
    }
    format!("exec: {exec}")
}

fn with_plugin(server: &Server, script: &str) -> ApiServer {
    client(server.kubeconfig("", &user(server, script, &json!({}))), DEADLINE)
}

/// A script that prints an ExecCredential with this status; `$(…)` in it is expanded.
fn prints(status: &Value) -> String {
    let answer = json!({"kind": "ExecCredential", "apiVersion": V1, "status": status});
    format!("cat <<END\n{answer}\nEND\n")
}

/// A script whose token says how often it was run: `run-1`, `run-2`.
fn counts(server: &Server) -> String {
    prints(&json!({"token": format!("run-$(wc -l <{})", server.path("runs").display())}))
}

fn issued(pair: &Signed) -> Value {
    json!({"clientCertificateData": pair.certificate, "clientKeyData": pair.key})
}

fn runs(server: &Server) -> usize {
    std::fs::read_to_string(server.path("runs")).map_or(0, |text| text.lines().count())
}

fn tokens(server: &Server) -> Vec<String> {
    let token = |header: &http::HeaderValue| header.to_str().unwrap().replace("Bearer ", "");
    server
        .seen()
        .iter()
        .map(|seen| token(&seen.headers["authorization"]))
        .collect()
}

async fn ask(client: &ApiServer) -> Result<(), ReviewError> {
    client.review_token("t", &[]).await.map(drop)
}

#[tokio::test]
async fn a_hundred_reviews_at_once_run_it_once() {
    let server = Server::start(vec![]).await;
    let client = with_plugin(&server, &counts(&server));
    assert_eq!(runs(&server), 0, "not before it is needed");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client).await })
        })
        .collect();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(runs(&server), 1);
    assert_eq!(tokens(&server), vec!["run-1"; 100]);
    assert!(!reload(&client).unwrap(), "the files have not changed");
    ask(&client).await.unwrap();
    assert_eq!(runs(&server), 1);
}

#[tokio::test]
async fn a_dropped_review_leaves_the_run_to_the_others() {
    let server = Server::start(vec![]).await;
    let client = with_plugin(&server, &format!("sleep 0.3\n{}", counts(&server)));
    let first = tokio::spawn({
        let client = client.clone();
        async move { ask(&client).await }
    });
    eventually("it runs", || runs(&server) == 1).await;
    first.abort();
    ask(&client).await.unwrap();
    assert_eq!((runs(&server), tokens(&server)), (1, vec!["run-1".to_owned()]));
}

#[tokio::test]
async fn a_certificate_is_shown_and_a_new_one_closes_the_old_connections() {
    let server = Server::start(vec![]).await;
    let (old, new) = (server.authority.client("old"), server.authority.client("new"));
    let both = format!(
        "if [ $(wc -l <{}) = 1 ]; then\n{}else\n{}fi\n",
        server.path("runs").display(),
        prints(&issued(&old)),
        prints(&issued(&new))
    );
    let client = with_plugin(&server, &both);
    ask(&client).await.unwrap();
    server.then(Act::Answer(401, ""));
    ask(&client).await.unwrap();
    let shown: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.certificate.clone().unwrap())
        .collect();
    assert_eq!(shown[0], shown[1]);
    assert_ne!(shown[1], shown[2]);
    assert_eq!(shown.len(), 3);
    eventually("the old connection is closed", || server.open() == 1).await;
}

#[tokio::test]
async fn it_receives_the_same_information_as_from_client_go() {
    let server = Server::start(vec![]).await;
    let script = format!(
        "printf %s \"$KUBERNETES_EXEC_INFO\" >{info}\nprintf %s \"$STAGE\" >{stage}\ncat >{stdin}\n{}",
        counts(&server),
        info = server.path("info").display(),
        stage = server.path("stage").display(),
        stdin = server.path("stdin").display(),
    );
    let told = |name: &str| std::fs::read_to_string(server.path(name)).unwrap();
    ask(&with_plugin(&server, &script)).await.unwrap();
    let info: Value = serde_json::from_str(&told("info")).unwrap();
    assert_eq!(
        info,
        json!({"kind": "ExecCredential", "apiVersion": V1, "spec": {"interactive": false}})
    );

    let cluster = "tls-server-name: 127.0.0.1, extensions: [{name: other, extension: 1}, \
                   {name: client.authentication.k8s.io/exec, extension: {pool: [a]}}]";
    let env = json!({"env": [{"name": "STAGE", "value": "test"}], "provideClusterInfo": true});
    let kubeconfig = server.kubeconfig(cluster, &user(&server, &script, &env));
    ask(&client(kubeconfig, DEADLINE)).await.unwrap();
    let info: Value = serde_json::from_str(&told("info")).unwrap();
    let ca = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, server.authority.pem());
    assert_eq!(
        info["spec"],
        json!({"interactive": false, "cluster": {
            "server": format!("https://{}", server.address),
            "certificate-authority-data": ca,
            "tls-server-name": "127.0.0.1",
            "config": {"pool": ["a"]},
        }})
    );
    assert_eq!((told("stage").as_str(), told("stdin").as_str()), ("test", ""));
}

#[tokio::test]
async fn the_older_version_needs_no_interactive_mode_and_is_answered_in_kind() {
    let server = Server::start(vec![]).await;
    let older = "client.authentication.k8s.io/v1beta1";
    let script = counts(&server).replace(V1, older);
    let changes = json!({"apiVersion": older, "interactiveMode": null});
    let older = client(server.kubeconfig("", &user(&server, &script, &changes)), DEADLINE);
    ask(&older).await.unwrap();
    let newer = with_plugin(&server, &script);
    let error = ask(&newer).await.unwrap_err().to_string();
    assert!(
        error.contains(r#"printed "ExecCredential" of "client.authentication.k8s.io/v1beta1""#),
        "{error}"
    );
}

#[tokio::test]
async fn a_command_with_a_slash_is_beside_the_kubeconfig() {
    let server = Server::start(vec![]).await;
    std::fs::create_dir(server.path("bin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", server.path("bin/plugin")).unwrap();
    let changes = json!({"command": "bin/plugin"});
    let kubeconfig = server.kubeconfig("", &user(&server, &counts(&server), &changes));
    ask(&client(kubeconfig, DEADLINE)).await.unwrap();
    assert_eq!(runs(&server), 1);
}

#[tokio::test]
async fn a_token_in_the_kubeconfig_wins_and_nothing_is_run() {
    let server = Server::start(vec![]).await;
    let user = format!("token: fixed, {}", user(&server, &counts(&server), &json!({})));
    ask(&client(server.kubeconfig("", &user), DEADLINE))
        .await
        .unwrap();
    assert_eq!((runs(&server), tokens(&server)), (0, vec!["fixed".to_owned()]));
}

/// Seen red without the check of kind, version or expiry: that row reaches the API server.
#[tokio::test]
async fn its_mistakes_are_reported_and_no_review_is_sent() {
    let server = Server::start(vec![]).await;
    let (one, other) = (server.authority.client("one"), server.authority.client("other"));
    let mismatched = json!({"clientCertificateData": one.certificate, "clientKeyData": other.key});
    let wrong = |from: &str, to: &str| prints(&json!({"token": "s3cret"})).replace(from, to);
    for (script, said) in [
        (wrong("ExecCredential", "Status"), r#"and printed "Status" of"#),
        (
            wrong("k8s.io/v1", "k8s.io/v2"),
            r#"of "client.authentication.k8s.io/v2""#,
        ),
        (
            "echo '{\"kind\": s3cret'".into(),
            "is not an ExecCredential, near line 1, column 10",
        ),
        ("true".into(), "is not an ExecCredential, near line 1, column 0"),
        (
            "echo '{\"kind\": {\"s3cret\": 1}}'".into(),
            "is not an ExecCredential, a value has another type",
        ),
        (prints(&Value::Null), "without a status"),
        (prints(&json!({})), "neither a token nor a certificate"),
        (prints(&json!({"token": ""})), "neither a token nor a certificate"),
        (
            prints(&json!({"token": "s3cret\u{7}"})),
            "a character that no header can carry",
        ),
        (
            prints(&json!({"clientKeyData": one.key})),
            "only one of clientCertificateData and clientKeyData",
        ),
        (prints(&mismatched), "clientKeyData: "),
        (
            prints(&json!({"clientCertificateData": "s3cret", "clientKeyData": one.key})),
            "clientCertificateData: ",
        ),
        (
            prints(&json!({"token": "s3cret", "expirationTimestamp": "2001-02-03T04:05:06Z"})),
            "has expired already",
        ),
        (
            prints(&json!({"token": "s3cret", "expirationTimestamp": "tomorrow"})),
            "expirationTimestamp is not a time",
        ),
        ("yes s3cret".into(), "more than 1 MiB"),
        (
            "echo 'who is'  >&2; echo \"$PASSWORD, eyJhbGciOi.s3cret?\" >&2; exit 3".into(),
            "exit status: 3: who is [PASSWORD], [token]",
        ),
        ("kill -9 $$".into(), "signal: 9"),
        // All of it is read, and its beginning is kept.
        (
            "yes | head -c 5000000 >&2; exit 1".into(),
            "exit status: 1: y y y",
        ),
    ] {
        let env = json!({"env": [{"name": "PASSWORD", "value": "s3cret"}]});
        let client = client(server.kubeconfig("", &user(&server, &script, &env)), DEADLINE);
        let error = ask(&client).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Plugin(_)), "{error:?}");
        let (error, debug) = (error.to_string(), format!("{error:?}"));
        assert!(error.contains(said), "{script}: {error}");
        assert!(error.contains("users[u].user.exec: sh: "), "{error}");
        assert!(!debug.contains("s3cret") && !error.contains('\n'), "{debug}");
        assert!(error.len() < 1000, "{error}");
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_missing_command_shows_the_hint() {
    let server = Server::start(vec![]).await;
    for command in ["kubelet-gate-no-such-plugin", "./no-such-plugin"] {
        let hint = json!({"command": command, "installHint": "Get it\nat example.org\u{1b}[31m"});
        let client = client(server.kubeconfig("", &user(&server, "", &hint)), DEADLINE);
        let error = ask(&client).await.unwrap_err().to_string();
        assert!(error.contains("cannot be run: No such file"), "{error}");
        assert!(error.ends_with(r"; Get it\nat example.org\u{1b}[31m"), "{error}");
    }
}

/// Seen red: without the kill of the process group, the grandchild lives on.
#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let server = Server::start(vec![]).await;
    let pids = server.path("pids");
    let script = format!("sleep 1000 & echo $! >>{0}; echo $$ >>{0}; wait", pids.display());
    let kubeconfig = server.kubeconfig("", &user(&server, &script, &json!({})));
    let credentials = Arc::new(Credentials::new(kubeconfig, Duration::from_secs(1)).unwrap());
    let error = credentials.current().await.map(drop).unwrap_err().to_string();
    assert!(
        error.contains("no credential within 1s; it was killed"),
        "{error}"
    );
    let pids: Vec<u32> = std::fs::read_to_string(pids)
        .unwrap()
        .lines()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 2);
    let gone = |pid: &u32| {
        // A zombie that its new parent has not collected yet is dead as well.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.map_or(true, |state| state.contains(") Z "))
    };
    eventually("both are gone", || pids.iter().all(gone)).await;
}

/// Seen red: without the pause, every review runs it.
#[tokio::test]
async fn after_a_failure_it_is_not_run_for_every_review() {
    let server = Server::start(vec![]).await;
    let client = with_plugin(&server, "exit 1");
    let first = ask(&client).await.unwrap_err().to_string();
    for _ in 0..20 {
        assert_eq!(ask(&client).await.unwrap_err().to_string(), first);
    }
    assert!(runs(&server) <= 2, "{}", runs(&server));
    // It recovers by itself.
    server.write("plugin.sh", &counts(&server));
    let began = std::time::Instant::now();
    while ask(&client).await.is_err() {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_credential_is_replaced_when_it_expires() {
    let server = Server::start(vec![]).await;
    let expires = "$(date -u -d '+2 seconds' +%FT%T.%NZ)";
    let token = format!("run-$(wc -l <{})", server.path("runs").display());
    let script = prints(&json!({"token": token, "expirationTimestamp": expires}));
    let client = with_plugin(&server, &script);
    let began = std::time::Instant::now();
    while runs(&server) < 3 {
        ask(&client).await.unwrap();
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ask(&client).await.unwrap();
    let shown = tokens(&server);
    assert!(
        shown.contains(&"run-1".to_owned()) && shown.contains(&"run-2".to_owned()),
        "{shown:?}"
    );
    assert!(
        began.elapsed() > Duration::from_secs(2),
        "each was used for its life"
    );
}

/// Seen red with the renewal awaited by the review that finds the credential due.
#[tokio::test]
async fn the_last_good_credential_is_used_while_the_next_is_issued_or_fails() {
    let server = Server::start(vec![]).await;
    let once = |then: &str| {
        let first = format!(
            "[ $(wc -l <{}) = 1 ] || {{ {then}; }}\n",
            server.path("runs").display()
        );
        first + &counts(&server)
    };
    for (then, deadline) in [("exec sleep 1000", 1000), ("exit 1", 20)] {
        let _ = std::fs::remove_file(server.path("runs"));
        let kubeconfig = server.kubeconfig("", &user(&server, &once(then), &json!({})));
        let credentials = Credentials::new(kubeconfig, Duration::from_secs(deadline)).unwrap();
        let credentials = Arc::new(credentials);
        let token = async || {
            let access = tokio::time::timeout(DEADLINE, credentials.current()).await;
            let access = access.expect("it waits for the next").unwrap();
            access.authorization.clone().unwrap()
        };
        assert_eq!(token().await, "Bearer run-1");
        credentials.make_due();
        for _ in 0..5 {
            assert_eq!(token().await, "Bearer run-1");
        }
        eventually("it was run again", || runs(&server) == 2).await;
        assert_eq!(token().await, "Bearer run-1");
    }
}

/// Seen red with the refused credential used again: the second review fails.
#[tokio::test]
async fn a_refused_credential_is_replaced_at_once_but_not_for_ever() {
    let server = Server::start(vec![]).await;
    let client = with_plugin(&server, &counts(&server));
    ask(&client).await.unwrap();
    server.then(Act::Answer(401, ""));
    ask(&client).await.unwrap();
    assert_eq!(tokens(&server), ["run-1", "run-1", "run-2"]);

    // It is not run for every review if the API server refuses every credential.
    for _ in 0..40 {
        server.then(Act::Answer(401, ""));
    }
    for _ in 0..15 {
        let error = ask(&client).await.unwrap_err();
        assert_eq!(error.status().map(|status| status.as_u16()), Some(401), "{error}");
    }
    assert!(runs(&server) <= 5, "{}", runs(&server));
}

#[tokio::test]
async fn a_credential_of_one_plugin_is_not_used_for_another() {
    let server = Server::start(vec![]).await;
    let client = with_plugin(&server, &counts(&server));
    ask(&client).await.unwrap();
    server.write("other.sh", &prints(&json!({"token": "other"})));
    let changes = json!({"args": [server.path("other.sh")]});
    server.kubeconfig("", &user(&server, "exit 1", &changes));
    assert!(reload(&client).unwrap());
    ask(&client).await.unwrap();
    assert_eq!(tokens(&server), ["run-1", "other"]);
}

#[test]
fn no_argument_or_variable_in_debug_output() {
    let exec = json!({"apiVersion": V1, "command": "p", "args": ["s3cret"], "interactiveMode": "Never",
        "env": [{"name": "A", "value": "s3cret"}]});
    let text = kubeconfig_text("https://a", "certificate-authority: c", &format!("exec: {exec}"));
    let kubeconfig = Kubeconfig::parse("kubeconfig".as_ref(), &text).unwrap();
    assert!(!format!("{kubeconfig:?}").contains("s3cret"));
}
