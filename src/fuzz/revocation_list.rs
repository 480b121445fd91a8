//! A revocation list: random bytes, or a good list changed. If the list is taken, a certificate that the good
//! one revokes stays out.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::recorded::{mutate, signed};
use crate::tls::{Judged, Refused, Trust, pem};

/// A CA "fuzzed", a client of it, and a list that revokes the client, valid from 2026 to 2126. Their keys are
/// gone.
const CA: &[u8] = include_bytes!("../../fuzz/fixtures/ca.der");
const REVOKED: &[u8] = include_bytes!("../../fuzz/fixtures/revoked.der");
const LIST: &[u8] = include_bytes!("../../fuzz/fixtures/list.der");
/// The CA's name, as it stands in the list.
const NAME: &[u8] = b"\x30\x11\x31\x0f\x30\x0d\x06\x03\x55\x04\x03\x0c\x06fuzzed";

/// Without a list the client is believed.
static BELIEVED: LazyLock<Judged> = LazyLock::new(|| judge(&trust()).expect("without a list"));

fn trust() -> Trust {
    Trust::new(vec![CertificateDer::from(CA)], 1).expect("the CA")
}

fn judge(trust: &Trust) -> Result<Judged, Refused> {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    trust.judge(&[CertificateDer::from(REVOKED)], then).0
}

pub(super) fn run(data: &[u8]) {
    LazyLock::force(&BELIEVED);
    let Some((kind, plan)) = data.split_first() else {
        return;
    };
    let _ = pem::revocation_lists("list".as_ref(), plan);
    let list = if kind % 2 == 0 {
        plan.to_vec()
    } else {
        let mut list = LIST.to_vec();
        mutate(&mut list, plan);
        list
    };
    let any_signer = kind & 2 != 0;
    let mut trust = trust();
    let taken = trust.add_revocation_list(&CertificateRevocationListDer::from(&list[..]), any_signer);
    let judged = judge(&trust);
    if list == LIST {
        taken.expect("the good list");
        judged.expect_err("revoked");
    } else if taken.is_ok() {
        let names_ca = list.windows(NAME.len()).any(|bytes| bytes == NAME);
        assert!(
            judged.is_err() || !names_ca,
            "a changed list lets in: {list:02x?}"
        );
        let is_same = signed(&list) == signed(LIST);
        assert!(
            any_signer || is_same || !names_ca,
            "a list that no CA signed is taken: {list:02x?}"
        );
    }
}
