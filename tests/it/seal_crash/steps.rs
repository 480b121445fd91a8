//! Each verb is stopped after each of its steps. What a step did is in the kernel and on the disk; the rest
//! is gone, as after a crash.

use kubelet_gate::seal::Case;

use super::{Before, Crash, Ports, Verb};
use crate::node::{Node, on_every_backend};

/// What is done before, and the change that is stopped.
const WALKS: [(Before, Verb); 10] = [
    (Before::Nothing, Verb::ApplyB),
    (Before::SealedByA, Verb::ApplyB),
    (Before::TrialOfBOverA, Verb::ApplyA),
    (Before::TrialOfB, Verb::Confirm),
    (Before::TrialOfBOverA, Verb::Confirm),
    (Before::UnfinishedB, Verb::Confirm),
    (Before::SealedByA, Verb::Confirm),
    (Before::SealedByA, Verb::Remove),
    (Before::TrialOfBOverA, Verb::Remove),
    (Before::UnfinishedB, Verb::Remove),
];

/// Seen red: with the unit written after the confirmed plan, and with the confirmed plan deleted before the
/// unit.
#[test]
fn a_crash_after_any_step_leaves_a_seal_that_every_command_knows() {
    on_every_backend(async |node: Node| {
        let crash = Crash::start(node).await;
        let mut crashes = 0;
        for (before, verb) in WALKS {
            for steps in 1.. {
                let stopped = || {
                    crash.prepare(before);
                    stop_after(&crash, verb, steps)
                };
                let left = stopped();
                let context = format!("{before:?}, {verb:?} stopped after step {steps}");
                let (case, ports) = crash.agrees(&context).await;
                let whole = [before.ports(), verb.ports(before)];
                assert!(whole.contains(&ports), "{context}: {ports:?}");
                crash.goes_on(verb, verb.ports(before), &context).await;
                // The other ways on depend on the files alone, of which iptables has two for the boot.
                let nftables = crash.node.backend == "nftables";
                if nftables {
                    stopped();
                    instead(&crash, crashes, case.as_ref(), &context).await;
                }
                if nftables || (before, verb) == (Before::TrialOfBOverA, Verb::Confirm) {
                    stopped();
                    crash.boots();
                    let (case, _) = crash.agrees(&format!("{context}, then a new start")).await;
                    assert_ne!(case, Some(Case::Changed), "{context}");
                }
                crashes += 1;
                if left == 0 {
                    break;
                }
            }
        }
        println!("{}: {crashes} crashes", crash.node.backend);
        crash.exits(0, Verb::Remove);
        crash.node.stop().await;
    });
}

/// Does so many steps; yields how many are left.
fn stop_after(crash: &Crash, verb: Verb, steps: usize) -> usize {
    let mut change = crash.decide(verb).unwrap();
    for _ in 0..steps {
        change.step().unwrap().unwrap();
    }
    change.steps().count()
}

/// Any command, not only the one that crashed; each in turn.
async fn instead(crash: &Crash, turn: usize, case: Option<&Case>, context: &str) {
    match turn % 3 {
        0 if case == Some(&Case::Unfinished) => {
            let said = crash.exits(2, Verb::ApplyA);
            assert!(said.contains("did not finish"), "{context}: {said}");
        }
        0 => crash.goes_on(Verb::ApplyA, Ports::PlanA, context).await,
        1 => {
            let standing = crash.standing();
            let ended = standing.as_ref().is_some_and(|standing| {
                let confirmed = standing.confirmed.as_ref().map(|confirmed| &confirmed.plan);
                standing.trial.is_some() && standing.trial.as_ref() != confirmed
            });
            let good = match case {
                Some(Case::Trial { .. } | Case::Unfinished) => true,
                Some(Case::InForce) => !ended,
                _ => false,
            };
            let before = crash.ports().await;
            crash.exits(i32::from(!good), Verb::Confirm);
            let (after, ports) = crash.agrees(context).await;
            assert_eq!(ports, before, "{context}, then confirm");
            assert!(!good || after == Some(Case::InForce), "{context}: {after:?}");
        }
        _ => crash.goes_on(Verb::Remove, Ports::Open, context).await,
    }
}
