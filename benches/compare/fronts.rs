//! The fronts that are compared, each a process of its own, and what they share: the keys, the
//! backend, the API server.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fakes::apiserver::FakeApiServer;
use fakes::pki::{KubeconfigUser, Pki, write_secret};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::load::Connection;
use super::{BIG_BYTES, SMALL};

/// Where the fronts run; the load and the backend share the other core.
const FRONT_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const POD_LIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#;

/// Keys of `audit`: every event is written to one file, or a load as high as this would be summarised.
const AUDIT: &str = "strangers: full, maxSizeMB: 0";
/// The fronts whose costs are divided by each other.
pub(crate) const NGINX: &str = "nginx, access log on";
pub(crate) const FLOOR: &str = "floor";

/// Everything that the fronts share.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
    client: TlsConnector,
    backend: SocketAddr,
    _backend: Running,
    _api_server: FakeApiServer,
}

/// A front that can be started.
pub(crate) struct Front {
    pub(crate) name: &'static str,
    address: SocketAddr,
    command: Vec<String>,
    pub(crate) is_gate: bool,
    /// What it logs, one line per request, if it does.
    log: Option<PathBuf>,
}

/// A process with its children; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Option<PathBuf>,
}

impl Bench {
    pub(crate) async fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let pki = Pki::generate()?;
        pki.write(directory.path())?;
        let api_server = FakeApiServer::start(&pki).await?;
        write_secret(
            directory.path().join("kubeconfig"),
            api_server.kubeconfig(&pki, KubeconfigUser::Certificate(&pki.gate)),
        )?;
        let mut client = pki.client_config(Some(&pki.apiserver_client))?;
        client.resumption = Resumption::disabled();
        fs::create_dir(directory.path().join("stats"))?;
        fs::write(directory.path().join("stats/summary"), vec![b'x'; BIG_BYTES])?;

        let backend = free_address()?;
        let (shown, ca) = ("kubelet-serving", "ca.crt");
        let server = format!(
            "listen {backend} ssl; ssl_certificate {shown}.crt; ssl_certificate_key {shown}.key;
             ssl_client_certificate {ca}; ssl_verify_client on; access_log off;
             root .; open_file_cache max=10;
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

    pub(crate) fn fronts(&self) -> Result<Vec<Front>> {
        let mut fronts = vec![
            self.nginx(NGINX, true)?,
            self.nginx("nginx, access log off", false)?,
        ];
        fronts.push(self.floor()?);
        fronts.push(self.gate("kubelet-gate", env!("CARGO_BIN_EXE_kubelet-gate"), AUDIT)?);
        if let Ok(other) = std::env::var("BENCH_OTHER_GATE") {
            let audit = std::env::var("BENCH_OTHER_AUDIT").unwrap_or_else(|_| AUDIT.to_owned());
            fronts.push(self.gate("other kubelet-gate", &other, &audit)?);
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
                 proxy_ssl_protocols TLSv1.3;
                 proxy_ssl_certificate gate.crt; proxy_ssl_certificate_key gate.key;
                 proxy_ssl_verify on; proxy_ssl_name worker-1;
                 proxy_ssl_trusted_certificate kubelet-serving.crt;
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
            is_gate: false,
            log,
        })
    }

    fn floor(&self) -> Result<Front> {
        let address = free_address()?;
        let executable = std::env::current_exe()?.display().to_string();
        let directory = self.directory.path().display().to_string();
        Ok(Front {
            name: FLOOR,
            address,
            command: vec![
                executable,
                "floor".into(),
                address.to_string(),
                self.backend.to_string(),
                directory,
            ],
            is_gate: false,
            log: None,
        })
    }

    fn gate(&self, name: &'static str, binary: &str, audit: &str) -> Result<Front> {
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
audit: {{path: {}, {audit}}}
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
            is_gate: true,
            log: Some(log),
        })
    }

    pub(crate) fn run(&self, front: &Front) -> Result<Running> {
        Running::spawn(FRONT_CORE, &front.command, front.address, front.log.clone())
    }

    async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        Ok(Connection(self.client.connect(name, stream).await?))
    }

    /// Tries until the front is up.
    pub(crate) async fn first_connection(&self, address: SocketAddr) -> Result<Connection> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.connect(address).await {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(connection) => return Ok(connection),
            }
        }
    }

    pub(crate) async fn handshakes(&self, address: SocketAddr, count: usize) -> Result<()> {
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

    /// CPU time of all its threads, in µs: what the scheduler counted, to the nanosecond, in
    /// place of ticks of 10 ms.
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
    pub(crate) fn memory(&self) -> Result<u64> {
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
    pub(crate) async fn cost_of(
        &self,
        requests: usize,
        load: impl Future<Output = Result<()>>,
    ) -> Result<f64> {
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
