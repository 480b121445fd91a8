//! A client's chain: a recorded one of `tests/it/data`, changed. If it is accepted, its leaf was signed.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubelet_gate::tls::Trust;
use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateDer;

mod mutation;

struct Recorded {
    trust: Trust,
    chains: Vec<Vec<Vec<u8>>>,
    /// The signed part of every recorded certificate: a change may undo what makes a recorded one bad.
    signed: HashSet<Vec<u8>>,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let mut certificates = HashMap::new();
    let (mut bundle, mut chains) = (Vec::new(), Vec::new());
    let pick = |certificates: &HashMap<&str, Vec<u8>>, numbers: &str| -> Vec<Vec<u8>> {
        numbers
            .split(' ')
            .map(|number| certificates[number].clone())
            .collect()
    };
    for line in include_str!("../../tests/it/data/trust-certificates.tsv").lines() {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["certificate", number, base64] => {
                certificates.insert(number, STANDARD.decode(base64).expect("base64"));
            }
            ["bundle", numbers] => bundle = pick(&certificates, numbers),
            ["case", _, _, numbers] => chains.push(pick(&certificates, numbers)),
            _ => {}
        }
    }
    let mut trust =
        Trust::new(bundle.into_iter().map(CertificateDer::from).collect(), 1).expect("the bundle");
    trust.allow_version1();
    let signed = certificates
        .values()
        .filter_map(|der| mutation::signed(der))
        .map(<[u8]>::to_vec);
    Recorded {
        trust,
        signed: signed.collect(),
        chains,
    }
});

/// When the recorded certificates are valid.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

// Which chain, which certificate of it, and what is done to that.
fuzz_target!(|data: &[u8]| {
    let [which, more, number, plan @ ..] = data else {
        return;
    };
    let recorded = &*RECORDED;
    let which = usize::from(u16::from_be_bytes([*more, *which])) % recorded.chains.len();
    let mut chain = recorded.chains[which].clone();
    let number = usize::from(*number) % chain.len();
    mutation::mutate(&mut chain[number], plan);
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    if recorded.trust.judge(&chain, now()).0.is_ok() {
        let signed = mutation::signed(&chain[0]).expect("an accepted certificate can be read");
        assert!(
            recorded.signed.contains(signed),
            "no CA signed this: {:02x?}",
            &chain[0][..]
        );
    }
});
