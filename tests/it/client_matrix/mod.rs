//! Every client of a kubelet's port while the API server fails, the CA rotates and the API server restarts. A
//! gate that cut open shells, served clients that were shut out, or needed a restart afterwards would be
//! worse than none.

mod caller;
mod generations;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fakes::apiserver::{Api, Behaviour, Rule, Subject};
use fakes::pki::{Ca, CertificateSpec};
use futures_util::future::join_all;

use self::caller::{Caller, Kind, Running, rotate_token};
use crate::patience::{eventually_answers, patience};
use crate::world::{PKI, World, WorldBuilder, request};

/// How long a failed review is remembered, so that not every request asks a dead API server.
const FAILURE_LIFE: Duration = Duration::from_secs(1);

/// A world whose clients go through the phases, and the outcome of each phase, line by line.
struct Matrix {
    world: World,
    running: Vec<Running>,
    /// Clients made so far, for their names.
    made: usize,
    lines: Vec<String>,
}

/// The four phases. Columns: the phase; the client; the status of a known client and its reviews; the status
/// of a new client and its reviews (T = TokenReview, A = SubjectAccessReview, + = more than once); whether
/// the streams and connections opened before the phase are open after it.
///
/// Seen red, by phase. Normal: with a cache that finds nothing, reviews for known clients. Reviews failing:
/// with a failed review that allows, 101 and 200 for new clients; with failures remembered for an hour, still
/// refused. CA rotation: with judgements that ignore the bundle's generation, 200 on kept connections; with
/// streams cut on reload, `cut`; with nothing published, 401 for the new. Restart: with answers forgotten
/// while the API server is away, reviews for known clients.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_through_four_phases() {
    let mut matrix = Matrix::start().await;
    let (old, new) = (&PKI.ca, &PKI.rotated_ca);

    matrix.phase("normal", old, &[old]).await;

    matrix.world.api.set_latency(Duration::from_millis(700));
    matrix.phase("reviews slow", old, &[old]).await;
    matrix.world.api.heal();

    for (name, behaviour) in [
        ("reviews answered 503", Behaviour::Fail(503)),
        ("reviews answered 500", Behaviour::Fail(500)),
        ("reviews hang", Behaviour::Hang),
    ] {
        matrix.world.api.behave_all(behaviour);
        let refused = matrix.phase(name, old, &[old]).await;
        matrix.world.api.heal();
        matrix.served_again(refused).await;
    }
    matrix.phase("reviews answered again", old, &[old]).await;

    let bundle = |cas: &[&Ca]| cas.iter().map(|ca| ca.certificate_pem()).collect::<String>();
    matrix.write("ca.crt", &bundle(&[old, new]));
    matrix.write("prometheus-ca.crt", &bundle(&[old, new]));
    matrix.world.gate.reload();
    matrix
        .phase("client CAs old and new, new certificates", new, &[old])
        .await;
    let names = ["127.0.0.1", "localhost"];
    let serving = new
        .issue("gate-serving", &CertificateSpec::server("kubelet-gate", &names))
        .unwrap();
    serving.write(&matrix.world.file("")).unwrap();
    matrix.world.gate.reload();
    // metrics-server does not know the new CA; Prometheus does.
    matrix
        .phase("serving certificate by the new CA", new, &[old])
        .await;
    matrix.write("ca.crt", &bundle(&[new]));
    matrix.world.gate.reload();
    matrix.phase("client CA new only", new, &[new]).await;
    // Every client gets a new certificate.
    matrix.start_all(new, &[new]).await;

    matrix.world.api.down().await.unwrap();
    let refused = matrix.phase("API server down", new, &[new]).await;
    matrix.world.api.up().await.unwrap();
    matrix.phase("API server up again", new, &[new]).await;
    matrix.served_again(refused).await;

    let Matrix {
        world,
        running,
        lines,
        ..
    } = matrix;
    drop(running);
    assert_table(
        "client_matrix.tsv",
        include_str!("../data/client_matrix.tsv"),
        &lines,
    );
    world.stop().await;
}

/// A remembered answer ends in its time, however the API server fails.
///
/// Seen red: with a cache that does not look at the expiry, and with a failed renewal that gives the answer
/// two more seconds, 200 beyond its life.
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_answer_is_served_for_its_life_and_no_longer() {
    let matrix = Matrix::of(World::builder(), "4s").await;
    for (number, behaviour) in [Behaviour::Fail(503), Behaviour::Close].into_iter().enumerate() {
        let kinds = [Kind::ExecWebSocket, Kind::MetricsServer, Kind::NodeProxy];
        let world = &matrix.world;
        let starting = kinds.map(|kind| async move {
            let asked = Instant::now();
            let caller = Caller::new(world, kind, number, &PKI.ca, &[&PKI.ca]);
            let (served, running) = caller.start().await;
            let running = running.unwrap_or_else(|_| panic!("{served}"));
            (running, served, asked, Instant::now())
        });
        let started = join_all(starting).await;
        matrix.world.api.behave_all(behaviour);
        let outlived = started
            .into_iter()
            .map(|(running, served, asked, answered)| outlive(running, served, asked, answered));
        let outlived = join_all(outlived).await;
        matrix.world.api.heal();
        let healed = Instant::now();
        for (mut running, served) in outlived {
            eventually_answers("it is served again", async || {
                let begun = Instant::now();
                let status = running.again().await;
                assert!(
                    status == served || begun < healed + FAILURE_LIFE,
                    "{status} later than {FAILURE_LIFE:?} after the reviews are answered"
                );
                status == served
            })
            .await;
        }
    }
    matrix.world.stop().await;
}

/// Asks until the remembered answer, which was asked for and came at these times, is served no more.
async fn outlive(
    mut running: Running,
    served: String,
    asked: Instant,
    answered: Instant,
) -> (Running, String) {
    const LIFE: Duration = Duration::from_secs(4);
    let name = running.caller.kind.name();
    let mut refusals = 0;
    while refusals < 3 {
        let begun = Instant::now();
        let status = running.again().await;
        // An answer may end a tenth of its life early, so that not all of a burst end at once.
        if asked.elapsed() < LIFE * 9 / 10 {
            assert_eq!(status, served, "{name}: within its life");
        } else if begun >= answered + LIFE {
            assert_eq!(status, "503", "{name}: beyond its life");
            refusals += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(running.lives().await, "{name}: its stream was cut");
    (running, served)
}

/// A scraper reads its rotated token from the file. It keeps its connection, so what the gate remembers of
/// the connection's last token must not count for the new one; and while reviews fail the new token is
/// refused.
///
/// Seen red: with `Presented::remembered` not comparing the value, the rotated token is not reviewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_follows_its_token_file_on_one_connection() {
    let matrix = Matrix::of(World::builder(), "1h").await;
    let world = &matrix.world;
    let file = world.file("scraper.token");
    rotate_token(world, &file, "scraper");
    let mut connection = world.stranger().connect().await.unwrap();
    let mut scrape = async || {
        let authorization = format!("Bearer {}", fs::read_to_string(&file).unwrap());
        for target in Kind::Prometheus.targets() {
            let scrape = request("GET", target, &[("authorization", &authorization)]);
            let status = connection.send(scrape).await.unwrap().status().as_u16();
            // The next request may have another answer: a failure is forgotten at any moment.
            if status != 200 {
                return status;
            }
        }
        200
    };
    let asked = || (world.api.count(Api::Token), world.api.count(Api::Access));
    let read = |file: &Path| fs::read_to_string(file).unwrap();

    assert_eq!((scrape().await, asked()), (200, (1, 1)), "normal");
    assert_eq!((scrape().await, asked()), (200, (1, 1)), "remembered");
    rotate_token(world, &file, "scraper");
    assert_eq!((scrape().await, asked()), (200, (2, 2)), "rotated");

    world.api.behave_all(Behaviour::Fail(503));
    assert_eq!((scrape().await, asked()), (200, (2, 2)), "reviews fail");
    let good = read(&file);
    rotate_token(world, &file, "scraper");
    assert_eq!(scrape().await, 503, "rotated while reviews fail");
    world.api.heal();
    eventually_answers("the rotated token is known", async || scrape().await == 200).await;

    world.api.down().await.unwrap();
    assert_eq!(scrape().await, 200, "API server down");
    rotate_token(world, &file, "scraper");
    assert_eq!(scrape().await, 503, "rotated while the API server is down");
    world.api.up().await.unwrap();
    eventually_answers("the rotated token is known", async || scrape().await == 200).await;

    // An earlier token of the file counts as the gate remembers it, and no other token counts on this
    // connection.
    fs::write(&file, "scraper.999").unwrap();
    assert_eq!(scrape().await, 401, "a token that was never issued");
    fs::write(&file, good).unwrap();
    assert_eq!(scrape().await, 200, "a rotated token lives as long as its answer");
    drop(connection);
    matrix.world.stop().await;
}

// === impl Matrix ===

impl Matrix {
    /// A world with one client of each kind, which remembers answers for longer than the test takes.
    async fn start() -> Self {
        let mut matrix = Self::of(World::builder(), "1h").await;
        matrix.start_all(&PKI.ca, &[&PKI.ca]).await;
        matrix
    }

    /// A world without clients, which remembers every answer for this time.
    async fn of(builder: WorldBuilder, life: &'static str) -> Self {
        let world = builder
            .set("authentication.webhook.cacheTTL", life)
            .set("authorization.webhook.cacheAuthorizedTTL", life)
            .set("authorization.interactive.cacheAuthorizedTTL", life)
            .set("limits.reviewTimeout", "3s")
            .set("limits.idleTimeout", "1h")
            // The reviews of open streams would be counted as a request's.
            .set("streams.recheckInterval", "1h")
            .set("streams.maxUnverified", "2h")
            .start()
            .await;
        world
            .kubelet
            .adjust(|knobs| knobs.log_interval = Duration::from_millis(50));
        world.api.add_rule(Rule::allow(
            Subject::group("system:serviceaccounts:monitoring"),
            &["get"],
            &["metrics"],
        ));
        let matrix = Self {
            world,
            running: Vec::new(),
            made: 0,
            lines: Vec::new(),
        };
        matrix.write("prometheus-ca.crt", &PKI.ca.certificate_pem());
        matrix
    }

    /// A new client of each kind.
    fn newcomers(&mut self, ca: &Ca, believed: &[&Ca]) -> Vec<Caller> {
        self.made += 1;
        Kind::ALL
            .into_iter()
            .map(|kind| Caller::new(&self.world, kind, self.made, ca, believed))
            .collect()
    }

    /// Starts a new client of each kind in place of those that ran. Each must be served.
    async fn start_all(&mut self, ca: &Ca, believed: &[&Ca]) {
        self.running.clear();
        let starting = self.newcomers(ca, believed).into_iter().map(Caller::start);
        for (status, running) in join_all(starting).await {
            let running = running.unwrap_or_else(|caller| panic!("{}: {status}", caller.kind.name()));
            for target in running.caller.kind.targets() {
                let seen = self.world.kubelet.requests();
                assert!(seen.iter().any(|seen| seen.target == *target), "{target}");
            }
            self.running.push(running);
        }
    }

    /// Notes how running clients and, at the same time, new ones fare in this phase. Yields the new ones that
    /// were refused.
    async fn phase(&mut self, phase: &str, ca: &Ca, believed: &[&Ca]) -> Vec<Caller> {
        self.world.api.clear_reviews();
        let newcomers = self.newcomers(ca, believed);
        let again = async {
            let again = join_all(self.running.iter_mut().map(Running::again)).await;
            (again, Instant::now())
        };
        let starting = newcomers.into_iter().map(async |caller| {
            let started = caller.start().await;
            (started, Instant::now())
        });
        let ((again, known_served), started) = tokio::join!(again, join_all(starting));
        if phase == "reviews hang" {
            let first = started.iter().map(|(_, answered)| answered).min();
            assert!(first > Some(&known_served), "known clients had to wait");
        }
        let reviews = self.world.api.reviews();
        let known = self.running.iter().zip(again);
        let known: Vec<_> = known
            .map(|(running, status)| (status, running.caller.reviews(&reviews)))
            .collect();

        let open = join_all(self.running.iter_mut().map(Running::lives)).await;
        let mut refused = Vec::new();
        for (((status, asked), ((new, started), _)), open) in known.into_iter().zip(started).zip(open) {
            let (caller, served) = match started {
                Ok(running) => (running.caller, true),
                Err(caller) => (caller, false),
            };
            let cells = [
                phase,
                caller.kind.name(),
                &status,
                &asked,
                &new,
                &caller.reviews(&reviews),
                if open { "open" } else { "cut" },
            ];
            self.lines.push(cells.join("\t"));
            if !served {
                refused.push(caller);
            }
        }
        refused
    }

    /// Refused clients are served once the failure is forgotten, without a restart of gate or client.
    async fn served_again(&self, refused: Vec<Caller>) {
        let healed = Instant::now();
        for mut caller in refused {
            loop {
                let begun = Instant::now();
                let status = match caller.start().await {
                    (_, Ok(_)) => break,
                    (status, Err(same)) => {
                        caller = same;
                        status
                    }
                };
                let name = caller.kind.name();
                assert_eq!(status, "503", "{name}");
                assert!(begun < healed + FAILURE_LIFE, "{name}: still refused");
                assert!(healed.elapsed() < patience(), "{name}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.world.file(file), text).unwrap();
    }
}

/// Prints the table and compares it with the one beside the test, in which lines with # are comments.
#[track_caller]
fn assert_table(name: &str, expected: &str, lines: &[String]) {
    let expected: Vec<&str> = expected
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        for (column, cell) in line.split('\t').enumerate() {
            widths.resize(widths.len().max(column + 1), 0);
            widths[column] = widths[column].max(cell.len());
        }
    }
    let mut differing = 0;
    for (index, line) in lines.iter().enumerate() {
        let cells = line.split('\t').zip(&widths);
        let row: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
        println!("{}", row.trim_end());
        if expected.get(index) != Some(&line.as_str()) {
            differing += 1;
            println!("  expected: {}", expected.get(index).unwrap_or(&"nothing"));
        }
    }
    println!("{name}: {} rows, {differing} differing", lines.len());
    assert_eq!(
        (differing, lines.len()),
        (0, expected.len()),
        "tests/it/data/{name}"
    );
}
