use proptest::prelude::*;

use crate::apiserver::TokenAnswer;
use crate::apiserver::log_text::log_text;
use crate::apiserver::reviews::{AnswerError, access_answer, token_answer};

fn token(status: &str) -> Result<TokenAnswer, AnswerError> {
    token_answer(
        format!(r#"{{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{status}}}"#)
            .as_bytes(),
        "t0ken",
    )
}

#[test]
fn a_user_is_taken_whole() {
    let answer = token(
        r#"{"authenticated":true,"audiences":["gate"],"user":{"username":"u","uid":"1","groups":["b","a"],
            "extra":{"k":["v","w"],"n":null},"new":{}}}"#,
    );
    let TokenAnswer::Authenticated { user, audiences } = answer.unwrap() else {
        panic!("rejected")
    };
    assert_eq!((user.username.as_str(), user.uid.as_str()), ("u", "1"));
    assert_eq!(user.groups, ["b", "a"]);
    assert_eq!(user.extra["k"], ["v", "w"]);
    assert!(user.extra["n"].is_empty());
    assert_eq!(audiences, ["gate"]);
}

#[test]
fn go_writes_empty_lists_as_null() {
    let nulls = r#"{"authenticated":true,"audiences":null,"error":null,
        "user":{"username":"u","uid":null,"groups":null,"extra":null}}"#;
    assert!(matches!(token(nulls).unwrap(), TokenAnswer::Authenticated { user, .. } if user.username == "u"));
}

#[test]
fn a_token_is_rejected_with_or_without_an_error() {
    assert_eq!(
        token(r#"{"user":{}}"#).unwrap(),
        TokenAnswer::Rejected { error: None }
    );
    let error = Some("bad [token]\\n".to_owned());
    assert_eq!(
        token(r#"{"user":{},"error":"bad t0ken\n"}"#).unwrap(),
        TokenAnswer::Rejected { error }
    );
}

#[test]
fn doubtful_token_answers_fail() {
    let with_error = r#"{"authenticated":true,"user":{"username":"u"},"error":"e"}"#;
    assert!(matches!(
        token(with_error),
        Err(AnswerError::AuthenticatedWithError(_))
    ));
    assert!(matches!(
        token(r#"{"authenticated":true,"user":{"groups":["g"]}}"#),
        Err(AnswerError::NoUser)
    ));
    assert!(matches!(
        token(r#"{"authenticated":true}"#),
        Err(AnswerError::NoUser)
    ));
    assert!(matches!(
        token(r#"{"authenticated":"true","user":{"username":"u"}}"#),
        Err(AnswerError::Json(_))
    ));
    for garbage in ["", "null", "[]", "{}", r#"{"kind":"TokenReview"}"#] {
        assert!(
            matches!(token_answer(garbage.as_bytes(), ""), Err(AnswerError::Json(_))),
            "{garbage}"
        );
    }
    for other in [
        r#""kind":"Status""#,
        r#""kind":"TokenReview""#,
        r#""kind":"TokenReview","apiVersion":"authentication.k8s.io/v1beta1""#,
        r#""kind":"TokenReview","apiVersion":"authorization.k8s.io/v1""#,
    ] {
        let answer = format!(r#"{{{other},"status":{{"authenticated":true,"user":{{"username":"u"}}}}}}"#);
        let answer = token_answer(answer.as_bytes(), "");
        assert!(matches!(answer, Err(AnswerError::Kind { .. })), "{other}");
    }
    // A parser's message quotes what it does not expect.
    let quoting = token(r#"{"authenticated":"t0ken"}"#).unwrap_err().to_string();
    assert!(
        quoting.contains("[token]") && !quoting.contains("t0ken"),
        "{quoting}"
    );
}

#[test]
fn access_is_allowed_denied_or_neither() {
    let answer = |status: &str| {
        let head = r#""kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1""#;
        access_answer(format!(r#"{{{head},"status":{status}}}"#).as_bytes())
    };
    let flags = |status: &str| {
        answer(status)
            .map(|answer| (answer.allowed, answer.denied))
            .unwrap()
    };
    assert_eq!(flags(r#"{"allowed":true}"#), (true, false));
    assert_eq!(flags(r#"{"allowed":true,"evaluationError":"x"}"#), (true, false));
    assert_eq!(flags(r#"{"allowed":false,"denied":true}"#), (false, true));
    assert_eq!(
        flags(r#"{"allowed":false,"denied":null,"reason":null}"#),
        (false, false)
    );
    assert!(matches!(
        answer(r#"{"allowed":true,"denied":true}"#),
        Err(AnswerError::AllowedAndDenied)
    ));
    for garbage in [r#"{}"#, r#"{"allowed":null}"#, r#"{"allowed":1}"#, "\"Success\""] {
        assert!(matches!(answer(garbage), Err(AnswerError::Json(_))), "{garbage}");
    }
}

proptest! {
    #[test]
    fn log_text_is_one_short_line_without_the_secret(text in any::<String>(), secret in "[a-z]{8}") {
        let shown = log_text(&format!("{secret}{text}{secret}"), &secret);
        prop_assert!(!shown.chars().any(char::is_control));
        prop_assert!(!shown.contains(&secret));
        prop_assert!(shown.len() < 8000);
    }

    #[test]
    fn arbitrary_answers_never_panic(body in any::<Vec<u8>>()) {
        let _ = token_answer(&body, "t");
        let _ = access_answer(&body);
    }
}
