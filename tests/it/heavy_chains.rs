//! A client chooses the certificates that it sends, and the gate must read them before it knows the client.
//! If a chain could cost without bound, one handshake would block a thread that serves other clients.

use fakes::pki::Pair;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::world::{PKI, Status as _, World};

/// `count` certificates with the same subject and issuer, each with a key of its own and `extensions` small
/// extensions. Of all ways to order them, none leads to a CA.
fn of_one_name(name: &str, count: usize, extensions: u64) -> Pair {
    let params = |is_ca| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.custom_extensions = (0..extensions)
            .map(|number| CustomExtension::from_oid_content(&[1, 3, 6, 1, number], vec![5, 0]))
            .collect();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        params
    };
    let keys: Vec<KeyPair> = (0..count).map(|_| KeyPair::generate().unwrap()).collect();
    let chain = keys.iter().enumerate().map(|(at, key)| {
        let above = params(true);
        let issuer = Issuer::from_params(&above, &keys[(at + 1) % count]);
        params(at > 0).signed_by(key, &issuer).unwrap().der().clone()
    });
    Pair {
        name: name.to_owned(),
        chain: chain.collect(),
        key: PrivatePkcs8KeyDer::from(keys[0].serialize_der()).into(),
    }
}

/// Before the bounds, one such judgement took seconds of a thread that serves other clients.
///
/// Seen red: with no bound on the intermediates of one subject and none on those of a path, together: the
/// handshake did not end. Without one bound the others suffice here; `tls::tests::work` sees each by itself.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_certificates_of_one_name_are_refused_and_another_client_goes_on() {
    for required in [false, true] {
        let mut builder = World::builder();
        if required {
            builder = builder.set("authentication.x509.clientCertificates", "Require");
        }
        let world = builder.start().await;
        let mut bob = world.client("bob").connect().await.unwrap();
        assert_eq!(bob.status("/pods").await, 200);
        // Once with a name of no CA, and once with the name of the CA in the bundle.
        let ca = PKI.ca.certificate();
        let (_, ca) = x509_parser::parse_x509_certificate(ca).unwrap();
        let ca = ca.subject().iter_common_name().next().unwrap().as_str().unwrap();
        for (name, extensions) in [("X", 250), ("X", 0), (ca, 40), (ca, 0)] {
            let junk = world.client_with(&of_one_name(name, 16, extensions));
            match junk.get("/pods").await {
                Ok(answer) => assert_eq!((answer.status().as_u16(), required), (401, false)),
                Err(_) => assert!(required, "{name}: no handshake"),
            }
            assert_eq!(bob.status("/pods").await, 200);
        }
        if !required {
            let refused = world.metric("authentication_failures_total", &[("reason", "too_long")]);
            assert_eq!(refused, 4.0);
        }
        world.stop().await;
    }
}
