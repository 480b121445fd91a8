//! A gate is reached by strangers. One who takes it over must find no more in its hands than its work needs:
//! no other file, no program to start, no process to look into, and nothing that outlives it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use fakes::apiserver::{FakeApiServer, GATE_TOKEN};
use fakes::client::{Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Installation, Serving, assert_says, code, kubelet_gate, stderr};
use crate::skipped::skip;
use crate::world::{API_SERVER, PKI, sum};

/// Another user than root; none of the machine's.
const USER: u32 = 64_990;

/// A gate with a kubelet and an API server, whose credential is issued by an exec plugin.
struct Contained {
    installation: Installation,
    api: FakeApiServer,
    kubelet: FakeKubelet,
}

impl Contained {
    async fn new() -> Self {
        let installation = Installation::new();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        PKI.write(installation.directory.path()).unwrap();
        let pair = &PKI.kubelet_serving;
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        });
        let contained = Self {
            installation,
            api,
            kubelet: kubelet.await.unwrap(),
        };
        contained.configure("BestEffort", |_| {});
        contained.plugin_is(&prints_token());
        contained.kubeconfig("plugin.sh", |_| {});
        contained
    }

    fn configure(&self, sandbox: &str, change: impl FnOnce(&mut Value)) {
        let url = format!("https://{}", self.kubelet.address());
        self.installation.configure(|configuration| {
            configuration["nodeName"] = json!("worker-1");
            configuration["upstream"]["url"] = json!(url);
            configuration["sandbox"] = json!(sandbox);
            configuration["firewall"]["stateDirectory"] = json!("state");
            change(configuration);
        });
    }

    /// What the plugin does.
    fn plugin_is(&self, script: &str) {
        fs::write(self.installation.path("plugin.sh"), script).unwrap();
    }

    /// Has the kubeconfig name this script.
    fn kubeconfig(&self, script: &str, change: impl FnOnce(&mut Value)) {
        let credential = fakes::pki::KubeconfigUser::Token("replaced");
        let mut kubeconfig: Value = serde_json::from_str(&self.api.kubeconfig(&PKI, credential)).unwrap();
        kubeconfig["users"][0]["user"] = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": [self.installation.path(script)],
            "interactiveMode": "Never",
        }});
        change(&mut kubeconfig);
        let _ = fs::remove_file(self.installation.path("kubeconfig"));
        fakes::pki::write_secret(self.installation.path("kubeconfig"), kubeconfig.to_string()).unwrap();
    }

    async fn serve(&self) -> Serving {
        Serving::start(&self.installation).await
    }

    /// As a user without privileges, to whom every file belongs.
    async fn serve_as_user(&self) -> Option<Serving> {
        if !rustix::process::geteuid().is_root() || Command::new("setpriv").arg("--help").output().is_err() {
            skip("a gate as another user needs root and setpriv");
            return None;
        }
        let folder = self.installation.path("");
        let owner = format!("{USER}:{USER}");
        let owned = Command::new("chown").args(["-R", &owner, &folder]).status();
        assert!(owned.unwrap().success());
        let gate = kubelet_gate();
        let mut command = Command::new("setpriv");
        command
            .args([
                &format!("--reuid={USER}"),
                &format!("--regid={USER}"),
                "--clear-groups",
            ])
            .arg(gate.get_program());
        Some(Serving::by(command, &self.installation.config()).await)
    }

    /// Asks as the API server does.
    async fn get(&self, gate: &Serving, path: &str) -> u16 {
        let pair = PKI.pair(API_SERVER).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..ClientTls::default()
        };
        let client = Client::new(gate.address, tls).unwrap().with_deadline(patience());
        client.get(path).await.unwrap().status().as_u16()
    }
}

fn prints_token() -> String {
    let answer = json!({
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "status": {"token": GATE_TOKEN},
    });
    format!("cat <<END\n{answer}\nEND\n")
}

async fn readiness(gate: &Serving) -> String {
    let answer = Client::plain(gate.admin).get("/readyz?verbose").await.unwrap();
    String::from_utf8_lossy(answer.body()).into_owned()
}

async fn metric(gate: &Serving, name: &str) -> f64 {
    let answer = Client::plain(gate.admin).get("/metrics").await.unwrap();
    sum(&String::from_utf8_lossy(answer.body()), name, &[])
}

/// The value of a line of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key}:")));
    line.unwrap_or_default().trim().to_owned()
}

fn command_line(pid: &str) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// The processes with this in their command line.
fn processes(part: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse().ok());
    pids.filter(|pid: &u32| command_line(&pid.to_string()).contains(part))
        .collect()
}

/// The helper process of this gate.
fn helper(gate: &Serving) -> u32 {
    let of_gate = |pid: &u32| status(*pid, "PPid") == gate.pid().to_string();
    let helpers = processes("kubelet-gate helper");
    let found: Vec<u32> = helpers
        .into_iter()
        .filter(|pid| Path::new(&format!("/proc/{pid}")).exists())
        .filter(of_gate)
        .collect();
    assert_eq!(found.len(), 1);
    found[0]
}

fn is_gone(pid: u32) -> bool {
    // A process that no parent has waited for yet has ended too.
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |status| status.contains("\nState:\tZ"))
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

/// The version of the kernel's Landlock, as the gate says it; `None`, and the test
/// counts as skipped, without.
async fn landlock(gate: &Serving) -> Option<u32> {
    let said = gate
        .said
        .iter()
        .map(|line| line["message"].as_str().unwrap_or_default());
    let sandbox: Vec<&str> = said.filter(|line| line.starts_with("sandbox: ")).collect();
    assert_eq!(sandbox.len(), 1, "one line: {:?}", gate.said);
    let version = sandbox[0].split("Landlock version ").nth(1);
    let Some(version) = version.and_then(|rest| rest.split(':').next()?.parse().ok()) else {
        skip("this kernel has no Landlock");
        return None;
    };
    Some(version)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_sandbox_serves_and_says_what_is_in_force() {
    let contained = Contained::new().await;
    for sandbox in ["BestEffort", "Required", "Off"] {
        contained.configure(sandbox, |_| {});
        let mut gate = contained.serve().await;
        if sandbox != "Off" && landlock(&gate).await.is_none() {
            return;
        }
        assert_eq!(contained.get(&gate, "/pods").await, 200, "{sandbox}");
        let said = readiness(&gate).await;
        let hardened = sandbox != "Off";
        assert_eq!(said.contains("[!] sandbox: off"), !hardened, "{said}");
        for pid in [gate.pid(), helper(&gate)] {
            assert_eq!(
                status(pid, "NoNewPrivs"),
                if hardened { "1" } else { "0" },
                "{sandbox}"
            );
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"))
                .unwrap();
            assert_eq!(
                core.split_whitespace().filter(|word| *word == "0").count(),
                2,
                "{core}"
            );
        }
        assert_eq!(metric(&gate, "helper_running").await, 1.0);
        let shown = Client::plain(gate.admin).get("/status").await.unwrap();
        let shown: Value = serde_json::from_slice(shown.body()).unwrap();
        let expected = if hardened {
            "in force: no core dumps, "
        } else {
            "off"
        };
        let shown = shown["sandbox"].as_str().unwrap();
        assert!(shown.starts_with(expected), "{sandbox}: {shown}");
        gate.signal(Signal::TERM);
        assert_eq!(gate.exit().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_of_a_user_without_privileges_serves_in_its_sandbox() {
    let contained = Contained::new().await;
    contained.configure("Required", |_| {});
    fs::create_dir(contained.installation.path("state")).unwrap();
    let Some(mut gate) = contained.serve_as_user().await else {
        return;
    };
    assert_eq!(contained.get(&gate, "/pods").await, 200);
    assert_says(&readiness(&gate).await, &["[+] audit ok", "[+] kubelet ok"]);
    for pid in [gate.pid(), helper(&gate)] {
        assert!(status(pid, "Uid").starts_with(&USER.to_string()));
        let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
        assert_eq!(owner, 0, "its memory is no other process' of its user");
    }
    assert!(Path::new(&contained.installation.path("run/exemption.json")).exists());
    gate.signal(Signal::TERM);
    assert_eq!(gate.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reads_new_files_beside_the_old_ones_and_no_others() {
    let contained = Contained::new().await;
    let gate = contained.serve().await;
    if landlock(&gate).await.is_none() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let ca = elsewhere.path().join("ca.crt");
    fs::copy(contained.installation.path("ca.crt"), &ca).unwrap();
    contained.configure("BestEffort", |configuration| {
        configuration["authentication"]["x509"]["clientCAFile"] = json!(ca);
    });
    gate.signal(Signal::HUP);
    eventually_answers("it is refused", async || {
        let said = readiness(&gate).await;
        said.contains("ca.crt")
            && said.contains("the sandbox does not open it")
            && said.contains("restart needed")
    })
    .await;
    assert_eq!(contained.get(&gate, "/pods").await, 200);

    // Replaced by rename, as files are, and named anew in the same folder.
    let (old, new) = (
        contained.installation.path("ca.crt"),
        contained.installation.path("ca-2.crt"),
    );
    fs::copy(&old, &new).unwrap();
    contained.configure("BestEffort", |configuration| {
        configuration["authentication"]["x509"]["clientCAFile"] = json!("ca-2.crt");
    });
    gate.signal(Signal::HUP);
    eventually_answers("it is taken up", async || {
        let said = readiness(&gate).await;
        !said.contains("sandbox does not open")
    })
    .await;
    assert_eq!(contained.get(&gate, "/pods").await, 200);
}

/// A volume of a Secret replaces all files at once, by its link `..data`.
#[tokio::test(flavor = "multi_thread")]
async fn files_behind_links_are_read_again_after_their_folder_was_replaced() {
    let contained = Contained::new().await;
    let volume = contained.installation.path("volume");
    let fill = |version: &str| {
        let folder = format!("{volume}/{version}");
        fs::create_dir_all(&folder).unwrap();
        for name in ["gate-serving.crt", "gate-serving.key"] {
            fs::copy(contained.installation.path(name), format!("{folder}/{name}")).unwrap();
        }
        std::os::unix::fs::symlink(version, format!("{volume}/new")).unwrap();
        fs::rename(format!("{volume}/new"), format!("{volume}/..data")).unwrap();
    };
    fill("..1");
    for name in ["gate-serving.crt", "gate-serving.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), format!("{volume}/{name}")).unwrap();
    }
    contained.configure("BestEffort", |configuration| {
        configuration["tlsCertFile"] = json!("volume/gate-serving.crt");
        configuration["tlsPrivateKeyFile"] = json!("volume/gate-serving.key");
    });
    let gate = contained.serve().await;
    fill("..2");
    fs::remove_dir_all(format!("{volume}/..1")).unwrap();
    fs::write(format!("{volume}/..2/gate-serving.crt"), "broken").unwrap();
    gate.signal(Signal::HUP);
    // It was read: that it is broken is what is said.
    eventually_answers("it is read", async || {
        let said = readiness(&gate).await;
        said.contains("gate-serving.crt") && !said.contains("sandbox does not open")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_names_another_plugin_or_port_is_refused_until_a_restart() {
    let contained = Contained::new().await;
    let gate = contained.serve().await;
    assert_eq!(contained.get(&gate, "/pods").await, 200);
    let proof = contained.installation.path("proof");
    let script = format!("touch {proof}\n{}", prints_token());
    fs::write(contained.installation.path("other.sh"), script).unwrap();
    contained.kubeconfig("other.sh", |_| {});
    gate.signal(Signal::HUP);
    eventually_answers("another plugin is refused", async || {
        readiness(&gate)
            .await
            .contains("another plugin than the gate was started with; restart needed")
    })
    .await;
    if landlock(&gate).await.is_some_and(|version| version >= 4) {
        contained.kubeconfig("plugin.sh", |kubeconfig| {
            kubeconfig["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:7");
        });
        gate.signal(Signal::HUP);
        eventually_answers("another port is refused", async || {
            readiness(&gate)
                .await
                .contains("the sandbox does not open port 7, which is new; restart needed")
        })
        .await;
    }
    assert_eq!(contained.get(&gate, "/pods").await, 200);
    assert!(!Path::new(&proof).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_killed_leaves_neither_helper_nor_plugin() {
    let contained = Contained::new().await;
    let here = contained.installation.path("");
    // The shell's child is in its process group, and knows nothing of the gate.
    contained.plugin_is(&format!(
        "sleep 1000 & echo $! > {here}sleep\nsh -c 'sleep 1001; : {here}'\n"
    ));
    let mut gate = contained.serve().await;
    let helper = helper(&gate);
    let asked = {
        let address = gate.address;
        let pair = PKI.pair(API_SERVER).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..ClientTls::default()
        };
        let client = Client::new(address, tls).unwrap().with_deadline(patience());
        tokio::spawn(async move { client.get("/pods").await.map(drop) })
    };
    let mut sleeps = 0;
    eventually("the plugin runs", || {
        let pid = fs::read_to_string(format!("{here}sleep")).unwrap_or_default();
        sleeps = pid.trim().parse().unwrap_or(0);
        sleeps != 0
    })
    .await;
    kill(gate.pid());
    gate.exit().await;
    eventually("the helper has ended", || is_gone(helper)).await;
    eventually("what the plugin started has ended", || is_gone(sleeps)).await;
    eventually("the plugin has ended", || {
        processes(&format!(": {here}")).is_empty()
    })
    .await;
    asked.abort();
}

/// `systemctl kill -s HUP` and `systemctl stop` reach every process of the unit.
///
/// Seen red: without handlers.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_every_process_of_the_unit_does_not_end_the_helper() {
    let contained = Contained::new().await;
    let mut gate = contained.serve().await;
    let helper = helper(&gate);
    let signals = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
    ];
    let caught = u64::from_str_radix(&status(helper, "SigCgt"), 16).unwrap();
    for signal in signals {
        assert_ne!(caught & 1 << (signal.as_raw() - 1), 0, "{signal:?}");
        kill_process(Pid::from_raw(helper.cast_signed()).unwrap(), signal).unwrap();
    }
    // It does its work: the review needs a credential.
    assert_eq!(contained.get(&gate, "/pods").await, 200);
    assert_eq!(metric(&gate, "helper_running").await, 1.0);
    gate.signal(Signal::TERM);
    assert_eq!(gate.exit().await.code(), Some(0));
    eventually("the helper has ended", || is_gone(helper)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_helper_a_gate_goes_on_says_so_and_opens_nothing() {
    let contained = Contained::new().await;
    let gate = contained.serve().await;
    assert_eq!(contained.get(&gate, "/pods").await, 200);
    kill(helper(&gate));
    eventually_answers("it is said", async || {
        readiness(&gate).await.contains("[!] helper: ended: ") && metric(&gate, "helper_running").await == 0.0
    })
    .await;
    let lost = |line: &&Value| {
        line["fields"]["message"]
            .as_str()
            .unwrap_or_default()
            .contains("helper process has ended")
    };
    eventually("it is logged once", || {
        gate.later().iter().filter(lost).count() == 1
    })
    .await;
    // The credential that the plugin issued is valid, and the request is permitted by the API server.
    assert_eq!(contained.get(&gate, "/pods").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn required_refuses_what_it_cannot_hold_and_names_the_way_out() {
    if !rustix::process::geteuid().is_root() {
        skip("a file in / needs root");
        return;
    }
    let contained = Contained::new().await;
    let file = format!("/kubelet-gate-test-{}.crt", std::process::id());
    fs::copy(contained.installation.path("ca.crt"), &file).unwrap();
    contained.configure("Required", |configuration| {
        configuration["authentication"]["x509"]["clientCAFile"] = json!(file);
    });
    let refused = contained.installation.serve().await;
    contained.configure("BestEffort", |configuration| {
        configuration["authentication"]["x509"]["clientCAFile"] = json!(file);
    });
    let gate = contained.serve().await;
    let (said, served) = (readiness(&gate).await, contained.get(&gate, "/pods").await);
    fs::remove_file(&file).unwrap();
    assert_eq!(code(&refused), 64);
    assert_says(
        &stderr(&refused),
        &["sandbox is Required", "clientCAFile", &file, "BestEffort"],
    );
    assert_eq!(served, 200);
    assert_says(&said, &["[!] sandbox: ", "clientCAFile", &file]);

    // What is written to / would open the whole machine for writing.
    contained.configure("Required", |configuration| {
        configuration["audit"]["path"] = json!(format!("{file}.log"));
    });
    let refused = contained.installation.serve().await;
    assert_eq!(code(&refused), 64);
    assert_says(
        &stderr(&refused),
        &["sandbox is Required", "audit.path (it lies in /"],
    );
}
