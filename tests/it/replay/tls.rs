//! The gate's handshake must not be weaker than the kubelet's, nor refuse what the kubelet accepts. The
//! hellos are written byte by byte, since no library offers what must be refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fakes::apiserver::{Api, Behaviour};
use fakes::client::{Alpn, Client, ClientTls};
use fakes::pki::client_config;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{SignatureScheme, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::caller::Certificates;
use crate::world::{PKI, World};

/// What openssl reported of a kubelet.
const RECORDED: &str = include_str!("../data/kubelet-tls.txt");

/// A server's answer to a hello: what it chooses, or its alert.
type Reply = Result<Chosen, u8>;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Chosen {
    version: u16,
    suite: u16,
    /// Only if it asks for a key share.
    group: Option<u16>,
    /// Only before TLS 1.3, which encrypts it.
    alpn: Option<String>,
}

/// A ClientHello. Without key shares, so that a server of TLS 1.3 has to name the group it wants.
#[derive(Clone, Copy)]
struct Hello<'a> {
    version: u16,
    suites: &'a [u16],
    groups: &'a [u16],
    alpn: &'a [&'a str],
}

const V1_0: u16 = 0x0301;
const V1_1: u16 = 0x0302;
const V1_2: u16 = 0x0303;
const V1_3: u16 = 0x0304;

const ONLY_1_2: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_1_3: &[&SupportedProtocolVersion] = &[&TLS13];

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Recorded name of a suite, and its number.
const SUITES_1_3: [(&str, u16); 4] = [
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
    ("TLS_AES_128_CCM_SHA256", 0x1304),
];
const SUITES_1_2: [(&str, u16); 9] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", 0xc02b),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", 0xc02c),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", 0xcca9),
    ("ECDHE-ECDSA-AES128-SHA", 0xc009),
    ("ECDHE-ECDSA-AES256-SHA", 0xc00a),
    ("ECDHE-ECDSA-AES128-SHA256", 0xc023),
    ("ECDHE-ECDSA-AES256-SHA384", 0xc024),
    ("AES128-GCM-SHA256", 0x009c),
    ("AES128-SHA", 0x002f),
];
const GROUPS: [(&str, u16); 6] = [
    ("X25519", 29),
    ("P-256", 23),
    ("P-384", 24),
    ("P-521", 25),
    ("X448", 30),
    ("ffdhe2048", 256),
];

/// What the kubelet accepts and the gate does not, and why.
const REFUSED: [(&str, &str); 3] = [
    ("ECDHE-ECDSA-AES128-SHA", "CBC; rustls has none"),
    ("ECDHE-ECDSA-AES256-SHA", "CBC; rustls has none"),
    (
        "P-521",
        "rustls has none with aws-lc-rs; clients with P-521 have P-256 too",
    ),
];

impl Hello<'_> {
    fn bytes(&self) -> Vec<u8> {
        let numbers = |numbers: &[u16]| {
            numbers
                .iter()
                .flat_map(|number| number.to_be_bytes())
                .collect::<Vec<u8>>()
        };
        let mut extensions = extension(10, &sized(2, &numbers(self.groups)));
        extensions.extend(extension(11, &[1, 0]));
        // ECDSA and RSA-PSS with SHA-256.
        extensions.extend(extension(13, &sized(2, &numbers(&[0x0403, 0x0804]))));
        if self.version == V1_3 {
            extensions.extend(extension(43, &sized(1, &numbers(&[V1_3]))));
            extensions.extend(extension(51, &sized(2, &[])));
        }
        if !self.alpn.is_empty() {
            let names: Vec<u8> = self
                .alpn
                .iter()
                .flat_map(|name| sized(1, name.as_bytes()))
                .collect();
            extensions.extend(extension(16, &sized(2, &names)));
        }
        let hello = [
            &self.version.min(V1_2).to_be_bytes()[..],
            &[7; 32],
            &sized(1, &[9; 32]),
            &sized(2, &numbers(self.suites)),
            &[1, 0],
            &sized(2, &extensions),
        ]
        .concat();
        let handshake = [&[1], sized(3, &hello).as_slice()].concat();
        [&[22, 3, 1], sized(2, &handshake).as_slice()].concat()
    }

    /// Sends the hello and nothing else.
    async fn say(&self, world: &World) -> Reply {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(&self.bytes()).await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut record).await.unwrap();
        match head[0] {
            21 => Err(record[1]),
            22 => Ok(Chosen::parse(&record)),
            other => panic!("a record of type {other}"),
        }
    }
}

impl Chosen {
    /// Reads a ServerHello.
    fn parse(record: &[u8]) -> Self {
        let number = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
        assert_eq!(record[0], 2, "no ServerHello");
        let suite = 4 + 2 + 32 + 1 + usize::from(record[38]);
        let mut chosen = Self {
            version: number(4),
            suite: number(suite),
            ..Self::default()
        };
        let (mut at, end) = (suite + 5, suite + 5 + usize::from(number(suite + 3)));
        while at < end {
            let length = usize::from(number(at + 2));
            let content = &record[at + 4..at + 4 + length];
            match number(at) {
                16 => chosen.alpn = Some(String::from_utf8(content[3..].to_vec()).unwrap()),
                43 => chosen.version = number(at + 4),
                51 => chosen.group = Some(number(at + 4)),
                _ => {}
            }
            at += 4 + length;
        }
        chosen
    }
}

/// The content behind its length, which has this number of bytes.
fn sized(bytes: usize, content: &[u8]) -> Vec<u8> {
    [
        &content.len().to_be_bytes()[size_of::<usize>() - bytes..],
        content,
    ]
    .concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(2, content)].concat()
}

/// The recorded facts: the text before the colon, and the text behind it.
fn facts() -> BTreeMap<&'static str, &'static str> {
    RECORDED
        .lines()
        .filter_map(|line| line.strip_prefix("== ")?.split_once(": "))
        .collect()
}

/// Whether the kubelet accepted the offer.
fn taken(fact: &str) -> bool {
    !fact.contains("error") && !fact.contains("(NONE)")
}

/// Seen red: with TLS 1.2 switched off, "tls1_2".
#[tokio::test(flavor = "multi_thread")]
async fn versions_suites_and_groups_are_the_kubelets_or_fewer() {
    let world = World::start().await;
    let facts = facts();
    let all = |suites: &[(&str, u16)]| suites.iter().map(|(_, number)| *number).collect::<Vec<_>>();
    let (suites_1_2, suites_1_3) = (all(&SUITES_1_2), all(&SUITES_1_3));
    let groups = all(&GROUPS);
    let modern = Hello {
        version: V1_3,
        suites: &suites_1_3,
        groups: &groups,
        alpn: &[],
    };
    let older = |version| Hello {
        version,
        suites: &suites_1_2,
        ..modern
    };
    // The offer, whether the kubelet accepted it, the gate's answer.
    let mut found: Vec<(&str, bool, Reply)> = Vec::new();
    for (name, version) in [
        ("tls1", V1_0),
        ("tls1_1", V1_1),
        ("tls1_2", V1_2),
        ("tls1_3", V1_3),
    ] {
        let hello = if version == V1_3 { modern } else { older(version) };
        let reply = hello.say(&world).await;
        assert_eq!(reply.as_ref().map_or(version, |chosen| chosen.version), version);
        if let Err(alert) = reply {
            assert_eq!(alert, PROTOCOL_VERSION, "{name}");
            assert!(facts[name].contains("alert number 70"), "{name}");
        }
        found.push((name, taken(facts[name]), reply));
    }
    for (name, number) in SUITES_1_3 {
        let reply = Hello {
            suites: &[number],
            ..modern
        }
        .say(&world)
        .await;
        found.push((name, taken(facts[name]), reply));
    }
    let recorded: Vec<&str> = facts["TLS1.2 ciphers"].split_whitespace().collect();
    for (name, number) in SUITES_1_2 {
        let reply = Hello {
            suites: &[number],
            ..older(V1_2)
        }
        .say(&world)
        .await;
        found.push((name, recorded.contains(&name), reply));
    }
    for (name, number) in GROUPS {
        let reply = Hello {
            groups: &[number],
            ..modern
        }
        .say(&world)
        .await;
        if let Ok(chosen) = &reply {
            assert_eq!(chosen.group, Some(number), "{name}");
        }
        let fact = format!("group {name}");
        found.push((name, taken(facts[fact.as_str()]), reply));
    }
    let (mut equal, mut refused) = (0, Vec::new());
    for (name, kubelet, gate) in found {
        match (kubelet, gate) {
            (true, Ok(_)) => equal += 1,
            (false, Err(HANDSHAKE_FAILURE | PROTOCOL_VERSION)) => equal += 1,
            (true, Err(HANDSHAKE_FAILURE)) => refused.push(name),
            (_, reply) => panic!("{name}: taken by the kubelet: {kubelet}, the gate: {reply:?}"),
        }
    }
    println!(
        "replay of TLS: {equal} equal, {} refused on purpose, 0 others",
        refused.len()
    );
    for (name, reason) in REFUSED {
        println!("  {name}: {reason}");
    }
    assert_eq!(refused, REFUSED.map(|(name, _)| name));
    world.stop().await;
}

/// A kubelet 1.36 ignores ALPN while it reloads its client CA file, as it does by default; older ones, and
/// those with that switched off, do as the gate does. Seen red: without h2 in the server's protocols.
#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_offered_and_unknown_protocols_are_refused() {
    let world = World::start().await;
    for (fact, alpn, gate) in [
        (
            "ALPN h2,http/1.1 -> No ALPN negotiated",
            &["h2", "http/1.1"][..],
            Ok("h2"),
        ),
        (
            "ALPN http/1.1 -> No ALPN negotiated",
            &["http/1.1"],
            Ok("http/1.1"),
        ),
        (
            "ALPN junk -> No ALPN negotiated",
            &["junk"],
            Err(NO_APPLICATION_PROTOCOL),
        ),
    ] {
        assert!(RECORDED.contains(fact));
        let hello = Hello {
            version: V1_2,
            suites: &[SUITES_1_2[0].1],
            groups: &[GROUPS[0].1],
            alpn,
        };
        let reply = hello.say(&world).await;
        let reply = reply.map(|chosen| chosen.alpn.unwrap());
        assert_eq!(reply.as_deref().map_err(|alert| *alert), gate, "{alpn:?}");
    }
    world.stop().await;
}

/// Like the kubelet, the gate names the subjects of the CA bundle. Seen red: with the first name alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_gate_names_the_subjects_of_the_ca_bundle_and_no_others() {
    #[derive(Debug, Default)]
    struct Asked(Mutex<Vec<Vec<u8>>>);

    impl ResolvesClientCert for Asked {
        fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            *self.0.lock().unwrap() = hints.iter().map(|hint| hint.to_vec()).collect();
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    assert!(RECORDED.contains("Acceptable client certificate CA names\nCN = kubernetes-rig-ca\nRequested"));
    let world = World::builder()
        .configure(|_, folder| {
            let both = PKI.ca.certificate_pem() + &PKI.rotated_ca.certificate_pem();
            std::fs::write(folder.join("ca.crt"), both).unwrap();
        })
        .start()
        .await;
    let asked = Arc::new(Asked::default());
    let mut config = client_config([PKI.ca.certificate()], None).unwrap();
    config.client_auth_cert_resolver = asked.clone();
    let tcp = TcpStream::connect(world.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let subject = |certificate: &[u8]| {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).unwrap();
        certificate.subject().as_raw().to_vec()
    };
    let bundle = [PKI.ca.certificate(), PKI.rotated_ca.certificate()].map(|ca| subject(ca));
    assert_eq!(*asked.0.lock().unwrap(), bundle);
    drop(stream.unwrap());
    world.stop().await;
}

/// Seen red: with TLS 1.2 switched off.
#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_gets_its_status_and_not_an_alert_on_both_versions() {
    let world = World::start().await;
    world
        .api
        .behave(Api::Access, Behaviour::status(json!({"allowed": true})));
    let certificates = Certificates::new();
    let mut compared = 0;
    for (fact, status) in facts() {
        let Some((name, version)) = fact
            .strip_prefix("cert ")
            .and_then(|fact| fact.split_once(" TLS"))
        else {
            continue;
        };
        let pair = certificates.pair(name).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            roots: Some(vec![PKI.ca.certificate().clone()]),
            alpn: Alpn::Absent,
            versions: if version == "1.2" { ONLY_1_2 } else { ONLY_1_3 },
            ..ClientTls::default()
        };
        let answer = Client::new(world.address, tls)
            .unwrap()
            .get("/healthz")
            .await
            .unwrap();
        let got = format!("HTTP/1.1 {}", answer.status().as_u16());
        assert_eq!(got, status.trim(), "{fact}");
        compared += 1;
    }
    assert_eq!(compared, 18);
    world.stop().await;
}
