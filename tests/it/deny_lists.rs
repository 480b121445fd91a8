//! A laptop with a client certificate is lost, and no CA publishes revocation lists. Until the certificate
//! expires its holder may do on the node whatever its owner may, unless the gate refuses it: at once, also on
//! open connections, and whatever was remembered or is allowed by other rules.

use std::fs;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN, Rule, Subject};
use fakes::client::{Alpn, Client, ClientTls};
use fakes::pki::{CertificateSpec, Pair};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    PublicKeyData as _, SerialNumber,
};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Installation, Serving, assert_says, code, stderr, stdout};
use crate::world::{API_SERVER, PKI, Status as _, WithToken as _, World, WorldBuilder, assert_answer};

const LOG: &str = "/containerLogs/default/web/nginx";

/// A world with an empty deny list.
pub(crate) fn listing() -> WorldBuilder {
    World::builder().configure(|configuration, folder| {
        fs::write(folder.join("deny"), "# end\n").unwrap();
        configuration["authentication"]["denyFiles"] = json!(["deny"]);
    })
}

/// Puts these entries in force, as SIGHUP does.
pub(crate) fn deny(world: &World, entries: &str) {
    fs::write(world.file("deny"), format!("{entries}# end\n")).unwrap();
    let failed = reloads(world, "error");
    world.gate.reload();
    assert_eq!(reloads(world, "error"), failed, "{entries}");
}

fn reloads(world: &World, result: &str) -> f64 {
    world.metric("reloads_total", &[("what", "deny_lists"), ("result", result)])
}

fn failures(world: &World, reason: &str) -> f64 {
    world.metric("authentication_failures_total", &[("reason", reason)])
}

/// The leaf alone, as PEM.
fn pem(der: &[u8]) -> String {
    let body: String = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| format!("{}\n", str::from_utf8(line).unwrap()))
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}

fn parsed(pair: &Pair) -> X509Certificate<'_> {
    X509Certificate::from_der(&pair.chain[0]).unwrap().1
}

/// A certificate of the cluster's CA for bob, with this key and serial number.
fn issued(key: &KeyPair, serial: &[u8]) -> Pair {
    let mut ca = CertificateParams::default();
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "kubernetes");
    let ca = Issuer::new(ca, KeyPair::from_pem(&PKI.ca.key_pem()).unwrap());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "admins");
    params.distinguished_name.push(DnType::CommonName, "bob");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(serial));
    let certificate = params.signed_by(key, &ca).unwrap();
    Pair {
        name: "issued".to_owned(),
        chain: vec![certificate.der().clone()],
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    }
}

/// Seen red: with the generation of the deny lists left out of that of the verdicts, bob stayed in on both
/// connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_client_is_refused_at_its_next_request_on_an_open_connection() {
    for always_allow in [false, true] {
        let builder = listing();
        let world = if always_allow {
            builder.always_allow()
        } else {
            builder
        }
        .start()
        .await;
        let others = if always_allow { 200 } else { 403 };
        for alpn in [Alpn::H1, Alpn::H2] {
            let mut bob = world.tls_client(Some(&PKI.bob), alpn).connect().await.unwrap();
            let mut alice = world.tls_client(Some(&PKI.alice), alpn).connect().await.unwrap();
            for _ in 0..2 {
                assert_eq!(bob.status("/pods").await, 200);
            }
            assert_eq!(alice.status("/pods").await, others);

            deny(&world, &PKI.bob.certificate_pem());
            assert_eq!(world.metric("deny_list_entries", &[]), 2.0);
            world.kubelet.clear();
            assert_eq!(bob.status("/pods").await, 401, "{alpn:?}");
            assert_answer(
                &world.client("bob").get("/pods").await.unwrap(),
                401,
                "Unauthorized",
            );
            world.assert_nothing_forwarded();
            assert_eq!(alice.status("/pods").await, others, "{alpn:?}");
            assert!(!bob.is_closed());

            deny(&world, "");
            assert_eq!(bob.status("/pods").await, 200, "{alpn:?}");
        }
        assert_eq!(failures(&world, "denied_certificate"), 4.0);
        assert_eq!(world.metric("deny_list_entries", &[]), 0.0);
        eventually("the refusals are in the audit", || {
            let denied = |event: &serde_json::Value| {
                let error = &event["annotations"]["kubelet-gate.dev/error"];
                error
                    .as_str()
                    .is_some_and(|error| error.contains("/deny:1 (certificate of"))
            };
            world.audit().iter().filter(|event| denied(event)).count() == 4
        })
        .await;
        world.stop().await;
    }
}

/// Seen red: with the mark of issuer and serial number left out, and with that of the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_denied_by_its_serial_number_and_by_its_key_each_alone() {
    let world = listing().start().await;
    let key = KeyPair::generate().unwrap();
    let lost = issued(&key, &[0x7a, 1]);
    let reissued = issued(&key, &[0x7a, 2]);
    let same_serial = issued(&KeyPair::generate().unwrap(), &[0x7a, 1]);
    let renewed = issued(&KeyPair::generate().unwrap(), &[0x7a, 3]);
    let all = [&lost, &reissued, &same_serial, &renewed];
    let spki = sha256(&key.subject_public_key_info());
    let serial = parsed(&lost).raw_serial_as_string();
    for (entries, statuses) in [
        (pem(&lost.chain[0]), [401, 401, 401, 200]),
        (format!("spki-sha256 {}\n", hex(&spki)), [401, 401, 200, 200]),
        (
            format!("spki-sha256 {}\n", STANDARD.encode(spki)),
            [401, 401, 200, 200],
        ),
        (
            format!("issuer CN=kubernetes serial {serial}\n"),
            [401, 200, 401, 200],
        ),
        (
            format!("issuer CN = Kubernetes serial 00{}\n", serial.replace(':', "")),
            [401, 200, 401, 200],
        ),
        (format!("issuer CN=other serial {serial}\n"), [200; 4]),
        (String::new(), [200; 4]),
    ] {
        deny(&world, &entries);
        for (at, pair) in all.iter().enumerate() {
            let status = world.client_with(pair).status("/healthz").await;
            assert_eq!(status, statuses[at], "certificate {at} under\n{entries}");
        }
    }
    world.stop().await;
}

/// The order of the group of P-256.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// DER of a tag with this content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match length {
        0..0x80 => vec![length as u8],
        0x80..0x100 => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [&[tag][..], &length, content].concat()
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    let sign = if bytes[0] >= 0x80 { &[0][..] } else { &[] };
    der(2, &[sign, bytes].concat())
}

/// The same certificate with the signature (r, n - s) in place of (r, s). Its signer is not needed for that.
fn with_other_signature(certificate: &[u8]) -> CertificateDer<'static> {
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    let signature = &parsed.signature_value.data;
    let r_end = 4 + usize::from(signature[3]);
    let s = &signature[r_end + 2..];
    let s = &s[s.len().saturating_sub(32)..];
    let mut flipped = ORDER;
    let mut borrow = 0;
    for at in 1..=32 {
        let subtrahend = s.len().checked_sub(at).map_or(0, |at| i16::from(s[at]));
        let difference = i16::from(flipped[32 - at]) - subtrahend - borrow;
        borrow = i16::from(difference < 0);
        flipped[32 - at] = (difference & 0xff) as u8;
    }
    let signature = der(0x30, &[&signature[2..r_end], &integer(&flipped)].concat());
    let tbs = parsed.tbs_certificate.as_ref();
    // SEQUENCE { OBJECT IDENTIFIER ecdsa-with-SHA256 }
    let algorithm = [
        0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
    ];
    let signature = der(3, &[&[0][..], &signature].concat());
    der(0x30, &[tbs, &algorithm[..], &signature].concat()).into()
}

/// An ECDSA signature has two forms, and either is valid. A list of fingerprints would let the holder of a
/// denied certificate back in.
///
/// Seen red: with the SHA-256 of the certificate compared in place of its marks.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_certificate_with_the_other_form_of_its_signature_is_still_denied() {
    let world = listing().start().await;
    let mut flipped = PKI.bob.clone();
    flipped.chain[0] = with_other_signature(&PKI.bob.chain[0]);
    assert_ne!(flipped.chain[0], PKI.bob.chain[0]);
    assert_eq!(
        world.client_with(&flipped).status("/healthz").await,
        200,
        "it is valid"
    );
    let serial = parsed(&PKI.bob).raw_serial_as_string();
    for entries in [
        pem(&PKI.bob.chain[0]),
        pem(&flipped.chain[0]),
        format!("issuer CN=kubernetes serial {serial}\n"),
    ] {
        deny(&world, &entries);
        for pair in [&flipped, &PKI.bob] {
            assert_eq!(world.client_with(pair).status("/healthz").await, 401, "{entries}");
        }
        deny(&world, "");
    }
    // A fingerprint is refused with the way out, and the last good list stays.
    deny(&world, &pem(&PKI.bob.chain[0]));
    let fingerprint = hex(&sha256(&PKI.bob.chain[0]));
    for line in [fingerprint.clone(), format!("sha256 Fingerprint={fingerprint}")] {
        fs::write(world.file("deny"), format!("{line}\n# end\n")).unwrap();
        let failed = reloads(&world, "error");
        world.gate.reload();
        assert_eq!(reloads(&world, "error"), failed + 1.0);
        assert_eq!(world.client_with(&flipped).status("/healthz").await, 401);
    }
    world.stop().await;
}

/// Seen red: with the leaf's marks alone compared, and without those of the anchor.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_intermediate_or_ca_takes_every_certificate_below_it_with_it() {
    let world = listing().start().await;
    let issuer = PKI.ca.intermediate("issuer").unwrap();
    let below = issuer.intermediate("below").unwrap();
    let erin = issuer
        .issue("erin", &CertificateSpec::client("erin").group("admins"))
        .unwrap();
    let frank = below
        .issue("frank", &CertificateSpec::client("frank").group("admins"))
        .unwrap();
    let mut open = world.client_with(&frank).connect().await.unwrap();
    let statuses = async |world: &World| {
        let mut statuses = Vec::new();
        for pair in [&PKI.bob, &erin, &frank] {
            statuses.push(world.client_with(pair).status("/healthz").await);
        }
        statuses
    };
    assert_eq!(open.status("/healthz").await, 200);
    for (ca, expected) in [
        (&below, [200, 200, 401]),
        (&issuer, [200, 401, 401]),
        (&PKI.ca, [401, 401, 401]),
        (&PKI.rotated_ca, [200, 200, 200]),
    ] {
        let (_, parsed) = X509Certificate::from_der(ca.certificate()).unwrap();
        let spki = hex(&sha256(parsed.public_key().raw));
        let serial = format!(
            "issuer {} serial {}\n",
            parsed.issuer(),
            parsed.raw_serial_as_string()
        );
        for entries in [ca.certificate_pem(), format!("spki-sha256 {spki}\n"), serial] {
            deny(&world, &entries);
            assert_eq!(statuses(&world).await, expected, "{entries}");
            assert_eq!(open.status("/healthz").await, expected[2], "{entries}");
        }
    }
    world.stop().await;
}

/// Seen red: with the deny lists not asked by the policy, and not asked for anonymous users.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_user_or_group_is_refused_whichever_credential_shows_it() {
    let world = listing().anonymous().start().await;
    for user in ["system:anonymous", "system:serviceaccount:monitoring:metrics"] {
        let user = Subject::User(user.to_owned());
        world.api.add_rule(Rule::allow(user, &["*"], &["*"]));
    }
    let protocol = format!(
        "base64url.bearer.authorization.k8s.io.{}",
        URL_SAFE_NO_PAD.encode(ADMIN_TOKEN)
    );
    let exec = "/exec/default/web/nginx?command=id&output=1";
    let websocket = async || {
        let protocols = [protocol.as_str(), "v5.channel.k8s.io"];
        let answer = world.stranger().websocket(exec, &protocols, &[]).await.unwrap();
        answer.status().as_u16()
    };
    let mut by_certificate = world.h2_client("bob").connect().await.unwrap();
    let by_token = world.token_client(ADMIN_TOKEN);
    let metrics = world.token_client(METRICS_TOKEN);
    let stranger = world.stranger();
    let mut all = async || {
        [
            by_certificate.status("/pods").await,
            by_token.status("/pods").await,
            websocket().await,
            metrics.status("/pods").await,
            stranger.status("/pods").await,
        ]
    };
    assert_eq!(all().await, [200, 200, 101, 200, 200]);
    for (entries, expected) in [
        ("user bob\n", [403, 200, 101, 200, 200]),
        ("user admin\n", [200, 403, 403, 200, 200]),
        ("group admins\n", [403, 403, 403, 200, 200]),
        (
            "user system:serviceaccount:monitoring:metrics\n",
            [200, 200, 101, 403, 200],
        ),
        (
            "group system:serviceaccounts:monitoring\n",
            [200, 200, 101, 403, 200],
        ),
        ("user system:anonymous\n", [200, 200, 101, 200, 403]),
        ("group system:unauthenticated\n", [200, 200, 101, 200, 403]),
        ("user Bob\nuser admins\ngroup bob\n", [200, 200, 101, 200, 200]),
        (
            "group system:authenticated\nincludeApiServer: true\n",
            [403, 403, 403, 403, 200],
        ),
    ] {
        deny(&world, entries);
        assert_eq!(all().await, expected, "{entries}");
    }
    deny(&world, "user bob\ngroup admins\n");
    world.kubelet.clear();
    let answer = world.client("bob").get("/pods").await.unwrap();
    let sentence = "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_answer(&answer, 403, sentence);
    let answer = world
        .stranger()
        .with_token(ADMIN_TOKEN)
        .get("/pods")
        .await
        .unwrap();
    assert_eq!(answer.status(), 403);
    world.assert_nothing_forwarded();
    eventually("both are in the audit, with their users and entries", || {
        let said = |user: &str, entry: &str| {
            world.audit().iter().any(|event| {
                let error = event["annotations"]["kubelet-gate.dev/error"]
                    .as_str()
                    .unwrap_or_default();
                event["user"]["username"] == user && error.contains(entry)
            })
        };
        said("bob", "/deny:1 (user \"bob\")") && said("admin", "/deny:2 (group \"admins\")")
    })
    .await;
    world.stop().await;
}

/// The places of authenticated connections are not evicted. A user who is allowed nothing any
/// more must not hold them.
///
/// Seen red: with every proven user admitted.
#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_a_denied_user_counts_as_a_strangers() {
    let world = listing().start().await;
    deny(&world, "user bob\n");
    let strangers = || world.metric("unauthenticated_connections", &[]);
    let mut alice = world.client("alice").connect().await.unwrap();
    assert_eq!(alice.status("/pods").await, 403);
    eventually("alice is authenticated", || strangers() == 0.0).await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(bob.status("/pods").await, 403);
    assert_eq!(strangers(), 1.0);
    deny(&world, "");
    assert_eq!(bob.status("/pods").await, 200);
    assert_eq!(strangers(), 0.0);
    drop((alice, bob));
    world.stop().await;
}

/// Seen red: with a bad list read as an empty one.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_cut_short_or_cannot_be_read_leaves_the_last_good_one_in_force() {
    let world = listing().start().await;
    deny(&world, "user alice\nuser bob\n");
    let whole = "user bob\nuser carol\n# end\n";
    for length in 0..whole.len() {
        fs::write(world.file("deny"), &whole[..length]).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "error"), (length + 1) as f64, "{length}");
        assert_eq!(world.client("bob").status("/pods").await, 403, "{length}");
    }
    fs::remove_file(world.file("deny")).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "error"), (whole.len() + 1) as f64);
    assert_eq!(world.client("bob").status("/pods").await, 403);
    deny(&world, "");
    assert_eq!(world.client("bob").status("/pods").await, 200);
    world.stop().await;
}

/// A list that names the API server ends logs, exec and metrics of the node. One that names a thief must not
/// be refused because the thief did what the API server does.
///
/// Seen red: with the last user that was allowed `nodes/proxy` taken for the API server, bob could not be
/// denied.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_denies_the_api_server_is_refused_unless_it_says_so() {
    let world = listing().start().await;
    deny(&world, &PKI.apiserver_client.certificate_pem());
    assert_eq!(
        world.client(API_SERVER).status(LOG).await,
        401,
        "it was not seen yet"
    );
    deny(&world, "");
    assert_eq!(world.client(API_SERVER).status(LOG).await, 200);
    assert_eq!(world.client("bob").status(LOG).await, 200);
    let api_server = &PKI.apiserver_client;
    let serial = format!(
        "issuer CN=kubernetes serial {}\n",
        parsed(api_server).raw_serial_as_string()
    );
    let entries = [
        api_server.certificate_pem(),
        PKI.ca.certificate_pem(),
        serial,
        "user kube-apiserver-kubelet-client\n".to_owned(),
        "group kubeadm:cluster-admins\n".to_owned(),
        "group system:authenticated\n".to_owned(),
    ];
    for (count, entry) in entries.iter().enumerate() {
        fs::write(world.file("deny"), format!("user alice\n{entry}# end\n")).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "error"), (count + 1) as f64, "{entry}");
        assert_eq!(world.client(API_SERVER).status(LOG).await, 200, "{entry}");
    }
    deny(&world, "user bob\n");
    assert_eq!(world.client("bob").status(LOG).await, 403);
    assert_eq!(world.client(API_SERVER).status(LOG).await, 200);
    for entry in entries {
        deny(&world, &format!("{entry}includeApiServer: true\n"));
        assert_ne!(world.client(API_SERVER).status(LOG).await, 200, "{entry}");
        deny(&world, "");
        assert_eq!(world.client(API_SERVER).status(LOG).await, 200, "{entry}");
    }
    world.stop().await;
}

/// Each control plane node has a certificate of its own for its API server, for the same user. A list that
/// denies one of them ends logs and exec through that one.
///
/// Seen red: with the last one alone remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_denies_one_of_several_api_servers_is_refused() {
    let world = listing().start().await;
    let spec = CertificateSpec::client(API_SERVER).group("kubeadm:cluster-admins");
    let others = [1, 2].map(|number| PKI.client(&format!("apiserver-{number}"), &spec).unwrap());
    let servers = [&PKI.apiserver_client, &others[0], &others[1]];
    for pair in servers {
        assert_eq!(world.client_with(pair).status(LOG).await, 200);
    }
    for (count, pair) in servers.iter().enumerate() {
        let serial = parsed(pair).raw_serial_as_string();
        let entry = format!("issuer CN=kubernetes serial {serial}");
        fs::write(world.file("deny"), format!("user alice\n{entry}\n# end\n")).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "error"), (count + 1) as f64, "{count}");
        assert_eq!(world.client_with(pair).status(LOG).await, 200, "{count}");
    }
    world.stop().await;
}

/// Seen red: as above.
#[tokio::test(flavor = "multi_thread")]
async fn check_says_how_much_a_list_denies_and_serve_does_not_start_with_a_bad_one() {
    let installation = Installation::new();
    let deny = installation.path("deny");
    installation.configure(|configuration| {
        configuration["authentication"]["denyFiles"] = json!(["deny"]);
    });
    fs::write(&deny, format!("user jane\n{}# end\n", PKI.bob.certificate_pem())).unwrap();
    let checked = installation.check(&["--offline"]);
    assert_eq!(code(&checked), 0, "{}{}", stdout(&checked), stderr(&checked));
    assert_says(&stderr(&checked), &[&format!("{deny} denies 3 entries")]);
    for (text, says) in [
        (
            "user jane\n",
            format!("{deny}:1: the file does not end with the line `# end`"),
        ),
        (
            "user jane\njoe\n# end\n",
            format!("{deny}:2: this is no entry; write user NAME"),
        ),
        (
            "group system:authenticated\n# end\n",
            format!("{deny}:1 (group \"system:authenticated\") denies the API server"),
        ),
    ] {
        fs::write(&deny, text).unwrap();
        let checked = installation.check(&["--offline"]);
        assert_eq!(code(&checked), 64, "{text}");
        assert_says(&stderr(&checked), &["authentication.denyFiles", &says]);
        let served = installation.serve().await;
        assert_eq!(code(&served), 64, "{text}");
        assert_says(&stderr(&served), &[&says]);
    }
    fs::remove_file(&deny).unwrap();
    let served = installation.serve().await;
    assert_eq!(code(&served), 64);
    assert_says(&stderr(&served), &["authentication.denyFiles", &deny]);
}

/// An old copy of the list, or an editor that saves an empty file with its last line, must not let a client
/// in again without the operator. A client more must not wait for the operator.
///
/// Seen red: with the trigger of the look not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_clock_entries_are_added_and_by_sighup_alone_they_go() {
    let installation = Installation::new();
    let deny = installation.path("deny");
    installation.configure(|configuration| {
        configuration["authentication"]["denyFiles"] = json!(["deny"]);
        configuration["authorization"]["mode"] = json!("AlwaysAllow");
    });
    fs::write(installation.path("ca.crt"), PKI.ca.certificate_pem()).unwrap();
    let write = |pair: &Pair| fs::write(&deny, format!("{}# end\n", pair.certificate_pem())).unwrap();
    write(&PKI.bob);
    let mut serving = Serving::start(&installation).await;
    let client = |pair: &Pair| {
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..ClientTls::default()
        };
        Client::new(serving.address, tls)
            .unwrap()
            .with_deadline(patience())
    };
    let (bob, alice) = (client(&PKI.bob), client(&PKI.alice));
    // There is no kubelet.
    assert_eq!(
        (bob.status("/pods").await, alice.status("/pods").await),
        (401, 502)
    );
    write(&PKI.alice);
    eventually_answers("alice is denied", async || alice.status("/pods").await == 401).await;
    assert_eq!(bob.status("/pods").await, 401, "he is denied until SIGHUP");
    let admin = Client::plain(serving.admin).with_deadline(patience());
    let waits = "deny_lists: entries are gone from the files, and wait for SIGHUP: ";
    eventually_answers("what waits is named", async || {
        let ready = admin.get("/readyz?verbose").await.unwrap();
        let ready = String::from_utf8_lossy(ready.body()).into_owned();
        ready.contains(waits) && ready.contains("/deny:1 (")
    })
    .await;
    serving.signal(Signal::HUP);
    eventually_answers("bob is back", async || bob.status("/pods").await == 502).await;
    assert_eq!(alice.status("/pods").await, 401);
    let said = |words: &str| {
        let later = serving.later();
        later.iter().any(|event| {
            event["fields"]["message"]
                .as_str()
                .is_some_and(|text| text.contains(words))
        })
    };
    eventually("the log says both", || {
        said("stay in force until SIGHUP") && said("what is allowed was loosened: ")
    })
    .await;
    serving.signal(Signal::TERM);
    assert!(serving.exit().await.success());
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
