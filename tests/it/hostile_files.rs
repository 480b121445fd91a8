//! A name in the configuration may lead to anything: a mistyped path to a FIFO, a folder mounted in place of
//! a file. If the gate waits for it or reads it without end, it stops serving, and does not even end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fakes::client::{Client, ClientTls};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Installation, Serving, assert_says, code, kubelet_gate, output, stderr};
use crate::world::{World, sum};

/// What may stand in place of a file, and what the gate says of it.
const HOSTILE: [(&str, &str); 5] = [
    ("fifo", "it is a FIFO (named pipe), not a regular file"),
    ("link-to-fifo", "it is a FIFO (named pipe), not a regular file"),
    ("zero", "it is a device, not a regular file"),
    ("folder", "it is a folder, not a regular file"),
    ("sparse", "it is larger than "),
];

fn make_hostile(folder: &Path) {
    let at = |name: &str| folder.join(name);
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    symlink(at("fifo"), at("link-to-fifo")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::File::create(at("sparse")).unwrap().set_len(1 << 30).unwrap();
}

/// Each key that names a file, with it set to `name`.
fn configurations(name: &str) -> Vec<(&'static str, Value)> {
    let upstream = |key: &str| {
        let mut upstream = json!({
            "url": "https://127.0.0.1:10350", "certificateFile": "kubelet-serving.crt",
            "clientCertificateFile": "gate.crt", "clientKeyFile": "gate.key",
        });
        upstream[key] = json!(name);
        json!({"upstream": upstream})
    };
    let x509 = |x509: Value| json!({"authentication": {"x509": x509}});
    vec![
        ("kubeconfig", json!({"kubeconfig": name})),
        ("tlsCertFile", json!({"tlsCertFile": name})),
        ("tlsPrivateKeyFile", json!({"tlsPrivateKeyFile": name})),
        (
            "authentication.x509.clientCAFile",
            x509(json!({"clientCAFile": name})),
        ),
        (
            "authentication.x509.crlFiles",
            x509(json!({"clientCAFile": "ca.crt", "crlFiles": [name]})),
        ),
        (
            "authentication.denyFiles",
            json!({"authentication": {"denyFiles": [name]}}),
        ),
        ("upstream.certificateFile", upstream("certificateFile")),
        (
            "upstream.clientCertificateFile",
            upstream("clientCertificateFile"),
        ),
        ("upstream.clientKeyFile", upstream("clientKeyFile")),
        (
            "upstream.caFile",
            json!({"upstream": {"url": "https://127.0.0.1:10350", "caFile": name, "serverName": "kubelet"}}),
        ),
        (
            "upstream.tokenFile",
            json!({"upstream": {
                "url": "https://127.0.0.1:10350", "certificateFile": "kubelet-serving.crt", "tokenFile": name,
            }}),
        ),
    ]
}

/// Runs `check`, which must end, and fail.
async fn refused(config: &str) -> String {
    let mut command = kubelet_gate();
    command.args(["check", "--offline", "--config", config]);
    let checked = output(command).await;
    assert_eq!(code(&checked), 64, "{config}: {}", stderr(&checked));
    stderr(&checked)
}

/// Seen red: with `fs::read`, `check` never ended on the first FIFO.
#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_key_the_file_and_what_it_is() {
    let installation = Installation::new();
    make_hostile(installation.directory.path());
    for (name, what) in HOSTILE {
        for (key, change) in configurations(name) {
            installation.configure(|configuration| {
                for (section, value) in change.as_object().unwrap() {
                    configuration[section] = value.clone();
                }
            });
            let said = refused(&installation.config()).await;
            assert_says(&said, &[key, &installation.path(name), what]);
        }
        // The configuration itself, whose errors have words of their own for two of these.
        let said = refused(&installation.path(name)).await;
        let what = match name {
            "folder" => "it is a directory",
            "sparse" => "the file is larger than 1 MiB",
            _ => what,
        };
        assert_says(&said, &[&installation.path(name), what]);
    }
}

/// Seen red: as above.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_kubeconfig_are_read_as_carefully() {
    let installation = Installation::new();
    make_hostile(installation.directory.path());
    installation.configure(|_| {});
    let kubeconfig = fs::read_to_string(installation.path("kubeconfig")).unwrap();
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
    for (name, what) in HOSTILE {
        for (section, key) in [
            ("/clusters/0/cluster", "certificate-authority"),
            ("/users/0/user", "client-certificate"),
            ("/users/0/user", "client-key"),
            ("/users/0/user", "tokenFile"),
        ] {
            let mut changed = kubeconfig.clone();
            changed.pointer_mut(section).unwrap()[key] = json!(name);
            fs::write(installation.path("kubeconfig"), changed.to_string()).unwrap();
            let said = refused(&installation.config()).await;
            assert_says(&said, &["kubeconfig", &installation.path(name), what]);
        }
    }
}

/// Seen red: with `fs::read`, none of the three happened; with each failure logged, there was a line for
/// each.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_whose_ca_file_becomes_a_fifo_serves_answers_and_ends() {
    let installation = Installation::new();
    let mut serving = Serving::start(&installation).await;
    let ca = installation.path("ca.crt");
    fs::remove_file(&ca).unwrap();
    mknodat(CWD, &ca, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let admin = Client::plain(serving.admin).with_deadline(patience());
    let mut failures = 0.0;
    eventually_answers("it has tried three times", async || {
        serving.signal(Signal::HUP);
        let metrics = admin.get("/metrics").await.unwrap();
        let text = String::from_utf8(metrics.body().to_vec()).unwrap();
        failures = sum(
            &text,
            "reloads_total",
            &[("what", "serving"), ("result", "error")],
        );
        failures >= 3.0
    })
    .await;
    let stranger = Client::new(serving.address, ClientTls::default()).unwrap();
    let answer = stranger.with_deadline(patience()).get("/pods").await.unwrap();
    assert_eq!(answer.status(), 401);
    // The kubeconfig names the file too, and has a line of its own.
    let complaints = || {
        let mut later = serving.later();
        later.retain(|event| event["fields"]["what"] == "serving");
        let said = |event: &Value| event["fields"]["error"].as_str().map(str::to_owned);
        later
            .iter()
            .filter_map(said)
            .filter(|said| said.contains("a FIFO"))
            .count()
    };
    eventually("it is in the log", || complaints() > 0).await;
    assert_eq!(complaints(), 1, "{:?}", serving.later());
    serving.signal(Signal::TERM);
    assert!(serving.exit().await.success());
}

/// The same for the files of the kubelet and of the API server, and the way back.
///
/// Seen red: with files opened unseen and without `O_NONBLOCK`, the reload did not end.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_files_stay_in_force_until_the_new_ones_are_good() {
    let world = World::start().await;
    for (file, what) in [("kubelet-serving.crt", "upstream"), ("kubeconfig", "kubeconfig")] {
        let (path, good) = (world.file(file), fs::read(world.file(file)).unwrap());
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        world.gate.reload();
        let failed = [("what", what), ("result", "error")];
        assert_eq!(world.metric("reloads_total", &failed), 1.0, "{what}");
        assert_eq!(world.client("bob").get("/pods").await.unwrap().status(), 200);
        fs::remove_file(&path).unwrap();
        fakes::pki::write_secret(&path, good).unwrap();
        world.gate.reload();
        assert_eq!(world.metric("reloads_total", &failed), 1.0, "{what}");
    }
    world.stop().await;
}

/// Opened for writing, a FIFO without a reader holds the process.
///
/// Seen red: opened without `O_NONBLOCK`, `serve` neither began nor ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_without_a_reader_in_place_of_the_audit_file_is_an_error() {
    let installation = Installation::new();
    installation.configure(|configuration| configuration["audit"]["path"] = json!("fifo"));
    make_hostile(installation.directory.path());
    let mut command = kubelet_gate();
    command.args(["serve", "--config", &installation.config()]);
    let ended = output(command).await;
    assert_eq!(code(&ended), 64);
    assert_says(&stderr(&ended), &["audit.path", "fifo"]);
}
