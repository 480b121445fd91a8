//! The seal of a node: `kubelet-gate firewall`, and what the packet filter lists.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};

use super::Node;
use crate::patience::{eventually, eventually_answers};

impl Node {
    /// `kubelet-gate firewall` with these arguments, as root.
    pub(crate) fn firewall(&self, arguments: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_kubelet-gate"));
        command.arg("firewall").args(arguments.split(' '));
        let verb = arguments.split(' ').next().unwrap();
        if ["confirm", "remove", "status"].contains(&verb) || arguments.contains("verified") {
            command.arg("--unit-directory").arg(self.file(""));
        }
        command.arg("--config").arg(self.file("kubelet-gate.yaml"));
        command
    }

    /// Runs it and expects this exit code. Yields what it printed.
    #[track_caller]
    pub(crate) fn firewall_exits(&self, code: i32, arguments: &str) -> String {
        self.exited(code, self.firewall(arguments).output().unwrap(), arguments)
    }

    /// The same while the packet filter's program loads nothing, as if another program held its lock.
    #[track_caller]
    pub(crate) fn firewall_exits_without_loading(&self, code: i32, arguments: &str) -> String {
        let tools = self.file("tools");
        fs::create_dir_all(&tools).unwrap();
        for tool in [
            "nft",
            "iptables-nft-restore",
            "ip6tables-nft-restore",
            "iptables-legacy-restore",
            "ip6tables-legacy-restore",
        ] {
            // Dry runs and listings go on.
            let script = format!(
                "#!/bin/sh\ncase \" $* \" in *\" -c \"*|*\" --test \"*|*list*|*--version*) exec \
                 /usr/sbin/{tool} \"$@\";; esac\n\
                 echo another program holds the lock >&2; exit 4\n"
            );
            let file = tools.join(tool);
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let output = self.firewall(arguments).env("PATH", path).output();
        self.exited(code, output.unwrap(), arguments)
    }

    /// What it prints, whatever its exit code.
    pub(crate) fn firewall_prints(&self, arguments: &str) -> String {
        printed(self.firewall(arguments).output().unwrap())
    }

    /// Starts it and does not wait.
    pub(crate) fn firewall_starts(&self, arguments: &str) -> Child {
        let mut command = self.firewall(arguments);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.spawn().unwrap()
    }

    /// Runs it while other tasks go on, and expects exit code 0.
    pub(crate) async fn firewall_succeeds(&self, arguments: &str) -> String {
        let command = self.firewall(arguments);
        let output = tokio::process::Command::from(command).output().await;
        self.exited(0, output.unwrap(), arguments)
    }

    #[track_caller]
    fn exited(&self, code: i32, output: Output, arguments: &str) -> String {
        let status = output.status;
        let said = printed(output);
        assert_eq!(
            status.code(),
            Some(code),
            "{}: firewall {arguments}: {said}",
            self.backend
        );
        said
    }

    /// Starts a gate that has served the API server, and confirms a seal around it.
    pub(crate) async fn seal(&mut self) {
        self.start_gate().await;
        self.api_server_calls_gate().await;
        self.firewall_exits(0, "apply --confirm-within 60s");
        self.firewall_exits(0, "confirm");
    }

    /// Waits until the seal lets the gate's connections through. With iptables-legacy that takes root.
    pub(crate) async fn admitted(&self) {
        if self.backend == "iptables-legacy" {
            self.firewall_exits(0, "admit");
        }
        eventually_answers("the seal lets the gate through", async || {
            self.admin("/readyz")
                .await
                .is_some_and(|(_, said)| !said.contains("[-] kubelet"))
        })
        .await;
    }

    /// The state of the seal as the gate's own watch sees it.
    pub(crate) async fn seal_state(&self) -> String {
        let seal = self.admin("/seal").await.unwrap().1;
        let seal: serde_json::Value = serde_json::from_str(&seal).unwrap();
        seal["seal"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the gate's own watch sees this state.
    pub(crate) async fn eventually_seal_is(&self, state: &str) {
        let what = format!("{}: the seal is {state}", self.backend);
        eventually_answers(&what, async || self.seal_state().await == state).await;
    }

    /// What the packet filter lists, without counters.
    pub(crate) fn rules(&self) -> String {
        let list = match self.backend {
            "nftables" => "nft -s list ruleset",
            "iptables-nft" => "iptables-nft-save; ip6tables-nft-save",
            _ => "iptables-legacy-save; ip6tables-legacy-save",
        };
        let text = self.shell(list);
        let counts = |word: &&str| !(word.starts_with('[') && word.ends_with(']'));
        text.lines()
            // A built-in table is listed, empty, from the first look at it on.
            .filter(|line| !line.starts_with(['#', '*']) && *line != "COMMIT" && !line.contains(" ACCEPT ["))
            .map(|line| line.split(' ').filter(counts).collect::<Vec<_>>().join(" ") + "\n")
            .collect()
    }

    /// Waits until the packet filter lists these rules, whichever gate they exempt.
    pub(crate) async fn eventually_listed(&self, rules: &str) {
        let expected = without_exemption(rules);
        eventually(&format!("the rules are\n{expected}"), || {
            without_exemption(&self.rules()) == expected
        })
        .await;
    }

    /// Deletes every rule.
    pub(crate) fn flush_rules(&self) {
        match self.backend {
            "nftables" => self.shell("nft flush ruleset"),
            _ => self.in_every_table("-F"),
        };
    }

    /// Deletes every chain without rules, but the built-in ones.
    pub(crate) fn delete_chains(&self) {
        if self.backend != "nftables" {
            self.in_every_table("-X");
        }
    }

    fn in_every_table(&self, option: &str) -> String {
        let iptables = self.iptables();
        self.shell(&format!(
            "for table in raw nat filter; do for i in {iptables} {}; do $i -t $table {option}; done; done",
            iptables.replace("ip", "ip6")
        ))
    }

    /// The `iptables` with which other programs write their rules beside this packet filter.
    pub(crate) fn iptables(&self) -> &'static str {
        match self.backend {
            "iptables-legacy" => "iptables-legacy",
            _ => "iptables-nft",
        }
    }
}

/// These rules without those that exempt the gate.
pub(crate) fn without_exemption(rules: &str) -> String {
    let exempts = |line: &&str| line.contains("skuid") || line.contains("--uid-owner");
    rules
        .lines()
        .filter(|line| !exempts(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn printed(output: Output) -> String {
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}
