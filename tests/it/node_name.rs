//! A gate under another Node's name admits clients that may reach that one. A gate that shows its kubelet a
//! credential for the whole fleet hands every kubelet to an attacker who takes it over. `check` must find
//! both before a rollout does.

use std::fs;

use fakes::apiserver::{
    ADMIN_TOKEN, Behaviour, FakeApiServer, GATE_TOKEN, METRICS_TOKEN, Review, Rule, Subject,
};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions, node_info};
use fakes::pki::KubeconfigUser;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::patience::eventually;
use crate::program::{
    Installation, Serving, assert_says, code, kubelet_gate, kubelet_gate_beside, output, stderr,
};
use crate::world::PKI;

/// An installation whose gate may ask an API server, before a kubelet that runs.
struct Asked {
    installation: Installation,
    api: FakeApiServer,
    kubelet: FakeKubelet,
}

impl Asked {
    async fn start() -> Self {
        let installation = Installation::new();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        PKI.write(installation.directory.path()).unwrap();
        let pair = &PKI.kubelet_serving;
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        });
        let kubelet = kubelet.await.unwrap();
        let asked = Self {
            installation,
            api,
            kubelet,
        };
        asked.as_user(KubeconfigUser::Certificate(&PKI.gate));
        asked.show_the_kubelet(json!({}));
        asked
    }

    /// Sets the gate's credential for the API server.
    fn as_user(&self, credential: KubeconfigUser<'_>) {
        let kubeconfig = self.api.kubeconfig(&PKI, credential);
        fakes::pki::write_secret(self.installation.path("kubeconfig"), kubeconfig).unwrap();
    }

    /// Exit code and messages of `check`.
    fn check(&self, flags: &[&str]) -> (i32, String) {
        let output = self.installation.check(flags);
        (code(&output), stderr(&output))
    }

    fn show_the_kubelet(&self, credentials: Value) {
        let url = format!("https://{}", self.kubelet.address());
        self.installation.configure(|configuration| {
            configuration["upstream"]["url"] = json!(url);
            for (key, value) in credentials.as_object().unwrap() {
                configuration["upstream"][key] = value.clone();
            }
        });
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

pub(crate) fn another_machine() -> Value {
    json!({
        "bootID": "11112222-3333-4444-5555-666677778888",
        "machineID": "aaaabbbbccccddddeeeeffff00001111",
        "systemUUID": "99998888-7777-6666-5555-444433332222",
    })
}

/// Whether this machine has an id that outlasts a boot, as all but small containers do.
pub(crate) fn is_known() -> bool {
    read("/etc/machine-id").len() == 32 || read("/sys/class/dmi/id/product_uuid").len() == 36
}

/// Seen red: with the comparison left out of `serve`, it serves on; with it left out
/// of `check`, that exits 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_another_machine_is_refused() {
    let asked = Asked::start().await;
    asked.api.set_node("worker-1", node_info());
    assert_eq!(asked.check(&[]), (0, String::new()));

    asked.api.set_node("worker-1", another_machine());
    let (code_of_check, said) = asked.check(&[]);
    if !is_known() {
        assert!(said.contains("can be compared with this machine's"), "{said}");
        return;
    }
    assert_eq!(code_of_check, 64, "{said}");
    assert!(said.contains("the Node worker-1 is another machine"), "{said}");
    assert!(
        said.contains("this machine's is") && said.contains("set nodeName"),
        "{said}"
    );
    let served = asked.installation.serve().await;
    assert_eq!(code(&served), 64);
    assert!(stderr(&served).contains("the Node worker-1 is another machine"));
    // Offline it asks no server and finds nothing.
    assert_eq!(asked.check(&["--offline"]), (0, String::new()));
}

/// Seen red: with a different boot id taken for a proof, `check` exits 64.
#[tokio::test(flavor = "multi_thread")]
async fn an_unproven_node_is_a_warning_and_the_gate_starts() {
    let asked = Asked::start().await;
    let says = async |expected: &str| {
        let (code, said) = asked.check(&[]);
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with("warning: ") && said.contains(expected), "{said}");
        let mut serving = Serving::start(&asked.installation).await;
        // It says so while it serves.
        eventually("it warns", || {
            serving.later().iter().any(|event| {
                let message = event["fields"]["message"].as_str().unwrap();
                event["level"] == "WARN" && message.contains("worker-1") && !message.contains("credential")
            })
        })
        .await;
        serving.signal(Signal::TERM);
        assert_eq!(serving.exit().await.code(), Some(0));
    };
    says("there is no such Node (yet?)").await;
    asked.api.set_node("worker-1", json!({}));
    says("neither machineID nor systemUUID of the Node can be compared").await;
    asked.api.set_node(
        "worker-1",
        json!({"bootID": "11112222-3333-4444-5555-666677778888"}),
    );
    says("neither machineID nor systemUUID of the Node can be compared").await;
    asked.api.set_node("worker-1", another_machine());
    asked
        .installation
        .configure(|configuration| configuration["nodeName"] = json!("worker-1"));
    asked.as_user(KubeconfigUser::Token(GATE_TOKEN));
    says("may not read this Node").await;
    asked.api.down().await.unwrap();
    says("the API server cannot be asked").await;
}

/// The name comes from the configuration, the certificate, a running kubelet or the environment, in this
/// order.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_source_that_names_the_node_counts() {
    let asked = Asked::start().await;
    let (_, said) = asked.check(&[]);
    assert_says(&said, &["nodeName worker-1:"]);
    let (_, said) = asked.check(&["--hostname-override=Worker-7"]);
    assert_says(&said, &["nodeName worker-7:"]);

    asked.as_user(KubeconfigUser::Token(GATE_TOKEN));
    // On a machine without other processes.
    let check = async |kubelets: &[&str], variable: &str| {
        let mut gate = kubelet_gate_beside(kubelets)?;
        gate.args(["check", "--config", &asked.installation.config()]);
        gate.env("NODE_NAME", variable);
        let output = output(gate).await;
        Some((code(&output), stderr(&output)))
    };
    let Some((code, said)) = check(&[], "").await else {
        return;
    };
    assert_eq!(code, 64);
    assert_says(&said, &["nothing says what this Node is called"]);
    let (_, said) = check(&[], "Worker-8").await.unwrap();
    assert_says(&said, &["nodeName worker-8:"]);
    let (_, said) = check(&["--hostname-override=Worker-9"], "Worker-8")
        .await
        .unwrap();
    assert_says(&said, &["nodeName worker-9:"]);
    asked
        .installation
        .configure(|configuration| configuration["nodeNameFromHost"] = json!(true));
    let (code, said) = check(&[], "").await.unwrap();
    let host = read("/proc/sys/kernel/hostname").to_lowercase();
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &[&format!("nodeName {host}:")]);
}

/// Seen red: with the review of the other Node's name left out, or asked about this one's, `check` exits 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_for_every_kubelet_is_refused_unless_it_is_allowed() {
    let asked = Asked::start().await;
    asked.api.set_node("worker-1", node_info());
    let certificate = |name: &str| {
        json!({"clientCertificateFile": format!("{name}.crt"),
        "clientKeyFile": format!("{name}.key")})
    };
    fakes::pki::write_secret(asked.installation.path("token"), format!("{ADMIN_TOKEN}\n")).unwrap();
    for (credential, key, file, user) in [
        (
            certificate("kube-apiserver-kubelet-client"),
            "upstream.clientCertificateFile",
            "kube-apiserver-kubelet-client.crt",
            "kube-apiserver-kubelet-client",
        ),
        (
            json!({"tokenFile": "token"}),
            "upstream.tokenFile",
            "token",
            "admin",
        ),
    ] {
        asked.show_the_kubelet(credential.clone());
        let (code, said) = asked.check(&[]);
        assert_eq!(code, 64, "{said}");
        let found = format!(
            "error: {}:1: {key}: {} is a credential of \"{user}\"",
            asked.installation.config(),
            asked.installation.path(file)
        );
        assert!(said.starts_with(&found), "{said}");
        assert!(said.contains("upstream.allowFleetCredential: true"), "{said}");

        let mut allowed = credential;
        allowed["allowFleetCredential"] = json!(true);
        asked.show_the_kubelet(allowed);
        let (code, said) = asked.check(&[]);
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with(&format!("warning: {key}: ")), "{said}");
    }
    // Credentials for this node alone, and for none.
    let here = Rule::allow(Subject::user("alice"), &["get"], &["proxy"]).on_node("worker-1");
    asked.api.add_rule(here);
    for own in [
        certificate("gate"),
        certificate("alice"),
        json!({"tokenFile": "token"}),
    ] {
        fakes::pki::write_secret(asked.installation.path("token"), METRICS_TOKEN).unwrap();
        asked.show_the_kubelet(own);
        assert_eq!(asked.check(&[]), (0, String::new()));
    }
    // A question that is not answered is reported.
    asked.show_the_kubelet(certificate("kube-apiserver-kubelet-client"));
    asked.api.behave_all(Behaviour::Fail(403));
    let (_, said) = asked.check(&[]);
    assert!(
        said.contains("cannot be checked for being this node's only"),
        "{said}"
    );
}

/// The role of an older cluster's API server names no newer subresource, and no HEAD. Seen red:
/// with nothing said of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fleet_credential_cannot_reach_is_said() {
    let asked = Asked::start().await;
    asked.api.set_node("worker-1", node_info());
    asked.show_the_kubelet(json!({
        "clientCertificateFile": "alice.crt",
        "clientKeyFile": "alice.key",
        "allowFleetCredential": true,
    }));
    let alice = || Subject::user("alice");
    let all = ["proxy", "metrics", "stats", "log"];
    asked.api.add_rule(Rule::allow(alice(), &["get", "create"], &all));
    let (code, said) = asked.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert_says(
        &said,
        &[
            "is a credential of \"alice\"",
            "GET of /statusz (nodes/statusz), /flagz (nodes/configz)",
            "POST of /checkpoint (nodes/checkpoint)",
            "HEAD of every path",
            "502",
        ],
    );
    for within in ["/pods", "/exec", "/metrics", "/logs"] {
        assert!(!said.contains(&format!("{within} (")), "{within}: {said}");
    }
    // HEAD of some.
    let some = Rule::allow(alice(), &[""], &["proxy"]);
    asked.api.add_rule(some);
    let (_, said) = asked.check(&[]);
    assert_says(
        &said,
        &["HEAD of /logs (nodes/log), /metrics (nodes/metrics), /stats"],
    );
    // With the rights of its own, nothing is out of reach, and nothing more is said.
    let rest = ["checkpoint", "configz", "log", "metrics", "stats", "statusz"];
    asked
        .api
        .add_rule(Rule::allow(alice(), &["get", "create", ""], &rest));
    let (code, said) = asked.check(&[]);
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_looks_for_fleet_credentials_after_its_start() {
    let asked = Asked::start().await;
    asked.api.set_node("worker-1", node_info());
    asked.show_the_kubelet(json!({
        "clientCertificateFile": "kube-apiserver-kubelet-client.crt",
        "clientKeyFile": "kube-apiserver-kubelet-client.key",
    }));
    let mut serving = Serving::start(&asked.installation).await;
    eventually("it has asked", || {
        asked.api.reviews().iter().any(|review| {
            matches!(review, Review::Access { spec } if spec["user"] == "kube-apiserver-kubelet-client"
                && spec["resourceAttributes"]["name"] == "not-worker-1")
        })
    })
    .await;
    eventually("it says so", || {
        serving.later().iter().any(|event| {
            event["level"] == "WARN"
                && event["fields"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("upstream.allowFleetCredential")
        })
    })
    .await;
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
}

/// Seen red: with a 403 taken for a warning, `check` exits 0.
#[tokio::test(flavor = "multi_thread")]
async fn check_reports_that_the_gate_may_not_ask() {
    let asked = Asked::start().await;
    asked
        .installation
        .configure(|configuration| configuration["nodeName"] = json!("worker-1"));
    for (credential, answers, way_out) in [
        (
            KubeconfigUser::Token(METRICS_TOKEN),
            "403 Forbidden",
            "bind the gate's user to ClusterRole system:auth-delegator",
        ),
        (
            KubeconfigUser::Token("unknown"),
            "401 Unauthorized",
            "does not accept the credential of the gate's kubeconfig",
        ),
    ] {
        asked.as_user(credential);
        let (code, said) = asked.check(&[]);
        assert_eq!(code, 64, "{said}");
        for (key, review) in [
            ("authentication.webhook.enabled", "TokenReview"),
            ("authorization.mode", "SubjectAccessReview"),
        ] {
            let config = asked.installation.config();
            let error = format!("error: {config}: {key}: {review} failed: the API server answered {answers}");
            assert!(said.contains(&error), "{said}");
        }
        assert!(said.contains(way_out), "{said}");
    }
}

/// The gate does not use a proxy that client-go would use. If it did not say so, the cause of a failure would
/// be looked for elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_unused_proxy_in_the_environment_is_reported() {
    let asked = Asked::start().await;
    asked.api.set_node("worker-1", node_info());
    let output = kubelet_gate()
        .args(["check", "--config", &asked.installation.config()])
        .env("HTTPS_PROXY", "http://192.0.2.1:3128")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("HTTPS_PROXY is in the environment and is not used"));
    assert!(
        !asked.api.credentials().is_empty(),
        "the API server was asked without it"
    );
}
