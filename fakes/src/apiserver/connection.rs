//! A connection to the fake API server: authenticates the caller, reads the request, answers it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::body::{Body, BodyFault};
use super::cluster::{may_read_node, may_review};
use super::{Api, Behaviour, Review, State, User, hash, lock, token_hash};
use crate::pki::{Pair, Pki, PkiError};

/// Accepts connections and answers requests.
#[derive(Clone)]
pub(super) struct Handler {
    tls: TlsAcceptor,
    chains: Arc<dyn ClientCertVerifier>,
    state: Arc<State>,
}

/// Asks for a client certificate and accepts any whose key the client has, as an API server does: a bad
/// certificate is answered with 401, not with an alert.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("Behaviour::Close: the connection is closed without an answer")]
struct CloseConnection;

// === impl Handler ===

impl Handler {
    pub(super) fn new(pki: &Pki, state: Arc<State>) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca.certificate().clone())?;
        let chains =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;

        Ok(Self {
            tls: acceptor(&chains, &pki.apiserver_serving)?,
            chains,
            state,
        })
    }

    pub(super) fn with_serving(&self, pair: &Pair) -> Result<TlsAcceptor, PkiError> {
        acceptor(&self.chains, pair)
    }

    /// Accepts connections until `stop`, which also resets them.
    pub(super) async fn accept(
        self,
        listener: TcpListener,
        connections: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return crate::stop_listening(&listener),
            };
            match accepted {
                Ok((stream, _)) => {
                    self.state.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(self.clone().serve(stream, stop.clone()));
                }
                // Out of descriptors, or the client has left already.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn serve(self, stream: TcpStream, stop: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let tls = lock(&self.state.serving)
            .clone()
            .unwrap_or_else(|| self.tls.clone());
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE, tls.accept(stream)) => handshake,
            () = stop.cancelled() => return,
        };
        let Ok(Ok(stream)) = handshake else { return };
        let caller = self.caller_by_certificate(&stream);
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let certificate = certificate.map(|leaf| hash(leaf));
        let service = service_fn(async |request| {
            let answer = self
                .answer(request, caller.as_ref(), certificate.as_deref())
                .await?;
            Ok::<_, CloseConnection>(Body::of(answer))
        });
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // An error is the client's, or CloseConnection.
            _ = &mut connection => {}
            () = stop.cancelled() => {
                // With a linger of zero, dropping the connection resets it.
                let _ = connection.into_parts().io.into_inner().get_ref().0.set_zero_linger();
            }
        }
    }

    fn caller_by_certificate(&self, stream: &TlsStream<TcpStream>) -> Option<User> {
        let (leaf, above) = stream.get_ref().1.peer_certificates()?.split_first()?;
        self.chains
            .verify_client_cert(leaf, above, UnixTime::now())
            .ok()?;
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let name = leaf.subject().iter_common_name().last()?.as_str().ok()?;
        let groups: Vec<&str> = leaf
            .subject()
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .collect();
        Some(User::new(name, &groups))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        caller: Option<&User>,
        certificate: Option<&str>,
    ) -> Result<Response<Bytes>, CloseConnection> {
        let latency = lock(&self.state.behaviours).latency;
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let token = || bearer(request.headers()).map(token_hash);
        if let Some(credential) = certificate.map(str::to_owned).or_else(token) {
            lock(&self.state.credentials).push(credential);
        }
        let caller = match caller {
            Some(caller) => Some(caller.clone()),
            None => {
                bearer(request.headers()).and_then(|token| lock(&self.state.cluster).user_of(token).cloned())
            }
        };
        let Some(caller) = caller else {
            return Ok(status(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        let api = match request.uri().path() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => Api::Token,
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => Api::Access,
            "/version" => return Ok(version()),
            "/livez" | "/readyz" | "/healthz" => {
                self.state.probes.fetch_add(1, Ordering::Relaxed);
                let behaviour = lock(&self.state.behaviours).probe.clone();
                match behaviour {
                    Behaviour::Fail(code) => return Ok(status(status_code(code), "not ready")),
                    Behaviour::Hang => match pending::<Infallible>().await {},
                    Behaviour::Close => return Err(CloseConnection),
                    _ => {}
                }
                return Ok(answer(
                    StatusCode::OK,
                    "text/plain; charset=utf-8",
                    Bytes::from_static(b"ok"),
                ));
            }
            path if path.starts_with(NODES) => {
                let mut held = self.state.node_held.subscribe();
                // The sender lives as long as the state.
                let _ = held.wait_for(|held| !held).await;
                self.state.nodes_read.fetch_add(1, Ordering::Relaxed);
                return Ok(self.node(&caller, &path[NODES.len()..]));
            }
            _ => {
                return Ok(status(
                    StatusCode::NOT_FOUND,
                    "the server could not find the requested resource",
                ));
            }
        };
        if request.method() != Method::POST {
            let message = "the server does not allow this method on the requested resource";
            return Ok(status(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        if !may_review(&caller) {
            return Ok(status(StatusCode::FORBIDDEN, &forbidden(api, &caller)));
        }
        let review = match read(api, request).await {
            Ok(review) => review,
            Err((code, message)) => return Ok(status(code, &message)),
        };
        lock(&self.state.reviews).push(Review::new(api, &review["spec"]));
        let behaviour = lock(&self.state.behaviours).next(api);
        self.behave(behaviour, api, review).await
    }

    fn node(&self, caller: &User, name: &str) -> Response<Bytes> {
        if !may_read_node(caller, name) {
            let user = &caller.name;
            let message = format!(
                "nodes {name:?} is forbidden: User {user:?} cannot get resource \"nodes\" in API group \"\" \
                 at the cluster scope"
            );
            return status(StatusCode::FORBIDDEN, &message);
        }
        let cluster = lock(&self.state.cluster);
        match cluster.nodes.get(name) {
            None => status(StatusCode::NOT_FOUND, &format!("nodes {name:?} not found")),
            Some(info) => {
                let addresses = cluster.node_addresses.iter();
                let addresses: Vec<_> = addresses
                    .map(|address| json!({"type": "InternalIP", "address": address}))
                    .collect();
                let node = json!({
                    "kind": "Node",
                    "apiVersion": "v1",
                    "metadata": {"name": name},
                    "spec": {},
                    "status": {"nodeInfo": info, "addresses": addresses},
                });
                answer(StatusCode::OK, JSON, node.to_string().into())
            }
        }
    }

    async fn behave(
        &self,
        behaviour: Behaviour,
        api: Api,
        mut review: Value,
    ) -> Result<Response<Bytes>, CloseConnection> {
        match behaviour {
            Behaviour::Fail(code) => {
                return Ok(status(status_code(code), "the fake API server was told to fail"));
            }
            Behaviour::Throttle(seconds) => {
                let message = "too many requests, please try again later";
                let mut response = status(StatusCode::TOO_MANY_REQUESTS, message);
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
                return Ok(response);
            }
            Behaviour::Raw(code, body) => return Ok(answer(status_code(code), JSON, body.into())),
            Behaviour::Hang => match pending::<Infallible>().await {},
            Behaviour::Close => return Err(CloseConnection),
            Behaviour::Normal
            | Behaviour::Drip(_)
            | Behaviour::Break
            | Behaviour::Garbage
            | Behaviour::Huge(_)
            | Behaviour::Answer(_) => {}
        }
        review["status"] = match (&behaviour, api) {
            (Behaviour::Answer(make), _) => make(&review["spec"]),
            (_, Api::Token) => lock(&self.state.cluster).authenticate(&review["spec"]),
            (_, Api::Access) => lock(&self.state.cluster).authorize(&review["spec"]),
        };
        if let Behaviour::Huge(padding) = behaviour {
            review["metadata"] = json!({"annotations": {"padding": "x".repeat(padding)}});
        }
        let mut text = review.to_string();
        if let Behaviour::Garbage = behaviour {
            // By characters, since a cut within one would not be UTF-8. Half of an object is not JSON.
            text = text.chars().take(text.chars().count() / 2).collect();
        }
        let mut response = answer(StatusCode::CREATED, JSON, text.into());
        match behaviour {
            Behaviour::Drip(pause) => drop(response.extensions_mut().insert(BodyFault::Drip(pause))),
            Behaviour::Break => drop(response.extensions_mut().insert(BodyFault::Break)),
            _ => {}
        }
        Ok(response)
    }
}

/// TLS that uses this pair and asks for a client certificate.
fn acceptor(chains: &Arc<dyn ClientCertVerifier>, pair: &Pair) -> Result<TlsAcceptor, PkiError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyCertificate(Arc::clone(chains))))
        .with_single_cert(pair.chain.clone(), pair.key.clone_key())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

// === impl AnyCertificate ===

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

// === requests ===

/// Reads a review, and refuses a malformed one as an API server does.
async fn read(api: Api, request: Request<Incoming>) -> Result<Value, (StatusCode, String)> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    if let Some(content_type) = request.headers().get(CONTENT_TYPE)
        && !content_type.as_bytes().starts_with(JSON.as_bytes())
    {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned()));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;

    let (kind, group) = api.kind_and_group();
    if review["kind"] != kind || review["apiVersion"] != format!("{group}/v1") || !review["spec"].is_object()
    {
        return Err(bad(format!("the object provided is not a {kind} of {group}/v1")));
    }
    let given = |field: &str| match &review["spec"][field] {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    match api {
        Api::Token if !given("token") => Err(bad(format!("token is required for {kind} in authentication"))),
        Api::Access if !given("user") && !given("groups") => {
            let message = format!(
                "{kind}.{group} \"\" is invalid: spec.user: at least one of user or group must be specified"
            );
            Err((StatusCode::UNPROCESSABLE_ENTITY, message))
        }
        _ => {
            review["metadata"] = json!({});
            Ok(review)
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

impl Api {
    fn kind_and_group(self) -> (&'static str, &'static str) {
        match self {
            Self::Token => ("TokenReview", "authentication.k8s.io"),
            Self::Access => ("SubjectAccessReview", "authorization.k8s.io"),
        }
    }
}

// === answers ===

fn forbidden(api: Api, caller: &User) -> String {
    let (kind, group) = api.kind_and_group();
    let resource = format!("{}s", kind.to_lowercase());
    format!(
        "{resource}.{group} is forbidden: User {:?} cannot create resource {resource:?} in API group \
         {group:?} at the cluster scope",
        caller.name
    )
}

/// A `Status`, as every error of an API server is.
fn status(code: StatusCode, message: &str) -> Response<Bytes> {
    let reason = match code.as_u16() {
        422 => "Invalid".to_owned(),
        500 => "InternalError".to_owned(),
        504 => "Timeout".to_owned(),
        _ => code.canonical_reason().unwrap_or_default().replace(' ', ""),
    };
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    answer(code, JSON, body.to_string().into())
}

fn version() -> Response<Bytes> {
    let version = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": "v1.36.1+kubelet-gate.lab",
        "platform": "linux/amd64",
    });
    answer(StatusCode::OK, JSON, version.to_string().into())
}

fn answer(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A number that is not a status code becomes 500.
fn status_code(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const NODES: &str = "/api/v1/nodes/";
const JSON: &str = "application/json";
const HANDSHAKE: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 3 << 20;
