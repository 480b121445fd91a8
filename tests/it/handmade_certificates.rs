//! Many labs make certificates with a line of openssl, and get X.509 v1 or CA:TRUE without asking for it.
//! With certificates of our own PKI alone, the tests would not notice that the gate refuses those.

use std::path::Path;
use std::process::{Command, Stdio};

use fakes::pki::Pair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use crate::skipped::skip;
use crate::world::{Status as _, World, WorldBuilder};

/// A CA; alice by `x509 -req` (v1), bob by `req -x509 -CA` (CA:TRUE), carol with extensions, dora with a
/// short key; and a list with carol on it.
const SCRIPT: &str = r#"
set -eu
cat >ca.cnf <<'END'
[ca]
default_ca = lab
[lab]
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 3
END
touch index.txt
echo 01 >crlnumber
echo 'extendedKeyUsage = clientAuth' >client.ext
openssl req -x509 -newkey rsa:2048 -nodes -keyout lab-ca.key -out lab-ca.crt -subj /CN=lab-ca -days 30
for name in alice carol dora; do
    openssl genrsa -out $name.key $([ $name = dora ] && echo 1024 || echo 2048)
    openssl req -new -key $name.key -subj /O=admins/CN=$name -out $name.csr
    extensions=$([ $name = alice ] || echo -extfile client.ext)
    openssl x509 -req -in $name.csr -CA lab-ca.crt -CAkey lab-ca.key -days 5 $extensions -out $name.crt
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -CA lab-ca.crt -CAkey lab-ca.key \
    -subj /O=admins/CN=bob -days 5 -keyout bob.key -out bob.crt
openssl ca -config ca.cnf -cert lab-ca.crt -keyfile lab-ca.key -gencrl -out lab-ca.crl
openssl ca -config ca.cnf -cert lab-ca.crt -keyfile lab-ca.key -revoke carol.crt
openssl ca -config ca.cnf -cert lab-ca.crt -keyfile lab-ca.key -gencrl -out revoked.crl
"#;

/// A world that trusts the handmade CA.
fn lab(legacy_v1: bool) -> WorldBuilder {
    World::builder().configure(move |configuration, folder| {
        let made = Command::new("sh")
            .args(["-c", SCRIPT])
            .current_dir(folder)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let x509 = &mut configuration["authentication"]["x509"];
        x509["clientCAFile"] = json!("lab-ca.crt");
        x509["crlFiles"] = json!(["lab-ca.crl"]);
        x509["legacyV1Certificates"] = json!(legacy_v1);
    })
}

fn pair(folder: &Path, name: &str) -> Pair {
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    Pair {
        name: name.to_owned(),
        chain: vec![CertificateDer::from_pem_file(path("crt")).unwrap()],
        key: PrivateKeyDer::from_pem_file(path("key")).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_made_by_openssl_with_its_defaults_authenticate() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl cannot be run");
    }
    for legacy_v1 in [false, true] {
        let world = lab(legacy_v1).start().await;
        let status = async |name| {
            let client = world.client_with(&pair(&world.file(""), name));
            client.status("/healthz").await
        };
        assert_eq!(status("alice").await, if legacy_v1 { 200 } else { 401 });
        assert_eq!((status("bob").await, status("carol").await), (200, 200));
        let v1_refused = world.metric("authentication_failures_total", &[("reason", "old_version")]);
        assert_eq!(v1_refused, if legacy_v1 { 0.0 } else { 1.0 });
        if !legacy_v1 {
            let said = world.audit_events(3).await[0]["annotations"]["kubelet-gate.dev/error"].to_string();
            assert!(
                said.contains("authentication.x509.legacyV1Certificates"),
                "what to do: {said}"
            );
        }

        std::fs::copy(world.file("revoked.crl"), world.file("lab-ca.crl")).unwrap();
        world.gate.reload();
        assert_eq!((status("bob").await, status("carol").await), (200, 401));
        world.stop().await;
    }
}

/// The kubelet would accept it; here no signature of so short a key counts, not even in the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_of_1024_bits_is_refused() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl cannot be run");
    }
    let world = lab(false).start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        for (name, alert) in [("carol", false), ("dora", true)] {
            let address = world.address.to_string();
            let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
            let mut client = tokio::process::Command::new("openssl")
                .args([
                    "s_client",
                    "-connect",
                    &address,
                    "-cert",
                    &certificate,
                    "-key",
                    &key,
                ])
                .args(["-cipher", "DEFAULT@SECLEVEL=0", "-ign_eof", version])
                .current_dir(world.file(""))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let request = b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
            let mut stdin = client.stdin.take().unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, request).await;
            drop(stdin);
            let output = client.wait_with_output().await.unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(said.contains("HTTP/1.1 200 OK"), !alert, "{version}: {said}");
            assert_eq!(said.contains("alert"), alert, "{version}: {said}");
        }
    }
    world.stop().await;
}
