#![allow(clippy::unwrap_used)]

use super::*;
use crate::lab::LabOptions;

#[tokio::test]
async fn every_scene_is_as_it_must_be_and_can_be_played_again() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    for _ in 0..2 {
        let Played { rows, skipped } = play(&lab).await.unwrap();
        let last = if skipped.is_some() { 12 } else { 13 };
        let scenes: std::collections::BTreeSet<u8> = rows.iter().map(|row| row.scene).collect();
        assert_eq!(scenes, (1..=last).collect());
        assert!(rows.iter().all(Row::ok), "{rows:#?}");
    }
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_gate_that_lets_the_wrong_one_in_is_found() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let alice = fakes::apiserver::Subject::user("alice");
    let rule = fakes::apiserver::Rule::allow(alice, &["get"], &["*"]);
    lab.api_server.add_rule(rule);
    let rows = play(&lab).await.unwrap().rows;
    let wrong: Vec<_> = rows.iter().filter(|row| !row.ok()).collect();
    assert_eq!(wrong.iter().map(|row| row.scene).collect::<Vec<_>>(), [5, 9]);
    let said = wrong[0].gate.wrong.as_deref().unwrap();
    assert!(
        said.starts_with("expected 403") && said.contains("got 200"),
        "{said}"
    );
    lab.stop().await.unwrap();
}

#[test]
fn an_answer_is_right_only_with_its_status_and_its_proof() {
    let said = |status, text: &str| Said {
        status,
        text: text.to_owned(),
    };
    let must = stops(401, "Unauthorized", "Unauthorized");
    assert_eq!(must.judge(&said(Some(401), "Unauthorized")).wrong, None);
    for (status, text) in [
        (Some(401), "no"),
        (Some(200), "Unauthorized"),
        (None, "Unauthorized"),
    ] {
        assert!(
            must.judge(&said(status, text)).wrong.is_some(),
            "{status:?} {text}"
        );
    }
}

#[test]
fn forwarding_what_was_stopped_is_found() {
    let mut cell = stops(401, "", "").judge(&Said {
        status: Some(401),
        text: String::new(),
    });
    cell.and(true, || unreachable!());
    assert_eq!(cell.wrong, None);
    cell.and(false, || "first".to_owned());
    cell.and(false, || "second".to_owned());
    assert_eq!(cell.wrong.as_deref(), Some("first"));
}
