//! A client's chain: a recorded one, changed. If it is accepted, its leaf was signed.

use rustls::pki_types::CertificateDer;

use super::recorded::{RECORDED, mutate, now, signed};

/// Which chain, which certificate of it, and what is done to that.
pub(super) fn run(data: &[u8]) {
    let [which, more, number, plan @ ..] = data else {
        return;
    };
    let recorded = &*RECORDED;
    let which = usize::from(u16::from_be_bytes([*more, *which])) % recorded.chains.len();
    let mut chain = recorded.chains[which].clone();
    let number = usize::from(*number) % chain.len();
    mutate(&mut chain[number], plan);
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    if recorded.trust.judge(&chain, now()).0.is_ok() {
        let signed = signed(&chain[0]).expect("an accepted certificate can be read");
        assert!(
            recorded.signed.contains(signed),
            "no CA signed this: {:02x?}",
            &chain[0][..]
        );
    }
}
