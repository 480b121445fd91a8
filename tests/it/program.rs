//! The program under test as a process: a command that ends, or a gate that serves.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use fakes::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::patience::{eventually, patience};
use crate::skipped::skip;

pub(crate) fn kubelet_gate() -> Command {
    own(Command::new(GATE))
}

/// With the number of files it may open changed by these arguments of the shell's `ulimit`.
pub(crate) fn kubelet_gate_with_files(limit: &str) -> Command {
    kubelet_gate_changed_by(&format!("ulimit {limit}"))
}

/// With what this command of the shell changes for its process.
pub(crate) fn kubelet_gate_changed_by(change: &str) -> Command {
    let mut command = own(Command::new("sh"));
    let script = format!("{change} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, GATE]);
    command
}

const GATE: &str = env!("CARGO_BIN_EXE_kubelet-gate");

/// Without what the environment of the tests may say to it.
fn own(mut command: Command) -> Command {
    for name in ["KUBERNETES_SERVICE_HOST", "KUBELET_GATE_LOG", "NODE_NAME"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The same in a process namespace, where no process of this machine is seen, but kubelets with these flags.
/// Their process ids are 2, 3 and so on. `None`, and the test counts as skipped, where the machine allows no
/// process namespace.
pub(crate) fn kubelet_gate_beside(kubelets: &[&str]) -> Option<Command> {
    let kubelet = kubelet_program();
    let mut script = String::new();
    for flags in kubelets {
        script += &format!("'{kubelet}' -c 'kill -STOP $$' {flags} &\n");
    }
    for index in 0..kubelets.len() {
        script += &format!(
            "until grep -q '^{kubelet}' /proc/{}/cmdline; do sleep 0.01; done\n",
            index + 2
        );
    }
    script += "exec \"$@\"\n";
    kubelet_gate_after(&script)
}

/// The same after a script of the shell's, in a process namespace and a mount namespace.
pub(crate) fn kubelet_gate_after(script: &str) -> Option<Command> {
    let unshare = |more: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(more);
        command
    };
    let works = |more: &&&[&str]| {
        let tried = unshare(more).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let options = [&[][..], &["--user", "--map-root-user"]];
    let Some(more) = options.iter().find(works) else {
        skip("no process namespace can be made: unshare fails");
        return None;
    };
    let mut command = own(unshare(more));
    command.args(["sh", "-ec", script, "sh", GATE]);
    Some(command)
}

/// A shell by the name of a kubelet. With `-c 'kill -STOP $$'` and the flags of a kubelet it stops itself.
pub(crate) fn kubelet_program() -> String {
    let kubelet = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubelet");
    let _ = std::os::unix::fs::symlink("/bin/sh", &kubelet);
    kubelet.display().to_string()
}

/// Runs it with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Output {
    kubelet_gate().args(arguments).output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by a signal")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Its standard output as JSON.
pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|_| panic!("not JSON: {output:?}"))
}

/// Asserts that a text has each of these parts.
#[track_caller]
pub(crate) fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

/// A folder with what `certs` writes, a kubeconfig, and a configuration that names them.
pub(crate) struct Installation {
    pub(crate) directory: TempDir,
}

impl Installation {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let written = run(&["certs", "--dir", directory.path().to_str().unwrap()]);
        assert_eq!(code(&written), 0, "{}", stderr(&written));
        let installation = Self { directory };
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "c",
                "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"},
            }],
            "users": [{"name": "u", "user": {"client-certificate": "gate.crt", "client-key": "gate.key"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        fakes::pki::write_secret(installation.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        installation.configure(|_| {});
        installation
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn config(&self) -> String {
        self.path("gate.yaml")
    }

    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "listen": ["127.0.0.1:0"],
            "kubeconfig": "kubeconfig",
            "upstream": {"url": "https://127.0.0.1:10350", "certificateFile": "kubelet-serving.crt"},
            "tlsCertFile": "gate-serving.crt",
            "tlsPrivateKeyFile": "gate-serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "audit": {"path": "audit.log"},
            "admin": {"listen": "127.0.0.1:0"},
            "firewall": {"runDirectory": "run"},
        });
        change(&mut configuration);
        fs::write(self.config(), configuration.to_string()).unwrap();
    }

    pub(crate) fn check(&self, flags: &[&str]) -> Output {
        run(&[&["check", "--config", &self.config()], flags].concat())
    }

    /// Runs a `serve` that ends by itself.
    pub(crate) async fn serve(&self) -> Output {
        let mut command = kubelet_gate();
        command.args(["serve", "--config", &self.config()]);
        output(command).await
    }
}

/// Runs a command that ends by itself.
pub(crate) async fn output(command: Command) -> Output {
    let running = tokio::process::Command::from(command).kill_on_drop(true).output();
    timeout(patience(), running)
        .await
        .expect("it does not end")
        .unwrap()
}

/// A gate that serves, as a process of its own.
pub(crate) struct Serving {
    process: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The read-only port, if it is open.
    pub(crate) read_only: Option<SocketAddr>,
    /// What it logged before it served.
    pub(crate) said: Vec<Value>,
    later: Arc<Mutex<Vec<Value>>>,
}

impl Serving {
    pub(crate) async fn start(installation: &Installation) -> Self {
        Self::with_configuration(&installation.config()).await
    }

    pub(crate) async fn with_configuration(file: &str) -> Self {
        Self::by(kubelet_gate(), file).await
    }

    /// With the number of files it may open changed by these arguments of the shell's `ulimit`.
    pub(crate) async fn with_files(installation: &Installation, limit: &str) -> Self {
        Self::by(kubelet_gate_with_files(limit), &installation.config()).await
    }

    /// By a command that becomes the program.
    pub(crate) async fn by(mut command: Command, file: &str) -> Self {
        let mut process = command
            .args(["serve", "--log-format", "json", "--config", file])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let fields = loop {
            let line = lines.next().expect("it ended before it served").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            let fields = event["fields"].clone();
            if fields["message"] == "serving" {
                break fields;
            }
            said.push(fields);
        };
        // Later lines must not fill the pipe.
        let later = Arc::new(Mutex::new(Vec::new()));
        let heard = later.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The error with which it ends is text.
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                heard.lock().unwrap().push(event);
            }
        });
        let parse = |field: &str| {
            let mut addresses = fields[field].as_str().unwrap().split(", ");
            addresses.find_map(|text| text.parse().ok())
        };
        let serving = Self {
            address: parse("listen").unwrap(),
            admin: parse("admin").unwrap(),
            read_only: parse("read_only_port"),
            process,
            said,
            later,
        };
        let live = Client::plain(serving.admin).get("/livez").await.unwrap();
        assert_eq!((live.status().as_u16(), &live.body()[..]), (200, &b"ok\n"[..]));
        serving
    }

    /// What it has logged since.
    pub(crate) fn later(&self) -> Vec<Value> {
        self.later.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process has ended", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
