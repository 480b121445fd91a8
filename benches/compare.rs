//! The gate beside nginx, as the same reverse proxy: mutual TLS on both legs, keep-alive on both legs, logs on.
//!
//! Prints the CPU that each front spends per request, its memory and its start, for the same load against the same
//! backend. Run it by `benches/compare.sh`, which says what the environment variables below are for.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fakes::apiserver::FakeApiServer;
use fakes::pki::{Credential, Pki};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Keep-alive connections of the load.
const CONNECTIONS: usize = 32;
/// Where the fronts run; the load and the backend share the other core.
const FRONT_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const SMALL: &str = "/pods";
const BIG: &str = "/stats/summary";
const BIG_BYTES: usize = 100 * 1024;

fn main() -> Result<()> {
    // CI compiles and runs every target; a measurement is made only when it is asked for.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(compare())
}

async fn compare() -> Result<()> {
    let rounds = number("BENCH_ROUNDS", 7)?;
    let requests = number("BENCH_REQUESTS", 100_000)?;
    let bench = Bench::new().await?;
    let fronts = bench.fronts()?;

    println!("start: from spawn to the first 200 over mutual TLS, ms, {rounds} times; memory: RSS, KiB");
    for front in &fronts {
        let (mut starts, mut idle, mut used) = (Vec::new(), 0, 0);
        for _ in 0..rounds {
            let running = bench.run(front)?;
            let began = Instant::now();
            let mut connection = bench.first_connection(running.address).await?;
            connection.exchange(SMALL).await?;
            starts.push(began.elapsed().as_secs_f64() * 1e3);
            idle = running.memory()?;
            for _ in 1..1000 {
                connection.exchange(SMALL).await?;
            }
            used = running.memory()?;
        }
        print_row(front.name, &mut starts);
        println!(
            "{:24} after the first request {idle} KiB, after 1,000 {used} KiB",
            ""
        );
    }

    let running: Vec<Running> = fronts
        .iter()
        .map(|front| bench.run(front))
        .collect::<Result<_>>()?;
    let mut loads = Vec::new();
    for front in &running {
        loads.push(Load::connect(&bench, front.address).await?);
    }
    for (what, path, requests) in [
        ("small answer (keep-alive)", SMALL, requests),
        ("100 KiB answer (keep-alive)", BIG, requests / 10),
    ] {
        let mut costs = vec![Vec::new(); fronts.len()];
        // One round to fill caches and pools, and then all fronts in turn, so that a slow spell hits them all.
        for round in 0..=rounds {
            for (index, front) in running.iter().enumerate() {
                let cost = front.cost_of(requests, loads[index].run(path, requests)).await?;
                if round > 0 {
                    costs[index].push(cost);
                }
            }
        }
        print_table(&format!("{what}: {requests} requests a round"), &fronts, costs);
    }
    drop(loads);

    let handshakes = requests / 50;
    let mut costs = vec![Vec::new(); fronts.len()];
    for _ in 0..rounds {
        for (index, front) in running.iter().enumerate() {
            costs[index].push(
                front
                    .cost_of(handshakes, bench.handshakes(front.address, handshakes))
                    .await?,
            );
        }
    }
    print_table(
        &format!("full mutual handshake and one request: {handshakes} a round"),
        &fronts,
        costs,
    );
    Ok(())
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}

fn print_table(what: &str, fronts: &[Front], mut costs: Vec<Vec<f64>>) {
    println!("{what}; CPU of the front, µs per request");
    let best: Vec<f64> = fronts
        .iter()
        .zip(&mut costs)
        .map(|(front, costs)| print_row(front.name, costs))
        .collect();
    for (front, cost) in fronts.iter().zip(&best).skip(1) {
        println!(
            "{:24} best / best of {}: {:.2}",
            front.name,
            fronts[0].name,
            cost / best[0]
        );
    }
}

/// Prints best, median and worst, and returns the best: noise only ever adds.
fn print_row(name: &str, values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (best, median, worst) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    println!("{name:24} best {best:7.2}   median {median:7.2}   worst {worst:7.2}");
    best
}

// === the fronts and what is around them ===

/// Everything that both fronts share.
struct Bench {
    directory: tempfile::TempDir,
    client: TlsConnector,
    backend: SocketAddr,
    _backend: Running,
    _api_server: FakeApiServer,
}

/// A front that can be started.
struct Front {
    name: &'static str,
    address: SocketAddr,
    command: Vec<String>,
    /// What it logs, one line per request, if it does.
    log: Option<PathBuf>,
}

/// A process with its children; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    log: Option<PathBuf>,
}

impl Bench {
    async fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let pki = Pki::generate()?;
        pki.write(directory.path())?;
        let api_server = FakeApiServer::start(&pki).await?;
        fs::write(
            directory.path().join("kubeconfig"),
            api_server.kubeconfig(&pki, Credential::Certificate(&pki.gate)),
        )?;
        let mut client = pki.client_config(Some(&pki.apiserver_client))?;
        client.resumption = Resumption::disabled();
        fs::create_dir(directory.path().join("stats"))?;
        fs::write(directory.path().join("stats/summary"), vec![b'x'; BIG_BYTES])?;

        let backend = free_address()?;
        let (shown, ca) = ("kubelet-serving", "ca.crt");
        let server = format!(
            "listen {backend} ssl; ssl_certificate {shown}.crt; ssl_certificate_key {shown}.key;
             ssl_client_certificate {ca}; ssl_verify_client on; root .; open_file_cache max=10; access_log off;
             location = {SMALL} {{ default_type application/json; return 200 '{POD_LIST}'; }}"
        );
        let command = nginx(directory.path(), "backend", "", &server)?;
        let running = Running::spawn(LOAD_CORE, &command, backend, None)?;
        Ok(Self {
            client: TlsConnector::from(Arc::<ClientConfig>::new(client)),
            backend,
            _backend: running,
            _api_server: api_server,
            directory,
        })
    }

    /// nginx first: the others are compared with it.
    fn fronts(&self) -> Result<Vec<Front>> {
        let mut fronts = vec![
            self.nginx("nginx, access log on", true)?,
            self.nginx("nginx, access log off", false)?,
        ];
        fronts.push(self.gate("kubelet-gate", env!("CARGO_BIN_EXE_kubelet-gate"))?);
        if let Ok(other) = std::env::var("BENCH_OTHER_GATE") {
            fronts.push(self.gate("other kubelet-gate", &other)?);
        }
        if let Ok(only) = std::env::var("BENCH_ONLY") {
            fronts.retain(|front| front.name == only);
        }
        ensure!(!fronts.is_empty(), "BENCH_ONLY names no front");
        Ok(fronts)
    }

    fn nginx(&self, name: &'static str, logs: bool) -> Result<Front> {
        let (address, backend) = (free_address()?, self.backend);
        let log = logs.then(|| self.directory.path().join("access.log"));
        let access_log = log.as_ref().map_or_else(
            || "off".into(),
            |log| format!("{} combined buffer=64k flush=1s", log.display()),
        );
        let upstream =
            format!("upstream kubelet {{ server {backend}; keepalive 64; keepalive_requests 1000000000; }}");
        let server = format!(
            "listen {address} ssl; ssl_certificate gate-serving.crt; ssl_certificate_key gate-serving.key;
             ssl_client_certificate ca.crt; ssl_verify_client on; access_log {access_log};
             location / {{
                 proxy_pass https://kubelet; proxy_http_version 1.1; proxy_set_header Connection '';
                 proxy_ssl_certificate gate.crt; proxy_ssl_certificate_key gate.key; proxy_ssl_protocols TLSv1.3;
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate kubelet-serving.crt; proxy_ssl_name worker-1;
             }}"
        );
        let file = if logs {
            "front-with-log"
        } else {
            "front-without-log"
        };
        Ok(Front {
            name,
            address,
            command: nginx(self.directory.path(), file, &upstream, &server)?,
            log,
        })
    }

    fn gate(&self, name: &'static str, binary: &str) -> Result<Front> {
        let (address, admin, backend) = (free_address()?, free_address()?, self.backend);
        let directory = self.directory.path();
        let file = |name: &str| directory.join(name).display().to_string();
        let log = directory.join(format!("audit-{}.log", address.port()));
        let configuration = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
nodeName: worker-1
listen: ['{address}']
kubeconfig: {}
upstream:
  url: https://{backend}
  certificateFile: {}
  clientCertificateFile: {}
  clientKeyFile: {}
tlsCertFile: {}
tlsPrivateKeyFile: {}
authentication: {{x509: {{clientCAFile: {}}}}}
audit: {{path: {}}}
admin: {{listen: '{admin}'}}
",
            file("kubeconfig"),
            file("kubelet-serving.crt"),
            file("gate.crt"),
            file("gate.key"),
            file("gate-serving.crt"),
            file("gate-serving.key"),
            file("ca.crt"),
            log.display(),
        );
        let path = directory.join(format!("gate-{}.yaml", address.port()));
        fs::write(&path, configuration)?;
        Ok(Front {
            name,
            address,
            command: [binary, "serve", "--config", &path.display().to_string()]
                .map(str::to_owned)
                .to_vec(),
            log: Some(log),
        })
    }

    fn run(&self, front: &Front) -> Result<Running> {
        Running::spawn(FRONT_CORE, &front.command, front.address, front.log.clone())
    }

    async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        Ok(Connection(self.client.connect(name, stream).await?))
    }

    /// Tries until the front is up.
    async fn first_connection(&self, address: SocketAddr) -> Result<Connection> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.connect(address).await {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(connection) => return Ok(connection),
            }
        }
    }

    async fn handshakes(&self, address: SocketAddr, count: usize) -> Result<()> {
        for _ in 0..count {
            self.connect(address).await?.exchange(SMALL).await?;
        }
        Ok(())
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The command of an nginx with one worker and this server block.
fn nginx(directory: &Path, name: &str, upstream: &str, server: &str) -> Result<Vec<String>> {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{name}-{kind};", directory.display()));
    let configuration = format!(
        "user root; daemon off; worker_processes 1; pid {name}.pid; error_log {name}.error.log warn;
         events {{ worker_connections 1024; }}
         http {{ {} keepalive_requests 1000000000; ssl_protocols TLSv1.3; ssl_session_tickets off;
             ssl_session_cache off; {upstream} server {{ {server} }} }}",
        temporary.join(" ")
    );
    let path = directory.join(format!("{name}.conf"));
    fs::write(&path, configuration)?;
    let (prefix, path) = (directory.display().to_string(), path.display().to_string());
    let arguments = ["nginx", "-p", &prefix, "-c", &path, "-e", "stderr"];
    Ok(arguments.map(str::to_owned).to_vec())
}

impl Running {
    fn spawn(core: &str, command: &[String], address: SocketAddr, log: Option<PathBuf>) -> Result<Self> {
        let child = Command::new("taskset")
            .args(["-c", core])
            .args(command)
            .stdin(Stdio::null())
            .env("KUBELET_GATE_LOG", "warn")
            .spawn()
            .context("cannot run taskset (package util-linux)")?;
        Ok(Self { child, address, log })
    }

    /// The process and its children: nginx works in one of these.
    fn processes(&self) -> Result<Vec<u32>> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        let children = children
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?;
        Ok([vec![own], children].concat())
    }

    /// CPU time of all its threads, in µs: what the scheduler counted, to the nanosecond, in place of ticks of 10 ms.
    fn cpu(&self) -> Result<f64> {
        let mut nanoseconds = 0;
        for process in self.processes()? {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let line = fs::read_to_string(task?.path().join("schedstat"))?;
                let spent = line.split(' ').next().context("an empty schedstat")?;
                nanoseconds += spent.parse::<u64>()?;
            }
        }
        Ok(nanoseconds as f64 / 1e3)
    }

    /// Resident memory in KiB.
    fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for process in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            sum += line
                .and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
                .context("a status without VmRSS")?;
        }
        Ok(sum)
    }

    /// CPU per request of `load`, which makes that many `requests`; and each of them has to be in the log.
    async fn cost_of(&self, requests: usize, load: impl Future<Output = Result<()>>) -> Result<f64> {
        let before = self.cpu()?;
        load.await?;
        // The logs are written in batches, which belong to the bill.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let cost = (self.cpu()? - before) / requests as f64;
        if let Some(path) = &self.log {
            let lines = fs::read(path)?.iter().filter(|byte| **byte == b'\n').count();
            ensure!(
                lines >= requests,
                "{requests} requests, but {lines} lines in {}",
                path.display()
            );
            File::options().write(true).open(path)?.set_len(0)?;
        }
        Ok(cost)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not SIGKILL: nginx has to take its worker along.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

// === the load ===

struct Connection(TlsStream<TcpStream>);

/// Connections that take turns, each with one request at a time.
struct Load(Vec<Connection>);

impl Connection {
    /// One request and its answer; returns the answer's length, head included.
    async fn exchange(&mut self, path: &str) -> Result<usize> {
        self.0.write_all(request(path).as_bytes()).await?;
        let mut answer = Vec::with_capacity(1024);
        loop {
            ensure!(
                self.0.read_buf(&mut answer).await? > 0,
                "the front closed the connection"
            );
            let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let text = str::from_utf8(&answer[..head])?;
            ensure!(text.starts_with("HTTP/1.1 200 "), "the front answered {text}");
            let length = text
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let (_, length) = length.context("an answer without Content-Length")?;
            let total = head + 4 + length.parse::<usize>()?;
            while answer.len() < total {
                ensure!(self.0.read_buf(&mut answer).await? > 0, "the front broke off");
            }
            return Ok(total);
        }
    }

    /// The same request again and again. Its answers are all as long as the first, so nothing more has to be parsed.
    async fn repeat(&mut self, path: &str, count: usize) -> Result<()> {
        let mut answer = vec![0; self.exchange(path).await?];
        let request = request(path);
        for _ in 1..count {
            self.0.write_all(request.as_bytes()).await?;
            self.0.read_exact(&mut answer).await?;
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                bail!("the front answered {}", String::from_utf8_lossy(&answer));
            }
        }
        Ok(())
    }
}

impl Load {
    async fn connect(bench: &Bench, address: SocketAddr) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(bench.first_connection(address).await?);
        }
        Ok(Self(connections))
    }

    async fn run(&mut self, path: &'static str, requests: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        for mut connection in self.0.drain(..) {
            tasks.spawn(async move {
                connection.repeat(path, requests.div_ceil(CONNECTIONS)).await?;
                Ok::<_, anyhow::Error>(connection)
            });
        }
        while let Some(done) = tasks.join_next().await {
            self.0.push(done??);
        }
        Ok(())
    }
}

/// What an API server sends, more or less.
fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: worker-1:10250\r\nUser-Agent: kube-apiserver\r\nAccept: application/json\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
}

const POD_LIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#;
