//! A seal that is applied by the book. If the commands that the documents and `firewall status` name were
//! refused, an operator whose node has lost its rules would be left with an open kubelet and advice that does
//! not work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::node::{Node, on_a_node, on_every_backend, server_seen_from};
use crate::program::assert_says;

const KUBELET: &str = "192.0.2.10:10250";

/// (Not seen red.)
#[test]
fn a_confirmed_seal_whose_rules_were_lost_is_applied_again_after_the_gate_restarted() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        node.kill_gate();
        node.flush_rules();
        node.delete_chains();
        node.start_gate().await;
        let said = node.firewall_exits(2, "status --no-namespace");
        assert!(
            said.contains("kubelet-gate firewall apply, and then confirm"),
            "{said}"
        );
        assert_eq!(server_seen_from(&node.neighbour, KUBELET), "kubelet");
        // Another way to the gate was never shown to serve the API server.
        node.configuration(|configuration| configuration["listen"] = json!(["[::]:19444"]));
        let said = node.firewall_exits(2, "apply --accept-foreign-rules");
        assert_says(
            &said,
            &["has not served the API server yet", "--accept-unseen-api-server"],
        );
        node.configuration(|_| ());
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "confirm");
        assert_eq!(server_seen_from(&node.neighbour, KUBELET), "gate");
        node.firewall_exits(0, "status --no-namespace");
        node.stop().await;
    });
}

/// The commands of `docs/operations.md` for many nodes, as they stand there, on a node whose gate has
/// served no client yet. `ssh` and `kubectl` are stand-ins: the one runs the command here, the other asks
/// for a log as the API server does.
///
/// (Not seen red.)
#[test]
fn the_documented_commands_for_a_fleet_seal_a_fresh_node() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        let tools = node.file("tools");
        fs::create_dir(&tools).unwrap();
        let tool = |name: &str, script: &str| {
            fs::write(tools.join(name), script).unwrap();
            fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        tool("ssh", "#!/bin/sh\nshift\nexec \"$@\"\n");
        let pair = node.file(crate::world::API_SERVER).display().to_string();
        tool(
            "kubectl",
            &format!(
                r#"#!/usr/bin/env python3
import http.client, ssl, sys
if sys.argv[1] == "get":
    print("default web")
    sys.exit()
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain("{pair}.crt", "{pair}.key")
client = http.client.HTTPSConnection("127.0.0.1", 10250, context=context, timeout=20)
client.request("GET", "/containerLogs/default/web/nginx")
sys.exit(client.getresponse().status != 200)
"#
            ),
        );
        let documented = documented();
        // The paths of the documents, in a mount namespace of the commands' own.
        let script = format!(
            "mkdir {0}/mnt; mount -t tmpfs tmpfs {0}/mnt; mkdir {0}/mnt/upper {0}/mnt/work
            mount -t overlay overlay -o lowerdir=/etc,upperdir={0}/mnt/upper,workdir={0}/mnt/work /etc
            mkdir -p /etc/kubelet-gate; mount --bind {0} /etc/kubelet-gate
            set +e
            node=worker-1
            {documented}",
            node.file("").display()
        );
        let program = Path::new(env!("CARGO_BIN_EXE_kubelet-gate")).parent().unwrap();
        let path = format!(
            "{}:{}:{}",
            tools.display(),
            program.display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = node.command("unshare");
        command.args(["-m", "sh", "-ec", &script]).env("PATH", path);
        let output = tokio::process::Command::from(command).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("confirmed, and in force"), "{said}");
        assert_eq!(server_seen_from(&node.neighbour, KUBELET), "gate");
        node.firewall_exits(0, "status --no-namespace");
        node.stop().await;
    });
}

/// The one block of commands that confirms by itself.
fn documented() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(file).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let found: Vec<&str> = blocks
        .filter(|block| block.contains("--confirm-when-verified"))
        .collect();
    let [block] = found.as_slice() else {
        panic!("{found:?}");
    };
    (*block).to_owned()
}
