#![allow(clippy::unwrap_used)]

use super::*;
use crate::lab::LabOptions;

#[tokio::test]
async fn every_scene_is_as_expected_and_can_be_played_again() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    for _ in 0..2 {
        let DemoResult { rows, skipped } = play(&lab).await.unwrap();
        let last = if skipped.is_some() { 12 } else { 13 };
        let scenes: std::collections::BTreeSet<u8> = rows.iter().map(|row| row.scene).collect();
        assert_eq!(scenes, (1..=last).collect());
        assert!(rows.iter().all(Row::is_as_expected), "{rows:#?}");
    }
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_gate_that_allows_too_much_is_found() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let alice = fakes::apiserver::Subject::user("alice");
    let rule = fakes::apiserver::Rule::allow(alice, &["get"], &["*"]);
    lab.api_server.add_rule(rule);
    let rows = play(&lab).await.unwrap().rows;
    let unexpected: Vec<_> = rows.iter().filter(|row| !row.is_as_expected()).collect();
    assert_eq!(unexpected.iter().map(|row| row.scene).collect::<Vec<_>>(), [5, 9]);
    let mismatch = unexpected[0].gate.mismatch.as_deref().unwrap();
    assert!(
        mismatch.starts_with("expected 403") && mismatch.contains("got 200"),
        "{mismatch}"
    );
    lab.stop().await.unwrap();
}

#[test]
fn an_answer_is_as_expected_only_with_its_status_and_its_evidence() {
    let reply = |status, text: &str| Reply {
        status,
        text: text.to_owned(),
    };
    let expectation = refused(401, "Unauthorized", "Unauthorized");
    assert_eq!(
        expectation.compare(&reply(Some(401), "Unauthorized")).mismatch,
        None
    );
    for (status, text) in [
        (Some(401), "no"),
        (Some(200), "Unauthorized"),
        (None, "Unauthorized"),
    ] {
        assert!(
            expectation.compare(&reply(status, text)).mismatch.is_some(),
            "{status:?} {text}"
        );
    }
}

#[test]
fn forwarding_what_was_stopped_is_found() {
    let mut outcome = refused(401, "", "").compare(&Reply {
        status: Some(401),
        text: String::new(),
    });
    outcome.require(true, || unreachable!());
    assert_eq!(outcome.mismatch, None);
    outcome.require(false, || "first".to_owned());
    outcome.require(false, || "second".to_owned());
    assert_eq!(outcome.mismatch.as_deref(), Some("first"));
}
