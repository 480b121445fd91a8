//! The configuration file is followed: what tightens within 10 s, what loosens on SIGHUP alone.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use fakes::apiserver::{Api, Behaviour};
use serde_json::json;
use time::Duration as Span;

use super::{BY_THE_CLOCK, Node};
use crate::patience::{eventually, eventually_answers, stretched};
use crate::program::{Installation, assert_says, code, stderr};
use crate::trust_changes::{named_list, revocation_list};
use crate::world::{PKI, Status as _};

const PENDING: &str = "configuration_pending";
const WAITS_FOR_SIGHUP: [(&str, &str); 1] = [("wait", "sighup")];
const WAITS_FOR_RESTART: [(&str, &str); 1] = [("wait", "restart")];
const FAILING: [(&str, &str); 1] = [("what", "configuration")];

/// Seen red: with the rules not stored in `publish`, and with loosening taken up by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_path_bites_by_the_clock_and_is_let_go_by_a_signal() {
    let mut node = Node::start(|_, _| {}).await;
    let mut bob = node.client(&PKI.bob).connect().await.unwrap();
    assert_eq!(bob.status("/pods").await, 200);
    let asked = node.api.count(Api::Access);

    node.configure(|file| file["authorization"]["paths"]["deny"] = json!(["/pods"]));
    let began = Instant::now();
    eventually_answers("the path is denied on the open connection", async || {
        bob.status("/pods").await == 403
    })
    .await;
    assert!(began.elapsed() < stretched(BY_THE_CLOCK), "{:?}", began.elapsed());
    assert_eq!(node.api.count(Api::Access), asked);
    assert_eq!(bob.status("/healthz").await, 200, "other paths");
    assert_eq!(node.loosened(), Vec::<String>::new());

    node.configure(|file| file["authorization"]["paths"]["deny"] = json!([]));
    node.says("loosens what is allowed: authorization.paths.deny has no more /pods")
        .await;
    node.shows(PENDING, &WAITS_FOR_SIGHUP, 1.0).await;
    let ready = node.admin("/readyz?verbose").await;
    assert_says(&ready, &["[!] configuration: ", "waits for SIGHUP", "/pods"]);
    assert_eq!(bob.status("/pods").await, 403);
    assert_eq!(node.loosened(), Vec::<String>::new());

    let asked = node.api.count(Api::Access);
    node.hang_up();
    eventually_answers("the path is allowed", async || bob.status("/pods").await == 200).await;
    assert!(!bob.is_closed());
    assert!(
        node.api.count(Api::Access) > asked,
        "the allow from before was asked for again"
    );
    eventually("it is in the audit", || {
        node.loosened() == ["authorization.paths.deny has no more /pods"]
    })
    .await;
    node.says("what is allowed was loosened: authorization.paths.deny has no more /pods")
        .await;
    node.shows(PENDING, &WAITS_FOR_SIGHUP, 0.0).await;
    assert_eq!(node.said("loosens what is allowed").len(), 1, "once");
    node.stop().await;
}

/// Seen red: with the rules not stored in `publish`, and with `at_start` never noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_a_start_can_change_is_named_and_kept() {
    let mut node = Node::start(|_, _| {}).await;
    let mut bob = node.client(&PKI.bob).connect().await.unwrap();
    node.configure(|file| {
        file["listen"] = json!(["127.0.0.1:1"]);
        file["limits"] = json!({"idleTimeout": "1m0s"});
        file["authorization"]["paths"]["deny"] = json!(["/pods"]);
    });
    eventually_answers("the path is denied", async || bob.status("/pods").await == 403).await;
    let named = "limits.idleTimeout, listen: changed in ";
    node.says(named).await;
    node.shows(PENDING, &WAITS_FOR_RESTART, 2.0).await;
    let ready = node.admin("/readyz?verbose").await;
    assert_says(
        &ready,
        &[
            "[!] configuration: ",
            named,
            "not in force until a restart",
            "\nok\n",
        ],
    );
    assert_eq!(
        node.client(&PKI.bob).status("/healthz").await,
        200,
        "it listens on"
    );

    node.configure(|file| {
        file["listen"] = json!(["127.0.0.1:0"]);
        file["limits"] = json!({});
    });
    node.shows(PENDING, &WAITS_FOR_RESTART, 0.0).await;
    assert!(!node.admin("/readyz?verbose").await.contains("restart"));
    assert_eq!(node.said(named).len(), 1, "one warning");
    node.stop().await;
}

/// Seen red: with the gauge never raised, and with SIGHUP taken for the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_keeps_the_old_one_in_force_until_it_is_mended() {
    let mut node = Node::start(|file, _| file["authorization"]["paths"]["deny"] = json!(["/pods"])).await;
    let mut bob = node.client(&PKI.bob).connect().await.unwrap();
    let good = node.changed(|_| {});
    for (bad, why) in [
        ("{", "not YAML"),
        (
            &good.replace("\"authorization\"", "\"authorisation\"")[..],
            "authorisation",
        ),
        (&good.replace("\"ca.crt\"", "\"missing.crt\"")[..], "missing.crt"),
    ] {
        node.put("gate.yaml", bad);
        node.hang_up();
        node.says(why).await;
        node.shows("reload_failing", &FAILING, 1.0).await;
        assert_says(
            &node.admin("/readyz?verbose").await,
            &["[!] configuration: ", why],
        );
        assert_eq!(bob.status("/pods").await, 403);
        assert_eq!(bob.status("/healthz").await, 200);
        node.put("gate.yaml", &good);
        node.shows("reload_failing", &FAILING, 0.0).await;
    }
    // The others see to it that no user may write to it.
    let file = node.path("gate.yaml");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    node.says("its mode 0666 lets other users change").await;
    node.shows("reload_failing", &FAILING, 1.0).await;
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    node.shows("reload_failing", &FAILING, 0.0).await;
    node.stop().await;
}

/// What a writer has left after its stop is YAML, and denies nothing.
///
/// Seen red: with loosening taken up by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_configuration_is_not_in_force_however_long_its_writer_stops() {
    let node = Node::start(|file, _| {
        file["authentication"]["webhook"] = json!({"enabled": true});
        file["authorization"]["paths"]["deny"] = json!(["/pods"]);
    })
    .await;
    let mut bob = node.client(&PKI.bob).connect().await.unwrap();
    assert_eq!(bob.status("/pods").await, 403);
    let whole = serde_json::to_value(&node.configuration).unwrap();
    let section = |name: &str| format!("{name}: {}\n", whole[name]);
    let names = whole.as_object().unwrap().keys();
    let before: String = names
        .filter(|name| *name != "authorization")
        .map(|name| section(name))
        .collect();
    let mut file = fs::File::create(node.path("gate.yaml")).unwrap();
    file.write_all(before.as_bytes()).unwrap();
    node.says("loosens what is allowed: authorization.paths.deny has no more /pods")
        .await;
    assert_eq!(bob.status("/pods").await, 403);
    file.write_all(b"authorization: {paths: {deny: [/pods, /logs]}}\n")
        .unwrap();
    eventually_answers("the whole file is in force", async || {
        bob.status("/logs").await == 403
    })
    .await;
    assert_eq!(bob.status("/pods").await, 403);
    node.shows(PENDING, &WAITS_FOR_SIGHUP, 0.0).await;
    assert_eq!(node.loosened(), Vec::<String>::new());
    node.stop().await;
}

/// The listener and the audit: not only what a request is judged by.
///
/// Seen red: without `set_policy`.
#[tokio::test(flavor = "multi_thread")]
async fn other_files_and_another_audit_are_taken_up_from_the_configuration() {
    let mut node = Node::start(|_, _| {}).await;
    let renewed = crate::trust_changes::serving_pair();
    node.put("new.crt", &renewed.certificate_pem());
    node.put("new.key", &renewed.key_pem());
    node.configure(|file| {
        file["tlsCertFile"] = json!("new.crt");
        file["tlsPrivateKeyFile"] = json!("new.key");
        file["audit"]["commands"] = json!("omit");
    });
    let stranger = node.client(&PKI.bob);
    eventually_answers("the new certificate is shown", async || {
        let shown = stranger.handshake().await.unwrap().server_certificate.unwrap();
        shown == renewed.chain[0].to_vec()
    })
    .await;
    let target = "/exec/default/web/main?command=secret";
    stranger.get(target).await.unwrap();
    eventually("the command is left out", || {
        let text = fs::read_to_string(node.path("audit.log")).unwrap();
        assert!(!text.contains("secret") && !text.contains("hmac:"), "{text}");
        text.contains("/exec/default/web/main")
    })
    .await;
    node.stop().await;
}

/// The operator must learn what the same SIGHUP lets go in the files.
///
/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn what_files_loosen_together_with_the_configuration_is_said() {
    let mut node = Node::start(|file, folder| {
        fs::write(folder.join("deny"), "user bob\n# end\n").unwrap();
        fs::write(folder.join("more"), "user jane\n# end\n").unwrap();
        let list = revocation_list(&PKI.ca, &[], Span::DAY);
        let other = named_list(&PKI.rotated_ca, "kubernetes-rotated", &[&PKI.carol], Span::DAY);
        fs::write(folder.join("lists.crl"), [list, other].concat()).unwrap();
        let bundle = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()].concat();
        fs::write(folder.join("ca.crt"), bundle).unwrap();
        file["authentication"]["denyFiles"] = json!(["deny"]);
        file["authentication"]["x509"]["crlFiles"] = json!(["lists.crl"]);
    })
    .await;
    let (bob, carol) = (node.client(&PKI.bob), node.client(&PKI.carol));
    assert_eq!(
        (bob.status("/healthz").await, carol.status("/healthz").await),
        (403, 401)
    );
    node.put("deny", "# end\n");
    node.put("lists.crl", &revocation_list(&PKI.ca, &[], Span::DAY));
    node.configure(|file| {
        file["authentication"]["denyFiles"] = json!(["deny", "more"]);
        file["tlsMinVersion"] = json!("VersionTLS13");
    });
    node.hang_up();
    eventually_answers("both are let go", async || {
        (bob.status("/healthz").await, carol.status("/healthz").await) == (200, 200)
    })
    .await;
    for said in [
        "/deny:1 (user",
        "authentication.x509.crlFiles has no list of CN=kubernetes-rotated as new",
    ] {
        node.says(said).await;
        eventually("it is in the audit", || {
            node.loosened().iter().any(|loosened| loosened.contains(said))
        })
        .await;
    }
    node.stop().await;
}

/// Seen red: with the directories not judged.
#[test]
fn a_configuration_that_others_may_change_is_refused_at_the_start() {
    let installation = Installation::new();
    let folder = installation.directory.path();
    let chmod =
        |path: &std::path::Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let file = installation.config();
    let refused = |why: &str| {
        for command in ["check", "serve"] {
            let ended = crate::program::run(&[command, "--config", &file]);
            assert_eq!(code(&ended), 64, "{command}: {}", stderr(&ended));
            assert_says(&stderr(&ended), &[&file, why]);
        }
    };
    chmod(file.as_ref(), 0o620);
    refused("its mode 0620 lets other users change what the gate allows");
    chmod(file.as_ref(), 0o644);
    chmod(folder, 0o777);
    refused("the mode 0777 of ");
    chmod(folder, 0o1777);
    assert_eq!(code(&installation.check(&["--offline"])), 0);
    chmod(folder, 0o700);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        refused("it belongs to the user with the id 12345");
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        std::os::unix::fs::chown(folder, Some(12345), None).unwrap();
        refused("belongs to the user with the id 12345, who could replace it");
    }
}

/// Under `ProtectSystem=`, systemd mounts the folders of the machine read-only for the gate alone: whichever
/// users may write to them outside still may. A volume of the kubelet's is filled by root alone.
///
/// Seen red: with every read-only folder passed; with no volume passed; and with a volume that is not the
/// root of its mount passed.
#[test]
fn a_folder_that_is_read_only_for_the_gate_alone_is_judged_and_a_volume_is_not() {
    const READ_ONLY: &str = "mount --bind \"$at\" \"$at\"; mount -o remount,bind,ro \"$at\"; exec \"$@\"";
    const FILL: &str = "mkdir ..2026; chmod 0755 ..2026; mv * ..2026; ln -s ..2026 ..data
        for file in $(ls ..2026); do ln -s ..data/$file $file; done";
    for (at, fill, passes) in [(".", "", false), (".", FILL, true), ("..", FILL, false)] {
        let installation = Installation::new();
        let folder = installation.directory.path().join("outer/folder");
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(installation.directory.path()).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                fs::rename(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
        let script = format!(
            "cd '{}'; at=$(realpath {at}); {fill}\n{READ_ONLY}",
            folder.display()
        );
        let Some(mut command) = crate::program::kubelet_gate_after(&script) else {
            return;
        };
        let file = folder.join("gate.yaml");
        let ended = command
            .args(["check", "--offline", "--config", file.to_str().unwrap()])
            .output()
            .unwrap();
        match passes {
            true => assert_eq!(code(&ended), 0, "{}", stderr(&ended)),
            false => assert_says(
                &stderr(&ended),
                &["the mode 0777 of ", "lets other users replace it"],
            ),
        }
    }
}

/// A link in the middle of a chain decides as much as the first one and the file.
///
/// Seen red: with the directories of the first link and of the file alone; and with the owner of a link in a
/// sticky directory not judged.
#[test]
fn a_configuration_behind_a_link_that_others_may_replace_is_refused() {
    let installation = Installation::new();
    let team = installation.directory.path().join("team");
    fs::create_dir(&team).unwrap();
    let chmod = |mode| fs::set_permissions(&team, PermissionsExt::from_mode(mode)).unwrap();
    let (first, second) = (installation.path("first.yaml"), team.join("current.yaml"));
    symlink(&second, &first).unwrap();
    symlink(installation.config(), &second).unwrap();
    let check = || crate::program::run(&["check", "--offline", "--config", &first]);
    for mode in [0o755, 0o1775] {
        chmod(mode);
        assert_eq!(code(&check()), 0, "{mode:o}: {}", stderr(&check()));
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(&second, Some(12345), None).unwrap();
        assert_says(
            &stderr(&check()),
            &["current.yaml belongs to the user with the id 12345"],
        );
        chmod(0o755);
        assert_eq!(code(&check()), 0, "{}", stderr(&check()));
    }
    chmod(0o775);
    assert_eq!(code(&check()), 64);
    assert_says(
        &stderr(&check()),
        &["the mode 0775 of ", "/team lets other users replace it"],
    );
}

/// A new configuration begins without the answers that were given under the old one, also in an outage.
///
/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_new_configuration_forgets_earlier_answers_and_a_static_rule_waits_for_a_signal() {
    let mut node = Node::start(|file, _| {
        file["authorization"]["webhook"] =
            json!({"cacheAuthorizedTTL": "1ns", "staleAllow": {"maxAge": "1h"}});
        file["limits"] = json!({"reviewTimeout": "500ms"});
    })
    .await;
    let bob = node.client(&PKI.bob);
    assert_eq!(bob.status("/metrics").await, 200);
    node.api.behave_entirely(Behaviour::Fail(503));
    assert_eq!(bob.status("/metrics").await, 200, "by the earlier answer");
    node.configure(|file| file["authorization"]["paths"]["deny"] = json!(["/pods"]));
    eventually_answers("the earlier answer is forgotten", async || {
        bob.status("/metrics").await == 503
    })
    .await;

    let rule = json!({"users": ["bob"], "verbs": ["get"], "subresources": ["metrics"]});
    node.configure(|file| file["authorization"]["static"] = json!([rule]));
    node.says("loosens what is allowed: authorization.static allows more by rule 1")
        .await;
    assert_eq!(bob.status("/metrics").await, 503);
    node.hang_up();
    eventually_answers("the rule is in force", async || {
        bob.status("/metrics").await == 200
    })
    .await;
    node.configure(|file| file["authorization"]["static"] = json!([]));
    eventually_answers("the rule is gone, by the clock", async || {
        bob.status("/metrics").await == 503
    })
    .await;
    node.stop().await;
}
