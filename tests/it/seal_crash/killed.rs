//! The command itself is killed, by stand-ins for the programs that it runs: after each transaction of the
//! kernel, of which iptables has many in one step, and after each call of systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use kubelet_gate::seal::Case;

use super::{Before, Crash, Ports, Verb, configure};
use crate::node::{Node, on_a_node, on_every_backend};
use crate::patience::eventually_answers;

const WALKS: [(Before, Verb); 6] = [
    (Before::Nothing, Verb::ApplyB),
    (Before::SealedByA, Verb::ApplyB),
    (Before::TrialOfB, Verb::Confirm),
    (Before::TrialOfBOverA, Verb::Confirm),
    (Before::UnfinishedB, Verb::Confirm),
    (Before::SealedByA, Verb::Remove),
];
/// More transactions than any verb has.
const MANY: usize = 100;

/// Seen red: with the confirmed rules of iptables written before the trial's ports are made to last, the plan
/// could not be confirmed any more.
#[test]
fn a_kill_after_any_transaction_leaves_a_seal_that_every_command_knows() {
    on_every_backend(async |node: Node| {
        let crash = Crash::start(node).await;
        let tools = Tools::write(&crash.node.file("killing"));
        let mut kills = 0;
        for (before, verb) in WALKS {
            for transaction in 1..MANY {
                crash.prepare(before);
                configure(&crash.node, verb);
                let mut command = crash.node.firewall(Crash::words(verb));
                let ended = tools.kill_after(transaction, &mut command);
                let context = format!("{before:?}, {verb:?} killed after transaction {transaction}");
                if ended.success() {
                    assert!(transaction > 1, "{context}: nothing was killed");
                    break;
                }
                assert_eq!(ended.signal(), Some(9), "{context}: {ended}");
                kills += 1;
                let (_, ports) = crash.agrees(&context).await;
                let whole = [before.ports(), verb.ports(before)];
                // iptables has no transaction for all that is removed; what is left, every command says.
                assert!(
                    verb == Verb::Remove || whole.contains(&ports),
                    "{context}: {ports:?}"
                );
                crash.goes_on(verb, verb.ports(before), &context).await;
            }
        }
        println!("{}: {kills} kills", crash.node.backend);
        crash.exits(0, Verb::Remove);
        crash.node.stop().await;
    });
}

/// A seal that was removed in part is a seal that was changed.
#[test]
fn a_removal_that_is_killed_is_undone_by_a_gate_that_manages_the_seal() {
    on_every_backend(async |mut node: Node| {
        // iptables-legacy wants a lock that is root's: there the gate can only tell.
        if node.backend == "iptables-legacy" {
            return node.stop().await;
        }
        node.require();
        let crash = Crash::start(node).await;
        let tools = Tools::write(&crash.node.file("killing"));
        crash.prepare(Before::SealedByA);
        configure(&crash.node, Verb::Remove);
        let mut command = crash.node.firewall("remove");
        let ended = tools.kill_after(1, &mut command);
        assert_eq!(ended.signal(), Some(9), "{ended}");
        eventually_answers("put back", async || {
            crash
                .standing()
                .is_some_and(|standing| standing.case == Case::InForce)
        })
        .await;
        let (_, ports) = crash.agrees("put back").await;
        assert_eq!(ports, Ports::PlanA);
        crash.goes_on(Verb::Remove, Ports::Open, "put back").await;
        crash.node.stop().await;
    });
}

/// systemd's own directory is used, in a mount namespace of the command's own.
#[test]
fn a_kill_beside_systemd_leaves_a_unit_that_confirm_mends() {
    on_a_node(async |node: Node| {
        let crash = Crash::start(node).await;
        let tools = Tools::write(&crash.node.file("killing"));
        let units = crash.node.file("units");
        fs::create_dir(&units).unwrap();
        let (unit, link) = (
            units.join("kubelet-gate-firewall.service"),
            units.join("sysinit.target.wants/kubelet-gate-firewall.service"),
        );
        let beside_systemd = |words: &str| {
            let script = format!(
                "mount --bind {} /etc/systemd/system; mount -t tmpfs tmpfs /run; mkdir -p \
                 /run/systemd/system\n\
                 exec \"$@\"",
                units.display()
            );
            let mut command = Command::new("unshare");
            command.args([
                "-m",
                "sh",
                "-ec",
                &script,
                "sh",
                env!("CARGO_BIN_EXE_kubelet-gate"),
                "firewall",
            ]);
            command
                .args(words.split(' '))
                .arg("--config")
                .arg(crash.node.file("kubelet-gate.yaml"));
            command
        };
        // The kernel's transaction, the reload, the enabling.
        for transaction in 1..=3 {
            crash.prepare(Before::TrialOfBOverA);
            let mut command = beside_systemd("confirm");
            let ended = tools.kill_after(transaction, &mut command);
            assert_eq!(ended.signal(), Some(9), "{transaction}: {ended}");
            let (case, ports) = crash.agrees("killed beside systemd").await;
            assert_eq!((case, ports), (Some(Case::Unfinished), Ports::PlanB));
            assert_eq!((unit.exists(), link.exists()), (transaction > 1, transaction > 2));
            assert!(tools.run(&mut beside_systemd("confirm")).success());
            assert!(unit.exists() && link.exists());
            let ended = tools.kill_after(2, &mut beside_systemd("remove"));
            assert_eq!(ended.signal(), Some(9), "after disabling: {ended}");
            let (case, ports) = crash.agrees("killed after disabling").await;
            assert_eq!((case, ports), (Some(Case::Gone), Ports::Open));
            assert!(tools.run(&mut beside_systemd("remove")).success());
            assert!(!unit.exists() && !link.exists());
        }
        // A unit that is not enabled is no reason to be open, and is not forgotten.
        crash.prepare(Before::TrialOfBOverA);
        tools.fail_systemctl(true);
        assert_eq!(tools.run(&mut beside_systemd("confirm")).code(), Some(1));
        let said = |words| {
            let output = beside_systemd(words).env("PATH", &tools.path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let status = said("status --no-namespace");
        assert!(
            status.starts_with("sealed\n") && status.contains("does not load the confirmed plan at boot"),
            "{status}"
        );
        tools.fail_systemctl(false);
        let confirm = said("confirm");
        assert!(confirm.starts_with("already confirmed"), "{confirm}");
        let status = said("status --no-namespace");
        assert!(!status.contains("at boot"), "{status}");
        assert!(tools.run(&mut beside_systemd("remove")).success());
        crash.node.stop().await;
    });
}

/// Stand-ins that count the kernel's transactions, and kill the program that runs them after one.
struct Tools {
    directory: std::path::PathBuf,
    path: String,
}

impl Tools {
    fn write(directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        let tools = Self {
            path: format!("{}:{}", directory.display(), std::env::var("PATH").unwrap()),
            directory: directory.to_owned(),
        };
        // What reads, how many transactions the input is, the part of the input that is the first `$n` of
        // them, and the program.
        let restore = (
            "--test|--version",
            "$(grep -c ^COMMIT in)",
            "awk -v n=\"$n\" '{print} /^COMMIT/ && ++c == n {exit}' in",
        );
        for kind in [
            "iptables-nft",
            "ip6tables-nft",
            "iptables-legacy",
            "ip6tables-legacy",
        ] {
            tools.stand_in(
                &format!("{kind}-restore"),
                restore,
                &format!("/usr/sbin/{kind}-restore"),
            );
        }
        tools.stand_in("nft", ("-c|-j|list|--version", "1", "cat in"), "/usr/sbin/nft");
        tools.stand_in("ipset", ("list|--version", "1", "cat in"), "/usr/sbin/ipset");
        let wants = "/etc/systemd/system/sysinit.target.wants";
        fs::write(
            directory.join("systemd"),
            format!(
                "#!/bin/sh -e\ntest ! -e {0}/failing\ncase $1 in\n\
                 enable) mkdir -p {wants}; ln -sf ../$2 {wants}/$2;;\ndisable) rm -f {wants}/$2;;\nesac\n",
                directory.display()
            ),
        )
        .unwrap();
        let systemd = directory.join("systemd");
        fs::set_permissions(&systemd, fs::Permissions::from_mode(0o755)).unwrap();
        tools.stand_in(
            "systemctl",
            ("--version", "1", "cat in"),
            &systemd.display().to_string(),
        );
        tools
    }

    fn stand_in(&self, name: &str, (reading, transactions, first): (&str, &str, &str), program: &str) {
        let script = format!(
            "#!/bin/sh\nfor word; do case $word in {reading}) exec {program} \"$@\";; esac; done\n\
             parent=$PPID; cd {0}; cat > in\n\
             done=$(cat done); here={transactions}; n=$(($(cat last) - done))\n\
             if [ $n -ge 1 ] && [ $n -le $here ]; then\n\
             {first} | {program} \"$@\"; kill -9 $parent; exit 1\n\
             fi\n\
             echo $((done + here)) > done; exec {program} \"$@\" < in\n",
            self.directory.display()
        );
        let file = self.directory.join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Kills the command after so many transactions, if it has as many.
    fn kill_after(&self, transactions: usize, command: &mut Command) -> ExitStatus {
        fs::write(self.directory.join("done"), "0").unwrap();
        fs::write(self.directory.join("last"), transactions.to_string()).unwrap();
        let output = command.env("PATH", &self.path).output().unwrap();
        output.status
    }

    fn run(&self, command: &mut Command) -> ExitStatus {
        self.kill_after(0, command)
    }

    fn fail_systemctl(&self, failing: bool) {
        let file = self.directory.join("failing");
        if failing {
            fs::write(file, "").unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
    }
}
