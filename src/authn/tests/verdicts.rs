//! When a certificate is judged, when its verdict is remembered, and what a request gets meanwhile.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use fakes::pki::{Pair, Pki};
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::Authenticator;
use super::super::budget::Budget;
use super::super::certificate::CertificateVerdict;
use super::super::presented::Presented;
use super::super::verdicts::{Chain, Verdict, Verdicts};
use crate::attributes::Checks;
use crate::cache::Freshness;
use crate::error::RequestError;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::source::Source;
use crate::tls::{ClientCertificates, Serving, ServingOptions, TlsVersion};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

static PKI: LazyLock<Pki> = LazyLock::new(|| Pki::generate().unwrap());

/// The listener's files, and what is judged by them.
struct Files {
    directory: TempDir,
    options: ServingOptions,
    serving: Arc<ArcSwap<Serving>>,
    metrics: Arc<Metrics>,
}

// === impl Files ===

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        PKI.write(directory.path()).unwrap();
        let path = |name: &str| directory.path().join(name);
        let options = ServingOptions {
            cert_file: path("gate-serving.crt"),
            private_key_file: path("gate-serving.key"),
            min_version: TlsVersion::Tls12,
            cipher_suites: Vec::new(),
            client_ca_file: Some(path("ca.crt")),
            client_certificates: ClientCertificates::Request,
            crl_files: Vec::new(),
            legacy_v1_certificates: false,
        };
        let serving = Serving::load(&options).unwrap();
        Self {
            serving: Arc::new(ArcSwap::from_pointee(serving)),
            metrics: Arc::default(),
            directory,
            options,
        }
    }

    /// Verdicts with a budget of `per_second` units for each source.
    fn verdicts(&self, per_second: u32) -> Verdicts {
        let budget = Budget::new(per_second, Arc::default());
        Verdicts::new(self.serving.clone(), Arc::default(), budget, self.metrics.clone())
    }

    fn authenticator(&self) -> Authenticator {
        let budget = Budget::new(500, Arc::default());
        let verdicts = Verdicts::new(self.serving.clone(), Arc::default(), budget, self.metrics.clone());
        Authenticator::new(verdicts.into(), None, false, self.metrics.clone())
    }

    /// Replaces the CA bundle.
    fn trust(&self, cas: &[String]) {
        fs::write(self.path("ca.crt"), cas.concat()).unwrap();
        let reloaded = Serving::reload(&self.serving, &self.options, &mut Looks::at_once());
        assert!(reloaded.into_result().unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How many verdicts had this result so far.
    fn count(&self, result: &str) -> usize {
        let series = format!("certificate_judgements_total{{result=\"{result}\"}} ");
        let text = self.metrics.encode();
        let found = text.lines().find_map(|line| line.split_once(&series));
        found.map_or(0, |(_, count)| count.parse().unwrap())
    }
}

fn source(number: u32) -> Source {
    Source::of(IpAddr::V4(number.into()))
}

fn chain(pair: &Pair) -> Chain {
    Chain::new(pair.chain.clone()).unwrap()
}

/// The chain of `pair`, and certificates that are none.
fn with_junk(pair: &Pair, number: u32) -> Chain {
    let junk = CertificateDer::from(format!("junk {number}").into_bytes());
    Chain::new([pair.chain.clone(), vec![junk]].concat()).unwrap()
}

fn user(verdict: &Verdict) -> Option<String> {
    match verdict.certificate() {
        CertificateVerdict::Authenticated(identity) => Some(identity.user().username.clone()),
        _ => None,
    }
}

fn reason(verdict: &Verdict) -> &'static str {
    match verdict.certificate() {
        CertificateVerdict::Refused { reason, .. } => reason,
        _ => "",
    }
}

/// What a request on a connection gets: the name of the user, or status and reason.
async fn asked(authenticator: &Authenticator, presented: &Presented) -> Result<String, (u16, &'static str)> {
    let (parts, ()) = http::Request::get("/pods")
        .header("host", "node")
        .body(())
        .unwrap()
        .into_parts();
    let checks = Checks::of(&parts, true).unwrap();
    let answer = authenticator
        .authenticate(presented, &HeaderMap::new(), &checks, Freshness::Remembered)
        .await;
    answer
        .map(|identity| identity.user().username.clone())
        .map_err(|error: RequestError| (error.status.as_u16(), error.reason))
}

fn presented(pair: &Pair) -> Arc<Presented> {
    Arc::new(Presented::new(pair.chain.clone(), [127, 0, 0, 1].into()))
}

// === the memory ===

/// Seen red: with `Verdict::stands` not looking at `judged_at`, and not at `stands_until`.
#[test]
fn an_acceptance_counts_from_its_judgement_until_the_certificate_ends_and_not_before() {
    let files = Files::new();
    let verdicts = files.verdicts(500);
    let bob = chain(&PKI.bob);
    let now = SystemTime::now();
    let judge = |now| verdicts.judge(&bob, source(1), None, now).unwrap();
    assert_eq!(user(&judge(now)).as_deref(), Some("bob"));
    for later in [Duration::ZERO, DAY, 2 * DAY] {
        assert_eq!(user(&judge(now + later)).as_deref(), Some("bob"));
    }
    assert_eq!((files.count("accepted"), files.count("remembered")), (1, 3));

    // The clock is set back.
    assert_eq!(user(&judge(now - Duration::from_secs(1))).as_deref(), Some("bob"));
    assert_eq!(files.count("accepted"), 2);
    assert_eq!(reason(&judge(now - 20 * YEAR)), "not_yet_valid");
    assert_eq!(reason(&judge(now + 20 * YEAR)), "expired");
    assert_eq!(
        user(&judge(now)).as_deref(),
        Some("bob"),
        "it was set right again"
    );
    assert_eq!((files.count("accepted"), files.count("refused")), (3, 2));
}

/// Seen red: with refusals that end after a second.
#[test]
fn a_refusal_stands_until_the_trust_changes_or_a_certificate_begins_to_be_valid() {
    let files = Files::new();
    let verdicts = files.verdicts(500);
    let now = SystemTime::now();
    let judge = |pair: &Pair, now| verdicts.judge(&chain(pair), source(1), None, now).unwrap();
    for later in [Duration::ZERO, Duration::from_secs(5), DAY, YEAR] {
        assert_eq!(reason(&judge(&PKI.carol, now + later)), "unknown_issuer");
    }
    assert_eq!((files.count("refused"), files.count("remembered")), (1, 3));
    assert_eq!(reason(&judge(&PKI.not_yet_valid, now)), "not_yet_valid");
    assert!(user(&judge(&PKI.not_yet_valid, now + 2 * DAY)).is_some());

    files.trust(&[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()]);
    assert_eq!(user(&judge(&PKI.carol, now)).as_deref(), Some("carol"));
    files.trust(&[PKI.ca.certificate_pem()]);
    assert_eq!(reason(&judge(&PKI.carol, now)), "unknown_issuer");
}

/// Seen red: with one memory for both.
#[test]
fn refusals_are_bounded_and_do_not_push_out_acceptances() {
    let files = Files::new();
    let verdicts = files.verdicts(1_000_000);
    let now = SystemTime::now();
    let judge = |chain: &Chain| verdicts.judge(chain, source(1), None, now).unwrap();
    judge(&chain(&PKI.bob));
    for number in 0..3000 {
        judge(&with_junk(&PKI.expired, number));
    }
    let [accepted, refused] = verdicts.remembered();
    assert_eq!(accepted, 1);
    assert!((500..=1024).contains(&refused), "{refused}");
    assert_eq!(user(&judge(&chain(&PKI.bob))).as_deref(), Some("bob"));
    assert_eq!(files.count("accepted"), 1);
}

// === the budget ===

/// Seen red: with the whole chain judged, and with the judgement after a change of the trust charged.
#[test]
fn an_accepted_leaf_passes_with_its_path_whatever_is_sent_beside_and_whatever_its_source_has_spent() {
    let files = Files::new();
    let verdicts = files.verdicts(1);
    let now = SystemTime::now();
    let judge = |chain: &Chain| verdicts.judge(chain, source(1), None, now);
    let issuer = PKI.ca.intermediate("issuer").unwrap();
    let spec = fakes::pki::CertificateSpec::client("erin");
    let erin = issuer.issue("erin", &spec).unwrap();
    judge(&chain(&erin)).unwrap();
    while judge(&with_junk(&PKI.wrong_ca, rand())).is_ok() {}

    for number in 0..20 {
        let verdict = judge(&with_junk(&erin, number)).unwrap();
        assert_eq!(user(&verdict).as_deref(), Some("erin"));
    }
    assert_eq!(files.count("accepted"), 1);
    let mut alone = erin.clone();
    alone.chain.truncate(1);
    judge(&chain(&alone)).unwrap_err();
    judge(&chain(&PKI.bob)).unwrap_err();

    // The trust has changed: the leaf is judged anew, by its path alone, and not charged for.
    files.trust(&[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()]);
    for number in 0..20 {
        let verdict = judge(&with_junk(&erin, number)).unwrap();
        assert_eq!(user(&verdict).as_deref(), Some("erin"));
    }
    assert_eq!(files.count("accepted"), 2);
    let refused = files.count("refused");
    files.trust(&[PKI.rotated_ca.certificate_pem()]);
    assert_eq!(reason(&judge(&chain(&erin)).unwrap()), "unknown_issuer");
    for number in 0..20 {
        judge(&with_junk(&erin, number)).unwrap_err();
    }
    assert_eq!(files.count("refused"), refused + 1, "once without a charge");
}

/// A client that adds a certificate of no use to its chain, and then spends the budget of its address.
///
/// Seen red: with 429 after the known path was refused.
#[tokio::test]
async fn a_client_that_spends_its_budget_does_not_hide_that_it_is_refused() {
    let files = Files::new();
    let verdicts = files.verdicts(1);
    let authenticator = Authenticator::new(verdicts.into(), None, false, files.metrics.clone());
    let connection = || {
        let chain = [PKI.bob.chain.clone(), vec![CertificateDer::from(vec![1])]].concat();
        Presented::new(chain, [127, 0, 0, 1].into())
    };
    authenticator.judge(&presented(&PKI.bob)).unwrap();
    let connections = [connection(), connection()];
    for connection in &connections {
        authenticator.judge(connection).unwrap();
    }
    let source = Source::of([127, 0, 0, 1].into());
    let spend = || {
        let junk = || with_junk(&PKI.wrong_ca, rand());
        let judge = |chain| {
            authenticator
                .verdicts
                .judge(&chain, source, None, SystemTime::now())
        };
        while judge(junk()).is_ok() {}
    };
    for cas in [
        PKI.rotated_ca.certificate_pem(),
        format!("{}\n", PKI.rotated_ca.certificate_pem()),
    ] {
        files.trust(&[cas]);
        spend();
        for connection in &connections {
            for _ in 0..2 {
                assert_eq!(
                    asked(&authenticator, connection).await,
                    Err((401, "unknown_issuer"))
                );
            }
        }
    }
    // A new connection was judged by no path.
    spend();
    let new = connection();
    assert!(authenticator.judge(&new).is_none());
    assert_eq!(asked(&authenticator, &new).await, Err((429, "credentials")));
}

/// A number that no other chain of the test has.
fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(1_000_000);
    NEXT.fetch_add(1, Relaxed)
}

// === requests ===

/// Seen red: with a task for each request, and with the old verdict used meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_share_one_new_judgement_and_never_get_the_old_verdict() {
    let files = Files::new();
    let authenticator = Arc::new(files.authenticator());
    let bob = presented(&PKI.bob);
    assert_eq!(authenticator.judge(&bob).unwrap().user().username, "bob");
    assert_eq!(asked(&authenticator, &bob).await, Ok("bob".to_owned()));
    for (cas, answer) in [
        (
            vec![PKI.rotated_ca.certificate_pem()],
            Err((401, "unknown_issuer")),
        ),
        (vec![PKI.ca.certificate_pem()], Ok("bob".to_owned())),
    ] {
        let before = files.count("accepted") + files.count("refused");
        files.trust(&cas);
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            let (authenticator, bob) = (authenticator.clone(), bob.clone());
            requests.spawn(async move { asked(&authenticator, &bob).await });
        }
        for answered in requests.join_all().await {
            assert_eq!(answered, answer);
        }
        assert_eq!(files.count("accepted") + files.count("refused"), before + 1);
    }
    assert_eq!(files.count("remembered"), 0);
}

/// Seen red: with no deadline, and with a 401 after it.
#[tokio::test]
async fn a_request_waits_for_the_new_verdict_for_a_second_and_is_then_told_to_try_again() {
    let files = Files::new();
    let authenticator = files.authenticator();
    let (bob, stranger) = (presented(&PKI.bob), presented(&PKI.wrong_ca));
    authenticator.judge(&bob).unwrap();
    assert!(authenticator.judge(&stranger).is_none());
    files.trust(&[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()]);

    let place = authenticator.verdicts.place(None).acquire_owned().await.unwrap();
    let began = std::time::Instant::now();
    let late = timeout(Duration::from_secs(4), asked(&authenticator, &stranger))
        .await
        .unwrap();
    assert_eq!(late, Err((503, "judged_late")));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        asked(&authenticator, &bob).await,
        Ok("bob".to_owned()),
        "those that were accepted do not wait for those that were not"
    );
    drop(place);
    assert!(matches!(asked(&authenticator, &stranger).await, Err((401, _))));
}

/// Seen red: with a connection that keeps what it was refused for want of budget.
#[tokio::test]
async fn a_connection_that_was_not_judged_is_judged_as_soon_as_its_leaf_is_known() {
    let files = Files::new();
    let budget = Budget::new(1, Arc::default());
    let verdicts = Verdicts::new(
        files.serving.clone(),
        Arc::default(),
        budget,
        files.metrics.clone(),
    );
    let authenticator = Authenticator::new(verdicts.into(), None, false, files.metrics.clone());
    let late = loop {
        let stranger = Presented::new(
            [
                PKI.wrong_ca.chain.clone(),
                vec![rand().to_be_bytes().to_vec().into()],
            ]
            .concat(),
            [127, 0, 0, 1].into(),
        );
        authenticator.judge(&stranger);
        if let Err((429, reason)) = asked(&authenticator, &stranger).await {
            assert_eq!(reason, "credentials");
            break presented(&PKI.bob);
        }
    };
    assert!(authenticator.judge(&late).is_none());
    assert_eq!(asked(&authenticator, &late).await, Err((429, "credentials")));
    let elsewhere = Presented::new(PKI.bob.chain.clone(), [127, 0, 0, 2].into());
    assert!(authenticator.judge(&elsewhere).is_some());
    assert_eq!(asked(&authenticator, &late).await, Ok("bob".to_owned()));
}
