//! A scripted API server on 127.0.0.1, its PKI, and kubeconfigs that lead to it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::apiserver::{ApiServer, ApiServerError, ClientLimits, Kubeconfig};
use crate::looks::Looks;

pub(super) const ALLOWED: &str = r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true,
        "reason":"because"}}"#;
pub(super) const JANE: &str = r#"{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,
        "user":{"username":"jane","groups":["a","b"]}}}"#;

/// A CA that signs certificates.
pub(super) struct ServerAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// PEM of a certificate and its key.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl ServerAuthority {
    pub(super) fn new(name: &str) -> Self {
        Self::valid(
            name,
            rcgen::date_time_ymd(2001, 1, 1),
            rcgen::date_time_ymd(2099, 1, 1),
        )
    }

    pub(super) fn expired(name: &str) -> Self {
        Self::valid(
            name,
            rcgen::date_time_ymd(2001, 1, 1),
            rcgen::date_time_ymd(2002, 1, 1),
        )
    }

    fn valid(name: &str, from: time::OffsetDateTime, until: time::OffsetDateTime) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (from, until);
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        common_name: &str,
        usage: ExtendedKeyUsagePurpose,
    ) -> Signed {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub(super) fn server(&self, names: &[&str]) -> Signed {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign(
            CertificateParams::new(names).unwrap(),
            "kube-apiserver",
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    pub(super) fn client(&self, common_name: &str) -> Signed {
        let params = CertificateParams::new(Vec::new()).unwrap();
        self.sign(params, common_name, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// What the server does with one request.
pub(super) enum Act {
    Answer(u16, &'static str),
    AnswerWith(u16, &'static [(&'static str, &'static str)], Vec<u8>),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Cut,
    /// Resets it.
    Reset,
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(super) struct SeenRequest {
    pub(super) connection: usize,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: serde_json::Value,
    /// DER of the client certificate.
    pub(super) certificate: Option<Vec<u8>>,
}

#[derive(Default)]
struct ServerState {
    script: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<SeenRequest>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    close_idle: Notify,
}

/// The server. Its connections end with it.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) directory: TempDir,
    pub(super) authority: ServerAuthority,
    state: Arc<ServerState>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(script: Vec<Act>) -> Self {
        Self::start_as(&["127.0.0.1"], script).await
    }

    /// Starts with a certificate for these names, and performs the script. After it, every review is allowed.
    pub(super) async fn start_as(names: &[&str], script: Vec<Act>) -> Self {
        Self::start_by(ServerAuthority::new("test-ca"), names, script).await
    }

    /// The same with a certificate of this authority's.
    pub(super) async fn start_by(authority: ServerAuthority, names: &[&str], script: Vec<Act>) -> Self {
        let serving = authority.server(names);
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let chain =
            crate::tls::pem::certificates(Path::new("serving"), serving.certificate.as_bytes()).unwrap();
        let key: PrivateKeyDer<'static> =
            crate::tls::pem::private_key(Path::new("serving"), serving.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ServerState {
            script: Mutex::new(script.into()),
            ..ServerState::default()
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&state),
        ));
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        Self {
            address,
            directory,
            authority,
            state,
            _tasks: tasks,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        // As the kubelet and Kubernetes' projected volumes do: no reader sees half a file.
        let temporary = self.path(&format!(".{name}"));
        fakes::pki::write_secret(&temporary, content).unwrap();
        std::fs::rename(temporary, self.path(name)).unwrap();
    }

    /// A kubeconfig for this server, with further lines for cluster and user.
    pub(super) fn kubeconfig(&self, cluster: &str, user: &str) -> Kubeconfig {
        let server = format!("https://{}", self.address);
        let text = kubeconfig_text(
            &server,
            &format!("certificate-authority: ca.crt, {cluster}"),
            user,
        );
        self.write("kubeconfig", &text);
        Kubeconfig::load(&self.path("kubeconfig")).unwrap()
    }

    /// A client with a token and a short deadline.
    pub(super) fn client(&self) -> ApiServer {
        self.client_within(Duration::from_secs(20))
    }

    pub(super) fn client_within(&self, timeout: Duration) -> ApiServer {
        client(self.kubeconfig("", "token: gate-token"), timeout)
    }

    pub(super) fn seen(&self) -> Vec<SeenRequest> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(super) fn calls(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    pub(super) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Open connections, after the handshake.
    pub(super) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub(super) fn close_connections(&self) {
        self.state.close_idle.notify_waiters();
    }

    pub(super) fn then(&self, act: Act) {
        self.state.script.lock().unwrap().push_back(act);
    }
}

/// A client whose exec plugin has as much time as a review.
pub(super) fn client(kubeconfig: Kubeconfig, timeout: Duration) -> ApiServer {
    ApiServer::with_plugin_deadline(
        timeout,
        kubeconfig,
        ClientLimits {
            timeout,
            concurrent: 4,
        },
    )
    .unwrap()
}

/// Has the client read its files again, as SIGHUP does. Yields whether they have changed.
pub(super) fn reload(client: &ApiServer) -> Result<bool, ApiServerError> {
    client.reload(&mut Looks::at_once()).into_result()
}

/// `cluster` and `user` are the inside of YAML flow mappings.
pub(super) fn kubeconfig_text(server: &str, cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: k, user: u, namespace: ignored}}}}]\n\
         clusters:\n- name: k\n  cluster: {{server: \"{server}\", {cluster}}}\n\
         users:\n- name: u\n  user: {{{user}}}\npreferences: {{}}\n"
    )
}

/// Polls until the condition holds.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<ServerState>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let number = state.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(number, tcp, acceptor.clone(), Arc::clone(&state)));
    }
}

async fn serve(number: usize, tcp: tokio::net::TcpStream, acceptor: TlsAcceptor, state: Arc<ServerState>) {
    // Closing with unread data or a linger of zero is a reset; only `Reset` should cause one.
    let duplicate = socket2::SockRef::from(&tcp).try_clone().unwrap();
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    let certificate = tls.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
    state.open.fetch_add(1, Ordering::SeqCst);
    let service = service_fn(|request: Request<Incoming>| {
        perform(number, certificate.clone(), request, &state, &duplicate)
    });
    tokio::select! {
        _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service) => {}
        () = state.close_idle.notified() => {}
    }
    state.open.fetch_sub(1, Ordering::SeqCst);
}

async fn perform(
    connection: usize,
    certificate: Option<Vec<u8>>,
    request: Request<Incoming>,
    state: &ServerState,
    socket: &socket2::Socket,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let target = head.uri.to_string();
    let yes = if target.ends_with("tokenreviews") {
        JANE
    } else {
        ALLOWED
    };
    state.seen.lock().unwrap().push(SeenRequest {
        connection,
        method: head.method.to_string(),
        target,
        headers: head.headers,
        // A GET has none.
        body: serde_json::from_slice(&body).unwrap_or_default(),
        certificate,
    });
    let act = state
        .script
        .lock()
        .unwrap()
        .pop_front()
        .unwrap_or(Act::Answer(201, yes));
    let (status, headers, body): (_, &[(&str, &str)], _) = match act {
        Act::Answer(status, body) => (status, &[], body.into()),
        Act::AnswerWith(status, headers, body) => (status, headers, body),
        Act::Hang => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
        Act::Cut => return Err(std::io::Error::other("cut")),
        Act::Reset => {
            socket.set_linger(Some(Duration::ZERO))?;
            return Err(std::io::Error::other("reset"));
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(Full::new(body.into())).unwrap())
}
