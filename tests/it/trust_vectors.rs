//! A certificate that a kubelet refuses must not pass its gate, and one that it accepts should. A real
//! kubelet was shown 252 certificates, plain and odd, over TLS 1.3 and TLS 1.2, and its verdicts were
//! recorded in `data/trust.tsv`. Here the gate is shown the same ones. Its verdict is the kubelet's, or a
//! stricter one that `data/trust_stricter.tsv` lists with its reason. It is never a laxer one, and never
//! another user.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256K1_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::corpus::rows;
use crate::world::{PKI, World, WorldBuilder};

/// One line of `trust.tsv`.
struct Case {
    name: String,
    kubelet: Outcome,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

/// The verdict on a certificate.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// No handshake.
    Alert,
    /// 401.
    Unauthorized,
    /// A user, with or without permission.
    Authenticated(User),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What the recording holds.
struct Recording {
    bundle: String,
    cases: Vec<Case>,
}

static RECORDING: LazyLock<Recording> = LazyLock::new(Recording::read);

/// Seen red: with `check_as_anchor` left out, laxer for CAs that have expired or may not issue. And with
/// T61String read as UTF-8: `sub-o-t61` is a user without the group that the kubelet sees.
#[tokio::test(flavor = "multi_thread")]
async fn the_verdicts_on_252_certificates_are_the_kubelets_or_stricter() {
    replay(World::builder(), 2).await;
}

/// Seen red: with `legacy_v1` ignored, the other test counts no v1 leaf.
#[tokio::test(flavor = "multi_thread")]
async fn with_legacy_v1_certificates_only_the_v1_leaves_are_judged_otherwise() {
    let world = World::builder().set("authentication.x509.legacyV1Certificates", true);
    replay(world, 3).await;
}

/// Shows every case, over both versions, and compares.
async fn replay(builder: WorldBuilder, column: usize) {
    let world = builder
        .configure(|_, folder| fs::write(folder.join("ca.crt"), &RECORDING.bundle).unwrap())
        .without_caches()
        // More refusals of one source than are written in full otherwise.
        .set("audit.strangers", "full")
        .start()
        .await;
    let mut outcomes = Vec::new();
    for (number, case) in RECORDING.cases.iter().enumerate() {
        let mut both = Vec::new();
        for version in [&TLS13, &TLS12] {
            both.push(case.show(&world, number, version).await);
        }
        assert_eq!(
            both[0], both[1],
            "{}: the version of TLS makes a difference",
            case.name
        );
        outcomes.push(both.remove(0));
    }

    let answered = 2 * outcomes
        .iter()
        .filter(|outcome| **outcome != Outcome::Alert)
        .count();
    let said: HashMap<String, String> = world
        .audit_events(answered)
        .await
        .into_iter()
        .map(|event| {
            let error = &event["annotations"]["kubelet-gate.dev/error"];
            (text(&event["requestURI"]), text(error))
        })
        .collect();

    let listed: Vec<Vec<&str>> = rows(include_str!("data/trust_stricter.tsv")).collect();
    let mut stricter = vec![0; listed.len()];
    let (mut equal, mut laxer, mut unlisted) = (0, Vec::new(), Vec::new());
    let (mut alert_there, mut alert_here) = (0, 0);
    for (case, here) in RECORDING.cases.iter().zip(&outcomes) {
        use Outcome::{Alert, Authenticated, Unauthorized};
        match (&case.kubelet, here) {
            (there, here) if there == here => equal += 1,
            (Alert, Unauthorized) => (equal, alert_there) = (equal + 1, alert_there + 1),
            (Unauthorized, Alert) => (equal, alert_here) = (equal + 1, alert_here + 1),
            (Authenticated(_), Alert | Unauthorized) => {
                let said = said.get(&case.target(&TLS13)).map_or("an alert", String::as_str);
                match listed.iter().position(|row| said.contains(row[0])) {
                    Some(row) => stricter[row] += 1,
                    None => unlisted.push(format!("{}: {said}", case.name)),
                }
            }
            (there, here) => laxer.push(format!("{}: {here:?}, not {there:?}", case.name)),
        }
    }
    println!(
        "{} certificates over TLS 1.3 and 1.2: {equal} equal (of which {alert_there} an alert there and 401 \
         here, {alert_here} the other way round), {} stricter, {} laxer",
        outcomes.len(),
        stricter.iter().sum::<usize>() + unlisted.len(),
        laxer.len(),
    );
    for (row, count) in listed.iter().zip(&stricter) {
        println!("{count:4}  \"{}\": {}", row[0], row[1]);
    }
    assert_eq!(laxer, Vec::<String>::new());
    assert_eq!(unlisted, Vec::<String>::new());
    let expected: Vec<usize> = listed.iter().map(|row| row[column].parse().unwrap()).collect();
    assert_eq!(stricter, expected);
    world.stop().await;
}

// === impl Case ===

impl Case {
    fn target(&self, version: &SupportedProtocolVersion) -> String {
        format!("/pods?{}&{:?}", self.name, version.version)
    }

    /// Shows the certificate to the gate and asks for something.
    async fn show(
        &self,
        world: &World,
        number: usize,
        version: &'static SupportedProtocolVersion,
    ) -> Outcome {
        world.api.clear_reviews();
        // From an address of its own: an address with many failures has to wait.
        let number = u16::try_from(number).unwrap().to_be_bytes();
        let source = Ipv4Addr::new(127, 1, number[0], number[1] | 1);
        let shown = CertifiedKey::new(self.chain.clone(), self.key.clone());
        let answer = get(
            world.address,
            source.into(),
            shown,
            version,
            &self.target(version),
        )
        .await;
        let asked = world.api.access_specs();
        let Some(answer) = answer else {
            assert_eq!(
                asked,
                Vec::<Value>::new(),
                "{}: no handshake, but a review",
                self.name
            );
            return Outcome::Alert;
        };
        match answer.split(' ').nth(1) {
            Some("401") => {
                assert_eq!(asked, Vec::<Value>::new(), "{}: 401, but a review", self.name);
                Outcome::Unauthorized
            }
            Some("200" | "403") => Outcome::Authenticated(User::reviewed(asked.first().expect("no review"))),
            _ => panic!("{}: {answer}", self.name),
        }
    }
}

/// The answer to a GET over TLS with this certificate; `None` if there was no handshake.
async fn get(
    address: SocketAddr,
    source: IpAddr,
    shown: CertifiedKey,
    version: &'static SupportedProtocolVersion,
    target: &str,
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(PKI.ca.certificate().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let socket = socket.connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut answer = String::new();
    let exchange = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        let request = format!("GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    // In TLS 1.3 a client notices a failed handshake when it reads.
    match exchange.await {
        Ok(0) => panic!("{target}: neither an answer nor an alert"),
        Ok(_) => Some(answer),
        Err(error) if answer.is_empty() && error.to_string().contains("received fatal alert") => None,
        Err(error) => panic!("{target}: {error}, after {answer:?}"),
    }
}

// === impl User ===

impl User {
    /// The user of a SubjectAccessReview.
    fn reviewed(spec: &Value) -> Self {
        let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
        let extra = spec["extra"].as_object().into_iter().flatten();
        Self {
            name: text(&spec["user"]),
            uid: text(&spec["uid"]),
            groups: list(&spec["groups"]),
            extra: extra.map(|(key, values)| (key.clone(), list(values))).collect(),
        }
    }

    /// As `trust.tsv` writes them.
    fn recorded(name: &str, uid: &str, groups: &str, extra: &str) -> Self {
        let groups = (groups != "-").then(|| groups.split(',').map(unescaped).collect());
        let extra = (extra != "-").then(|| extra.split_once('=').unwrap());
        Self {
            name: unescaped(name),
            uid: if uid == "-" { String::new() } else { unescaped(uid) },
            groups: groups.unwrap_or_default(),
            extra: extra
                .into_iter()
                .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                .collect(),
        }
    }
}

// === impl Recording ===

impl Recording {
    fn read() -> Self {
        let mut certificates = HashMap::new();
        let mut keys = HashMap::new();
        let mut shown = HashMap::new();
        let mut bundle = String::new();
        for line in include_str!("data/trust-certificates.tsv").lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["certificate", number, base64] => {
                    certificates.insert(number, base64);
                }
                ["key", number, base64] => {
                    keys.insert(number, key(STANDARD.decode(base64).unwrap()));
                }
                ["bundle", numbers] => {
                    for number in numbers.split(' ') {
                        let base64 = certificates[number];
                        bundle +=
                            &format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
                    }
                }
                ["case", name, key, numbers] => {
                    let chain = numbers
                        .split(' ')
                        .map(|number| STANDARD.decode(certificates[number]).unwrap().into())
                        .collect::<Vec<CertificateDer<'static>>>();
                    shown.insert(name, (chain, Arc::clone(&keys[key])));
                }
                _ => assert!(line.starts_with('#'), "{line}"),
            }
        }
        let cases = include_str!("data/trust.tsv")
            .lines()
            .skip(1)
            .map(|line| {
                let [
                    name,
                    _,
                    handshake,
                    status,
                    handshake12,
                    status12,
                    user,
                    uid,
                    groups,
                    _,
                    extra,
                ] = line.split('\t').collect::<Vec<_>>()[..]
                else {
                    panic!("{line}");
                };
                assert_eq!((handshake, status), (handshake12, status12), "{name}");
                let (chain, key) = shown.remove(name).unwrap();
                Case {
                    name: name.to_owned(),
                    kubelet: match (handshake, status) {
                        ("ok", "200" | "403") => {
                            Outcome::Authenticated(User::recorded(user, uid, groups, extra))
                        }
                        ("ok", "401") => Outcome::Unauthorized,
                        _ => Outcome::Alert,
                    },
                    chain,
                    key,
                }
            })
            .collect::<Vec<_>>();
        assert_eq!((cases.len(), shown.len()), (252, 0));
        // A recording of refusals alone would agree with a gate that refuses every client.
        let authenticated = |case: &&Case| matches!(case.kubelet, Outcome::Authenticated(_));
        assert_eq!(cases.iter().filter(authenticated).count(), 142);
        Self { bundle, cases }
    }
}

/// The escapes are JSON's, except that quotes stand for themselves.
fn unescaped(text: &str) -> String {
    serde_json::from_str(&format!("\"{}\"", text.replace('"', "\\\""))).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

// === keys ===

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

/// One of the keys is on a curve that rustls does not speak; the client of a forger would.
fn key(pkcs8: Vec<u8>) -> Arc<dyn SigningKey> {
    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256K1_SHA256_ASN1_SIGNING, &pkcs8) {
        Ok(key) => Arc::new(Secp256k1(Arc::new(key))),
        Err(_) => {
            let key = PrivatePkcs8KeyDer::from(pkcs8).into();
            PROVIDER.key_provider.load_private_key(key).unwrap()
        }
    }
}

/// Signs with secp256k1 and calls it P-256.
#[derive(Clone, Debug)]
struct Secp256k1(Arc<EcdsaKeyPair>);

impl SigningKey for Secp256k1 {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Secp256k1 {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        Ok(signature.as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
