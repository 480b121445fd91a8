//! What a judgement costs, by counts. A stranger must not make it dear, and a legitimate chain must not be
//! refused for its bounds.

use rcgen::PublicKeyData as _;

use super::forged::{Forged, element, extension, may_issue, named};
use super::*;

/// Certificates of one test, all with P-256.
struct Forge {
    root: KeyPair,
    keys: Vec<KeyPair>,
}

impl Forge {
    fn new(keys: usize) -> Self {
        Self {
            root: KeyPair::generate().unwrap(),
            keys: (0..keys).map(|_| KeyPair::generate().unwrap()).collect(),
        }
    }

    fn trust(&self) -> Trust {
        Trust::new(
            vec![self.signed("root", named("root"), &self.root, &self.root, may_issue())],
            1,
        )
        .unwrap()
    }

    fn signed(
        &self,
        issuer: &str,
        subject: Vec<u8>,
        key: &KeyPair,
        signer: &KeyPair,
        extensions: Vec<Vec<u8>>,
    ) -> CertificateDer<'static> {
        let (issuer, key) = (named(issuer), key.subject_public_key_info());
        Forged {
            issuer,
            subject,
            key,
            signer,
            extensions,
        }
        .make()
    }

    /// Certificate `at` of a chain, which its own key signed.
    fn forged(
        &self,
        at: usize,
        issuer: &str,
        subject: &str,
        extensions: Vec<Vec<u8>>,
    ) -> CertificateDer<'static> {
        let key = &self.keys[at];
        self.signed(issuer, named(subject), key, key, extensions)
    }
}

/// As much as one kind of extension repeated for the whole certificate.
fn filled(bytes: usize, id: &[u8], one: &[u8]) -> Vec<Vec<u8>> {
    vec![extension(id, &element(0x30, &[&one.repeat(bytes / one.len())]))]
}

fn tiny_extensions(count: u16) -> Vec<Vec<u8>> {
    let id = |number: u16| [0x2a, 0x84, 0x80 | (number >> 7) as u8, (number & 0x7f) as u8];
    (0..count).map(|number| extension(&id(number), &[])).collect()
}

/// A leaf with an intermediate, as most are: the measure of all the others.
fn ordinary() -> Work {
    let root = Authority::new("root", |_| ());
    let issuer = root.below("issuer", |_| ());
    let chain = [issuer.issue(|_| ()).certificate, issuer.certificate];
    let (judged, work) = root.trust().judge(&chain, SystemTime::now());
    assert_eq!(judged.unwrap().path.len(), 1);
    work
}

/// Seen red with each signature verified again by webpki.
#[test]
fn an_ordinary_chain_of_two_costs_two_units_and_two_signatures() {
    let work = ordinary();
    assert_eq!(
        (work.certificates, work.signatures, work.paths, work.units()),
        (2, 2, 1, 2),
        "{work:?}"
    );
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let ca = Authority::with_key("ca", rsa(), |_| ());
    let (_, work) = ca
        .trust()
        .judge(&[ca.issue_for(rsa(), |_| ()).certificate], SystemTime::now());
    assert_eq!((work.signatures, work.units()), (1, 1), "{work:?}");
}

/// The certificates of the known worst chain: of one subject and issuer, with keys of their own, and as many
/// small extensions as fit.
///
/// Seen red with `MAX_ELEMENTS` ten times as high. With webpki's own search 9 of them took seconds.
#[test]
fn certificates_of_one_name_cost_no_search() {
    let forge = Forge::new(16);
    let trust = forge.trust();
    let most = 6 * ordinary().effort;
    for name in ["X", "root"] {
        for extensions in [0, 5, 40, 250] {
            let chain: Vec<_> = (0..16)
                .map(|at| {
                    let mut all = if at == 0 { Vec::new() } else { may_issue() };
                    all.extend(tiny_extensions(extensions));
                    forge.forged(at, name, name, all)
                })
                .collect();
            let (judged, work) = trust.judge(&chain, SystemTime::now());
            let refused = judged.unwrap_err().refusal;
            assert!(
                matches!(refused, Refusal::TooComplex | Refusal::BadSignature),
                "{refused:?}"
            );
            // The CA has one key, and at most eight of the certificates are tried under it.
            let tried = if name == "root" { 8 } else { 0 };
            assert!(work.signatures <= tried && work.paths == 0, "{work:?}");
            assert!(work.effort <= most, "{name}, {extensions} extensions: {work:?}");
        }
    }
}

/// Without the CA's help, each path ends at its first signature, from the top.
///
/// Seen red with each signature verified again, and with `MAX_PATHS` at 100.
#[test]
fn layers_of_intermediates_cost_one_signature_for_each_of_the_topmost() {
    let forge = Forge::new(16);
    let mut chain = vec![forge.forged(0, "L1", "leaf", Vec::new())];
    for at in 1..16_usize {
        let layer = at.div_ceil(4);
        let issuer = if layer == 4 {
            "root".to_owned()
        } else {
            format!("L{}", layer + 1)
        };
        chain.push(forge.forged(at, &issuer, &format!("L{layer}"), may_issue()));
    }
    let (judged, work) = forge.trust().judge(&chain, SystemTime::now());
    assert_eq!(
        judged.unwrap_err().refusal,
        Refusal::TooComplex,
        "there are more than eight paths"
    );
    assert_eq!((work.signatures, work.paths), (3, 0), "{work:?}");

    // Eleven topmost ones, below four names: eight of the paths are tried.
    let mut chain = vec![forge.forged(0, "L1", "leaf", Vec::new())];
    chain.extend((1..5).map(|at| forge.forged(at, &format!("M{at}"), "L1", may_issue())));
    chain.extend((5..16).map(|at| forge.forged(at, "root", &format!("M{}", 1 + at % 4), may_issue())));
    let (judged, work) = forge.trust().judge(&chain, SystemTime::now());
    assert_eq!(judged.unwrap_err().refusal, Refusal::TooComplex);
    assert_eq!((work.signatures, work.paths), (8, 0), "{work:?}");
}

/// One leaf as large as a handshake carries, filled with the smallest pieces of every kind.
///
/// Seen red with `MAX_ELEMENTS` ten times as high.
#[test]
fn one_large_leaf_costs_no_more_than_six_ordinary_chains() {
    let forge = Forge::new(1);
    let trust = forge.trust();
    let most = 6 * ordinary().effort;
    let leaf =
        |subject, extensions| vec![forge.signed("root", subject, &forge.keys[0], &forge.root, extensions)];
    let name = |one: &[u8]| element(0x30, &[&one.repeat(52_000 / one.len())]);
    const SMALLEST: &[u8] = &[0x30, 0x05, 0x06, 0x01, 0x2a, 0x05, 0x00];
    let chains = [
        (
            "names of no letter",
            leaf(named("a"), filled(52_000, &[0x55, 0x1d, 0x11], &[0x82, 0x00])),
        ),
        (
            "URIs",
            leaf(
                named("a"),
                filled(52_000, &[0x55, 0x1d, 0x11], &element(0x86, &[b"a://b"])),
            ),
        ),
        (
            "usages",
            leaf(
                named("a"),
                filled(52_000, &[0x55, 0x1d, 0x25], &[0x06, 0x01, 0x2a]),
            ),
        ),
        (
            "names of the issuer",
            leaf(named("a"), filled(52_000, &[0x55, 0x1d, 0x12], &[0x82, 0x00])),
        ),
        (
            "nothing known",
            leaf(named("a"), filled(52_000, &[0x2a, 0x03], &[0x05, 0x00])),
        ),
        ("extensions", leaf(named("a"), tiny_extensions(4_000))),
        (
            "parts of the subject",
            leaf(name(&element(0x31, &[SMALLEST])), Vec::new()),
        ),
        (
            "one part of the subject",
            leaf(
                element(0x30, &[&element(0x31, &[&SMALLEST.repeat(7_000)])]),
                Vec::new(),
            ),
        ),
    ];
    for (what, chain) in chains {
        let (judged, work) = trust.judge(&chain, SystemTime::now());
        assert!(work.effort <= most, "{what}: {work:?}");
        // An extension that neither parser reads costs nothing.
        assert_eq!(judged.is_ok(), what == "nothing known", "{what}: {judged:?}");
    }
}

/// Bounds must refuse no chain that a CA would make.
///
/// Seen red with each of these bounds lowered: 1000 elements, 32 KiB, 15 certificates, 5 intermediates.
#[test]
fn legitimate_chains_that_are_large_are_believed() {
    // A thousand names, 40 KB.
    let forge = Forge::new(1);
    let names: Vec<u8> = (0..1_000)
        .flat_map(|number| {
            element(
                0x82,
                &[format!("{number:06}.nodes.cluster.example.internal").as_bytes()],
            )
        })
        .collect();
    let names = extension(&[0x55, 0x1d, 0x11], &element(0x30, &[&names]));
    let leaf = forge.signed("root", named("many"), &forge.keys[0], &forge.root, vec![names]);
    let (judged, work) = forge.trust().judge(&[leaf], SystemTime::now());
    judged.unwrap();
    assert!(work.elements > 1_000 && work.signatures == 1, "{work:?}");

    // Six intermediates, in any order, and others among them.
    let root = Authority::new("root", |_| ());
    let mut issuers: Vec<Authority> = Vec::new();
    for number in 0..6 {
        let issuer = issuers
            .last()
            .unwrap_or(&root)
            .below(&format!("issuer {number}"), |_| ());
        issuers.push(issuer);
    }
    let leaf = issuers[5].issue(|_| ()).certificate;
    let mut chain = vec![leaf];
    chain.extend(issuers.iter().map(|issuer| issuer.certificate.clone()));
    chain.extend((0..9).map(|_| Authority::new("issuer 3", |_| ()).certificate));
    let (judged, work) = root.trust().judge(&chain, SystemTime::now());
    assert_eq!(judged.unwrap().path.len(), 6);
    assert!(work.signatures <= 8 && work.paths == 1, "{work:?}");
}

/// webpki compares each name of a leaf with each constraint of the CAs above it.
///
/// Seen red with `check_name_comparisons` left out: the leaf was accepted after 90,000 comparisons.
#[test]
fn names_are_compared_with_constraints_a_bounded_number_of_times() {
    let forge = Forge::new(2);
    let judged = |count: usize| {
        let names = element(0x82, &[b"a.internal"]).repeat(count);
        let names = extension(&[0x55, 0x1d, 0x11], &element(0x30, &[&names]));
        let permitted = element(0x30, &[&element(0x82, &[b"internal"])]).repeat(count);
        let constraints = element(0x30, &[&element(0xa0, &[&permitted])]);
        let mut extensions = may_issue();
        extensions.push(extension(&[0x55, 0x1d, 0x1e], &constraints));
        let [leaf_key, issuer_key] = &forge.keys[..] else {
            unreachable!("there are two")
        };
        let issuer = named("constrained");
        let issuer = forge.signed("root", issuer, issuer_key, &forge.root, extensions);
        let leaf = forge.signed("constrained", named("many"), leaf_key, issuer_key, vec![names]);
        forge.trust().judge(&[leaf, issuer], SystemTime::now()).0
    };
    judged(100).unwrap();
    assert_eq!(judged(300).unwrap_err().refusal, Refusal::TooComplex);
}

/// A bundle may have many CAs, and one name for many keys.
///
/// Seen red with key identifiers ignored.
#[test]
fn of_many_cas_and_of_many_of_one_name_the_right_one_is_found() {
    let others = (0..150).map(|number| Authority::new(&format!("ca {number}"), |_| ()).certificate);
    let root = Authority::new("ca", |_| ());
    let bundle = others.chain([root.certificate.clone()]).collect();
    let leaf = root.issue(|_| ()).certificate;
    let (judged, work) = Trust::new(bundle, 1)
        .unwrap()
        .judge(std::slice::from_ref(&leaf), SystemTime::now());
    judged.unwrap();
    assert_eq!(
        (work.signatures, work.certificates),
        (1, 1),
        "no CA is read again: {work:?}"
    );

    let renewed = (0..12).map(|_| Authority::new("ca", |_| ()).certificate);
    let bundle: Vec<_> = renewed.chain([root.certificate.clone()]).collect();
    let trust = Trust::new(bundle.clone(), 1).unwrap();
    let (judged, work) = trust.judge(&[leaf], SystemTime::now());
    judged.unwrap();
    assert!(work.signatures <= 13, "{work:?}");
    // With key identifiers the right one comes first.
    let leaf = root
        .issue(|params| params.use_authority_key_identifier_extension = true)
        .certificate;
    let (judged, work) = trust.judge(&[leaf], SystemTime::now());
    judged.unwrap();
    assert_eq!(work.signatures, 1, "{work:?}");
}

/// What a refusal says about time: when to look again.
///
/// Seen red with the last such certificate in place of the first.
#[test]
fn a_refusal_stands_until_the_first_certificate_that_is_still_to_begin() {
    let year = |year| SystemTime::from(rcgen::date_time_ymd(year, 1, 1));
    let root = Authority::new("root", |_| ());
    let later = Authority::new("later", |params| {
        params.not_before = rcgen::date_time_ymd(2900, 1, 1)
    });
    let issuer = root.below("issuer", |params| {
        params.not_before = rcgen::date_time_ymd(2800, 1, 1)
    });
    let trust = Trust::new(vec![root.certificate.clone(), later.certificate.clone()], 1).unwrap();
    let refused = |chain: &[&CertificateDer<'static>], now| {
        let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
        trust.judge(&chain, now).0.unwrap_err()
    };
    let leaf = issuer.issue(|_| ()).certificate;
    let chain = [&leaf, &issuer.certificate];
    assert_eq!(refused(&chain, SystemTime::now()).stands_until, Some(year(2800)));
    let judged = trust
        .judge(&[leaf.clone(), issuer.certificate.clone()], year(2801))
        .0
        .unwrap();
    assert_eq!(judged.judged_at, year(2801));
    let stranger = Authority::new("stranger", |_| ()).issue(|_| ()).certificate;
    assert_eq!(
        refused(&[&stranger], SystemTime::now()).stands_until,
        Some(year(2900))
    );
    assert_eq!(refused(&[&stranger], year(2901)).stands_until, None);
    let rubbish = CertificateDer::from(vec![0x30, 0x00]);
    assert_eq!(refused(&[&rubbish], SystemTime::now()).stands_until, None);
}

/// The handshake's signature is work as well: by an RSA key of 8192 bits with the largest exponent it costs
/// more than three ordinary chains.
///
/// Seen red with `MAX_EFFORT` ten times as high.
#[test]
fn a_dear_key_in_the_handshake_leaves_less_for_the_rest() {
    let forge = Forge::new(16);
    let key = rsa(8192, &[0x7f, 0xff, 0xff, 0xff]);
    let all = filled(3_000, &[0x55, 0x1d, 0x11], &[0x82, 0x00]);
    let (issuer, signer) = (named("root"), &forge.keys[0]);
    let make = |subject, key, extensions| {
        let issuer = issuer.clone();
        Forged {
            issuer,
            subject,
            key,
            signer,
            extensions,
        }
        .make()
    };
    let mut chain = vec![make(named("leaf"), key, all)];
    let keys = forge.keys[1..].iter().map(|key| key.subject_public_key_info());
    chain.extend(keys.map(|key| make(named("root"), key, may_issue())));
    let (judged, work) = forge.trust().judge(&chain, SystemTime::now());
    judged.unwrap_err();
    assert!(
        work.units() >= 8 && work.effort <= 6 * ordinary().effort,
        "{work:?}"
    );
    // A key that is usual costs what it costs.
    let (_, work) = forge.trust().judge(
        &[make(named("leaf"), rsa(2048, &[1, 0, 1]), Vec::new())],
        SystemTime::now(),
    );
    assert_eq!(work.units(), 1, "{work:?}");
}

/// A SubjectPublicKeyInfo of random bytes: no private key exists.
fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let modulus = [&[0][..], &vec![0xff; bits / 8]].concat();
    let numbers = element(0x30, &[&element(0x02, &[&modulus]), &element(0x02, &[exponent])]);
    const RSA: &[u8] = &[
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    element(0x30, &[RSA, &element(0x03, &[&[0], &numbers])])
}

/// A search for the dearest chain that a stranger can make, by small changes to a plan.
///
/// Seen red with `MAX_EFFORT` ten times as high.
#[test]
fn a_search_finds_no_chain_dearer_than_six_ordinary_ones() {
    const NAMES: [&str; 4] = ["root", "A", "B", "C"];
    let forge = Forge::new(16);
    // Several CAs of one name give a stranger the most to try.
    let cas = Forge::new(5);
    let bundle = (0..5)
        .map(|at| cas.forged(at, "root", "root", may_issue()))
        .collect();
    let trust = Trust::new(bundle, 1).unwrap();
    let most = 6 * ordinary().effort;
    // The same numbers in every run.
    let mut state = 1_u64;
    let mut pick = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let cost = |plan: &[[usize; 4]]| {
        let chain: Vec<_> = plan
            .iter()
            .enumerate()
            .map(|(at, [issuer, subject, kind, amount])| {
                let mut all = if at == 0 { Vec::new() } else { may_issue() };
                match kind {
                    0 => {}
                    1 => all.extend(tiny_extensions(*amount as u16)),
                    2 => all.extend(filled(amount * 4, &[0x55, 0x1d, 0x11], &[0x82, 0x00])),
                    _ => all.extend(filled(amount * 4, &[0x2a, 0x03], &[0x05, 0x00])),
                }
                forge.forged(at, NAMES[*issuer], NAMES[*subject], all)
            })
            .collect();
        let (judged, work) = trust.judge(&chain, SystemTime::now());
        judged.unwrap_err();
        assert!(work.signatures <= 32 && work.paths <= 8, "{work:?}");
        work
    };
    let mut plan: Vec<[usize; 4]> = (0..16).map(|_| [pick(4), pick(4), 0, 0]).collect();
    let mut dearest = cost(&plan);
    for _ in 0..400 {
        let mut changed = plan.clone();
        for _ in 0..=pick(3) {
            let at = pick(changed.len());
            changed[at] = [pick(4), pick(4), pick(4), pick(300)];
        }
        let work = cost(&changed);
        if work.effort >= dearest.effort {
            (plan, dearest) = (changed, work);
        }
    }
    println!(
        "the dearest of 401 chains: {dearest:?}, {:.1} ordinary ones",
        dearest.effort as f64 * 6.0 / most as f64
    );
    assert!(dearest.effort <= most, "{dearest:?}");
}

/// What only a CA of the bundle can cause is bounded by counts alone.
///
/// Seen red with no bound on intermediates of one subject, on paths and on the effort, together: 15 paths.
/// One of the three suffices here.
#[test]
fn certificates_of_a_ca_that_lead_nowhere_are_verified_a_bounded_number_of_times() {
    // Each is good and signed, but none may issue: every path fails after its signatures.
    let forge = Forge::new(16);
    let mut chain = vec![forge.signed("I", named("leaf"), &forge.keys[0], &forge.keys[1], Vec::new())];
    chain.extend((0..15).map(|_| {
        let subject = named("I");
        forge.signed(
            "root",
            subject,
            &forge.keys[1],
            &forge.root,
            vec![extension(&[0x2a, 0x03], &[])],
        )
    }));
    chain.dedup();
    let (judged, work) = forge.trust().judge(&chain, SystemTime::now());
    judged.unwrap_err();
    assert!(work.signatures <= 32 && work.paths <= 8, "{work:?}");
}
