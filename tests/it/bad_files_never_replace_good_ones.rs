//! A bad file is put where a good one was. If it replaced the good one, a renewal that went wrong would take
//! the node down; if nothing said so, the good one would run out unnoticed.

use std::fs;
use std::path::Path;

use fakes::client::Client;
use fakes::pki::{Ca, CertificateSpec};
use rustix::process::Signal;
use time::Duration as Span;

use crate::bad_files_refused_at_start::{CASES, expired_pair, server};
use crate::patience::eventually;
use crate::program::{Installation, Serving};
use crate::world::{PKI, Status as _, World};

fn failing(world: &World, what: &str) -> f64 {
    world.metric("reload_failing", &[("what", what)])
}

/// The lines of `/readyz?verbose` on reloads. A file that cannot be taken up leaves the gate ready.
async fn complaints(world: &World) -> Vec<String> {
    let answer = world.admin_client().get("/readyz?verbose").await.unwrap();
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    assert_eq!(answer.status(), 200, "{text}");
    let lines = text
        .lines()
        .filter(|line| line.contains("the last good files stay in force"));
    lines.map(str::to_owned).collect()
}

/// A folder's files with their modes, and its own.
fn snapshot(folder: &Path) -> impl Fn() + use<> {
    let mode = fs::metadata(folder).unwrap().permissions();
    let files: Vec<_> = ["ca.crt", "gate-serving.crt", "gate-serving.key"]
        .into_iter()
        .map(|name| folder.join(name))
        .map(|path| {
            let permissions = fs::metadata(&path).unwrap().permissions();
            (fs::read(&path).unwrap(), permissions, path)
        })
        .collect();
    let folder = folder.to_owned();
    move || {
        fs::set_permissions(&folder, mode.clone()).unwrap();
        for (content, permissions, path) in &files {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, permissions.clone()).unwrap();
        }
    }
}

/// Seen red: with each judgement of `Serving::build` left out, with the files read without a guard, and with
/// the gauge left at 1 when the good file was back.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_serving_pair_or_ca_leaves_the_good_one_in_force_until_it_is_mended() {
    let world = World::start().await;
    let mend = snapshot(&world.file(""));
    let mut open = world.client("bob").connect().await.unwrap();
    for (number, (what, break_it, words)) in CASES.into_iter().enumerate() {
        break_it(&world.file(""));
        for _ in 0..2 {
            world.gate.reload();
            assert_eq!(failing(&world, "serving"), 1.0, "{what}");
        }
        let errors = world.metric("reloads_total", &[("what", "serving"), ("result", "error")]);
        assert_eq!(errors, 2.0 * (number + 1) as f64, "{what}");
        let said = complaints(&world).await.join("\n");
        let line = "[!] serving: the last good files stay in force: ";
        assert!(said.contains(line), "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: {said}");
        }
        let shown = world
            .stranger()
            .handshake()
            .await
            .unwrap()
            .server_certificate
            .unwrap();
        assert_eq!(shown, PKI.gate_serving.chain[0].to_vec(), "{what}");
        assert_eq!(open.status("/healthz").await, 200, "{what}");
        let mut fresh = world.client("bob").connect().await.unwrap();
        assert_eq!(fresh.status("/healthz").await, 200, "{what}");
        mend();
        world.gate.reload();
        assert_eq!(failing(&world, "serving"), 0.0, "{what}");
        assert_eq!(complaints(&world).await, Vec::<String>::new(), "{what}");
    }
    let taken = world.metric("reloads_total", &[("what", "serving"), ("result", "ok")]);
    assert_eq!(taken, 0.0);
    world.stop().await;
}

/// Seen red: with every reload that fails logged, and with no line for the mending.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_one_line_in_the_log_and_its_mending_another() {
    let installation = Installation::new();
    let mut serving = Serving::start(&installation).await;
    let folder = installation.directory.path();
    let mend = snapshot(folder);
    let admin = Client::plain(serving.admin);
    let reloaded = async |times: f64| {
        serving.signal(Signal::HUP);
        crate::patience::eventually_answers("the files were read", async || {
            let text = admin.get("/metrics").await.unwrap();
            let text = String::from_utf8(text.body().to_vec()).unwrap();
            let labels = [("what", "serving"), ("result", "error")];
            crate::world::sum(&text, "reloads_total", &labels) >= times
        })
        .await;
    };
    expired_pair(folder);
    reloaded(1.0).await;
    reloaded(2.0).await;
    let said = |words: &str| {
        let mut later = serving.later();
        later.retain(|event| event["fields"]["what"] == "serving");
        let is_said = |event: &&serde_json::Value| {
            let message = event["fields"]["message"].as_str();
            message.is_some_and(|message| message.contains(words))
        };
        later.iter().filter(is_said).count()
    };
    assert_eq!(said("cannot be used"), 1);
    mend();
    serving.signal(Signal::HUP);
    eventually("the mending is logged", || said("mended") == 1).await;
    // A renewal that is good replaces what is in force, in a line of its own.
    let renewed = PKI.ca.issue("gate-serving", &server()).unwrap();
    renewed.write(folder).unwrap();
    serving.signal(Signal::HUP);
    eventually("the renewal is logged", || {
        said("files changed and are in force") == 1
    })
    .await;
    assert_eq!((said("mended"), said("cannot be used")), (1, 1));
    serving.signal(Signal::TERM);
    assert!(serving.exit().await.success());
}

/// Seen red: with the expired CA an error, the new one was not taken up.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_has_expired_keeps_no_other_from_being_taken_up() {
    let world = World::start().await;
    let old = Ca::generate_valid("old", -Span::DAY * 2, -Span::DAY).unwrap();
    let bundle = [
        old.certificate_pem(),
        PKI.ca.certificate_pem(),
        PKI.rotated_ca.certificate_pem(),
    ];
    fs::write(world.file("ca.crt"), bundle.concat()).unwrap();
    world.gate.reload();
    assert_eq!(failing(&world, "serving"), 0.0);
    let mut carol = world.client("carol").connect().await.unwrap();
    assert_eq!(carol.status("/healthz").await, 200);
    world.stop().await;
}

/// Seen red: with the certificates of the kubeconfig taken whatever their dates.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_credential_of_the_gate_replaces_no_good_one() {
    let world = World::builder()
        .configure(|_, folder| {
            let kubeconfig = fs::read_to_string(folder.join("kubeconfig")).unwrap();
            let mut kubeconfig: serde_json::Value = serde_json::from_str(&kubeconfig).unwrap();
            kubeconfig["clusters"][0]["cluster"] = serde_json::json!({
                "server": kubeconfig["clusters"][0]["cluster"]["server"],
                "certificate-authority": "api-ca.crt",
            });
            kubeconfig["users"][0]["user"] =
                serde_json::json!({"client-certificate": "gate.crt", "client-key": "gate.key"});
            fakes::pki::write_secret(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
            fs::write(folder.join("api-ca.crt"), PKI.ca.certificate_pem()).unwrap();
        })
        .without_caches()
        .start()
        .await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(bob.status("/healthz").await, 200);
    let spec = CertificateSpec::client("system:node:worker-1").group("system:nodes");
    let expired = PKI
        .client("gate", &spec.valid(-Span::DAY * 2, -Span::DAY))
        .unwrap();
    expired.write(&world.file("")).unwrap();
    world.gate.reload();
    assert_eq!(failing(&world, "kubeconfig"), 1.0);
    assert_eq!(bob.status("/healthz").await, 200);
    PKI.gate.write(&world.file("")).unwrap();
    world.gate.reload();
    assert_eq!(failing(&world, "kubeconfig"), 0.0);

    let ca = Ca::generate_valid("kubernetes", -Span::DAY * 2, -Span::DAY).unwrap();
    fs::write(world.file("api-ca.crt"), ca.certificate_pem()).unwrap();
    world.gate.reload();
    assert_eq!(failing(&world, "kubeconfig"), 1.0);
    assert_eq!(bob.status("/healthz").await, 200);
    let said = complaints(&world).await.join("\n");
    assert!(said.contains("api-ca.crt: all of its CAs have expired"), "{said}");
    world.stop().await;
}
