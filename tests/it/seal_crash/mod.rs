//! A crash after any step of `firewall apply`, `confirm` and `remove`, and a write that fails at any. If the
//! kernel's rules and the files on the disk then described two different seals, the node would be open, or
//! closed to its gate, and no command would say so.

mod failed_writes;
mod killed;
mod steps;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use kubelet_gate::seal::trial::{self, Change, TrialError};
use kubelet_gate::seal::{Case, Firewall, Plan, RunningGate, Standing, State, Unit};
use kubelet_gate::settings::{Backend, KubeletFlags, Settings};
use serde_json::{Value, json};

use crate::node::{Node, server_at, server_seen_from};
use crate::patience::eventually_answers;

/// Long enough for a crash, its check and what follows.
const WINDOW: Duration = Duration::from_secs(120);

/// What the kubelet's ports lead to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Ports {
    /// To the kubelet.
    Open,
    /// 10250 to the gate, 10255 to the tombstone.
    PlanA,
    /// 10250 to the gate, 10255 nowhere.
    PlanB,
    /// Some here, some there.
    Mixed(String),
}

/// What was done on the node before the change that crashes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    Nothing,
    /// Plan A was confirmed.
    SealedByA,
    /// Plan B is on trial, and nothing was confirmed.
    TrialOfB,
    /// Plan A was confirmed, and plan B is on trial.
    TrialOfBOverA,
    /// The same, and the confirmation of plan B ended after the kernel's step.
    UnfinishedB,
}

/// A change, as decided in this process or by a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verb {
    ApplyA,
    ApplyB,
    Confirm,
    Remove,
}

/// A node with a running gate, and two plans for it.
struct Crash {
    node: Node,
    plan_a: Plan,
    plan_b: Plan,
    /// What the gate was seen to tell of, so that slow looks are waited for once each.
    told: RefCell<BTreeSet<String>>,
}

impl Before {
    fn ports(self) -> Ports {
        match self {
            Self::Nothing => Ports::Open,
            Self::SealedByA => Ports::PlanA,
            Self::TrialOfB | Self::TrialOfBOverA | Self::UnfinishedB => Ports::PlanB,
        }
    }
}

impl Verb {
    /// What the ports lead to once it is done, after `before`.
    fn ports(self, before: Before) -> Ports {
        match self {
            Self::ApplyA => Ports::PlanA,
            Self::ApplyB => Ports::PlanB,
            Self::Confirm => before.ports(),
            Self::Remove => Ports::Open,
        }
    }
}

impl Crash {
    async fn start(mut node: Node) -> Self {
        node.start_gate().await;
        let backend = match node.backend {
            "nftables" => Backend::Nftables,
            "iptables-nft" => Backend::IptablesNft,
            _ => Backend::IptablesLegacy,
        };
        let plan = |verb| {
            let settings = Settings::load(&configure(&node, verb), &KubeletFlags::default()).unwrap();
            Plan::of(&settings, &[], backend).unwrap()
        };
        let (plan_a, plan_b) = (plan(Verb::ApplyA), plan(Verb::ApplyB));
        assert_ne!(plan_a, plan_b);
        Self {
            node,
            plan_a,
            plan_b,
            told: RefCell::default(),
        }
    }

    fn state(&self) -> State {
        State::new(&self.node.file("state"))
    }

    fn unit(&self) -> Unit {
        Unit::new(&self.node.file(""))
    }

    fn standing(&self) -> Option<Standing> {
        Standing::judge(&self.state(), &self.node.file("run")).unwrap()
    }

    /// Decides a change in this process.
    fn decide(&self, verb: Verb) -> Result<Change, TrialError> {
        let run = self.node.file("run");
        let exemption = RunningGate::read(&run).unwrap().unwrap().exemption;
        let apply = |plan: &Plan| trial::apply(self.state(), &run, plan, WINDOW, exemption.clone());
        Ok(match verb {
            Verb::ApplyA => apply(&self.plan_a)?.change,
            Verb::ApplyB => apply(&self.plan_b)?.change,
            Verb::Confirm => trial::confirm(self.state(), &run, self.unit(), None)?.change,
            Verb::Remove => trial::remove(self.state(), self.unit())?,
        })
    }

    fn finish(&self, verb: Verb) {
        let mut change = self.decide(verb).unwrap();
        change.finish().unwrap();
        assert!(change.setbacks().is_empty(), "{:?}", change.setbacks());
    }

    /// Brings the node there, whatever was before.
    fn prepare(&self, before: Before) {
        self.finish(Verb::Remove);
        if matches!(
            before,
            Before::SealedByA | Before::TrialOfBOverA | Before::UnfinishedB
        ) {
            self.finish(Verb::ApplyA);
            self.finish(Verb::Confirm);
        }
        if !matches!(before, Before::Nothing | Before::SealedByA) {
            self.finish(Verb::ApplyB);
        }
        if before == Before::UnfinishedB {
            let mut confirm = self.decide(Verb::Confirm).unwrap();
            // The plan is written, and the kernel's step done.
            for _ in 0..2 {
                confirm.step().unwrap().unwrap();
            }
        }
    }

    /// The words of the command.
    fn words(verb: Verb) -> &'static str {
        match verb {
            Verb::ApplyA | Verb::ApplyB => {
                "apply --confirm-within 2m --accept-foreign-rules --accept-unseen-api-server \
                 --close-health-checkers"
            }
            Verb::Confirm => "confirm",
            Verb::Remove => "remove",
        }
    }

    /// Runs the command; it must exit like this. Yields what it said.
    #[track_caller]
    fn exits(&self, code: i32, verb: Verb) -> String {
        configure(&self.node, verb);
        self.node.firewall_exits(code, Self::words(verb))
    }

    /// The command must succeed and bring the ports there, and everything must agree on it.
    async fn goes_on(&self, verb: Verb, ports: Ports, context: &str) {
        self.exits(0, verb);
        let (case, found) = self.agrees(context).await;
        assert_eq!(found, ports, "{context}, then {verb:?}");
        match verb {
            Verb::ApplyA | Verb::ApplyB => {
                assert!(matches!(case, Some(Case::Trial { .. })), "{context}: {case:?}")
            }
            Verb::Confirm => assert_eq!(case, Some(Case::InForce), "{context}"),
            Verb::Remove => assert_eq!(case, None, "{context}"),
        }
    }

    /// What the ports lead to.
    async fn ports(&self) -> Ports {
        let mut secure = Vec::new();
        let mut read_only = Vec::new();
        for address in ["127.0.0.1", "[::1]"] {
            secure.push(server_at(&format!("{address}:10250")).await);
            read_only.push(server_at(&format!("{address}:10255")).await);
        }
        for address in crate::node::NODE {
            secure.push(server_seen_from(
                &self.node.neighbour,
                &format!("{address}:10250"),
            ));
        }
        let all = |answers: &[&'static str]| answers.iter().all(|answer| *answer == answers[0]);
        match (secure[0], read_only[0]) {
            _ if !all(&secure) || !all(&read_only) => Ports::Mixed(format!("{secure:?}, {read_only:?}")),
            ("kubelet", "kubelet") => Ports::Open,
            ("gate", "gate") => Ports::PlanA,
            ("gate", "none") => Ports::PlanB,
            _ => Ports::Mixed(format!("{secure:?}, {read_only:?}")),
        }
    }

    /// The ports, the judgement, `firewall status` and the running gate must say the same. Yields it.
    async fn agrees(&self, context: &str) -> (Option<Case>, Ports) {
        let ports = self.ports().await;
        let standing = self.standing();
        let case = standing.as_ref().map(|standing| standing.case.clone());
        let context = format!("{} {context}: {case:?}, {ports:?}", self.node.backend);
        let of = |plan: Option<&Plan>| {
            let to_tombstone = plan
                .unwrap()
                .ports
                .iter()
                .any(|port| port.port == 10255 && port.redirect_ipv4.is_some());
            if to_tombstone { Ports::PlanA } else { Ports::PlanB }
        };
        let (expected, state) = match &case {
            None | Some(Case::Ended) => (Some(Ports::Open), "absent"),
            Some(Case::Trial { .. }) => (Some(of(standing.as_ref().unwrap().plan())), "trial"),
            Some(Case::InForce) => (Some(of(standing.as_ref().unwrap().plan())), "sealed"),
            Some(Case::Unfinished) => (Some(of(standing.as_ref().unwrap().plan())), "open"),
            Some(Case::Gone) => (Some(Ports::Open), "open"),
            Some(Case::UnknownTrial { .. }) => (None, "unknown"),
            Some(Case::Changed | Case::Fragment | Case::Incomparable { .. }) => (None, "open"),
        };
        if let Some(expected) = expected {
            assert_eq!(ports, expected, "{context}");
        }
        let sealed = case == Some(Case::InForce);
        let said = self
            .node
            .firewall_exits(if sealed { 0 } else { 2 }, "status --no-namespace");
        let problem = case.as_ref().and_then(Case::problem);
        // Seconds go by between the two.
        let timed = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        if let Some(problem) = &problem {
            assert!(timed(&said).contains(&timed(problem)), "{context}: {said}");
        }
        // The gate hears of changes at once, but for iptables-legacy: there each state is waited for once.
        let slow = self.node.backend == "iptables-legacy";
        if !slow || self.told.borrow_mut().insert(format!("{state} {problem:?}")) {
            eventually_answers(&format!("{context}: the gate says {state}"), async || {
                let seal: Value = serde_json::from_str(&self.node.admin("/seal").await.unwrap().1).unwrap();
                let why = seal["seal"]["why"].as_str().unwrap_or_default();
                let same = !matches!(state, "open" | "unknown")
                    || problem
                        .as_ref()
                        .is_some_and(|problem| timed(problem) == timed(why));
                seal["seal"]["state"] == state && same
            })
            .await;
        }
        (case, ports)
    }

    /// The machine starts again: no rule is left, and the unit is run if there is one.
    fn boots(&self) {
        Firewall::of(self.plan_a.backend).remove().unwrap();
        let unit = std::fs::read_to_string(self.unit().path()).unwrap_or_default();
        for command in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            self.node.shell(command);
        }
    }
}

/// Writes the configuration by which the command applies this plan.
fn configure(node: &Node, verb: Verb) -> std::path::PathBuf {
    node.configuration(|configuration| {
        if verb == Verb::ApplyB {
            configuration["readOnlyPort"]["listen"] = json!([]);
        }
    })
}
