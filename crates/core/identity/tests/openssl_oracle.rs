//! OpenSSL, as somebody else's opinion. Where the command is absent the test says so and is skipped.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{HOUR, Mesh, NOW, secs, svid};
use x0t_identity::{Authority, AuthorityConfig, AwsLcKeys, KeySource, signing_request};
use x0t_model::Entropy;

#[test]
fn openssl_accepts_authority_and_leaf_and_reads_them_as_they_are_meant() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: the openssl command is not there");
        return;
    }
    let mut entropy = Entropy::new([6; 32]);
    let node = support::id("spiffe://mesh.test/node/alpha");
    let mut p256 = Authority::create(&node, AuthorityConfig::default(), &mut AwsLcKeys, &mut entropy, NOW).unwrap();
    let key = AwsLcKeys.generate().unwrap();
    let csr = signing_request(&key).unwrap();
    let issued = p256.renew(&node, &csr, &mut entropy, NOW).unwrap();
    examine(p256.bundle().authorities()[0].as_ref(), &svid(issued, key).to_stored(), &csr);
    let mut mesh = Mesh::new();
    let alpha = mesh.own_svid(NOW);
    let csr = signing_request(alpha.key()).unwrap();
    examine(mesh.authority.bundle().authorities()[0].as_ref(), &alpha.to_stored(), &csr);
}

/// `leaf` is a stored SVID: key and certificate in PEM.
fn examine(authority: &[u8], leaf: &[u8], csr: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.der"), authority).unwrap();
    std::fs::write(path("leaf.pem"), leaf).unwrap();
    std::fs::write(path("request.der"), csr).unwrap();
    let run = |arguments: &str| openssl(folder.path(), arguments);
    run("x509 -inform DER -in ca.der -out ca.pem").unwrap();
    let at = |seconds: u64, purpose: &str| {
        format!("verify -x509_strict -purpose {purpose} -attime {seconds} -CAfile ca.pem leaf.pem")
    };
    for purpose in ["sslserver", "sslclient"] {
        assert_eq!(run(&at(NOW.as_secs(), purpose)), Ok("leaf.pem: OK\n".to_owned()));
    }
    assert!(run(&at((NOW + HOUR + secs(1)).as_secs(), "any")).unwrap_err().contains("certificate has expired"));
    assert!(run(&at((NOW - secs(61)).as_secs(), "any")).unwrap_err().contains("not yet valid"));
    let text = run("x509 -in leaf.pem -noout -text").unwrap();
    for expected in [
        "Subject: \n",
        "X509v3 Subject Alternative Name: critical\n                URI:spiffe://mesh.test/node/alpha\n",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Authority Key Identifier",
        "Not Before: Nov 21 11:59:00 2026 GMT",
        "Not After : Nov 21 13:00:00 2026 GMT",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
    let text = run("x509 -in ca.pem -noout -text").unwrap();
    for expected in [
        "CA:TRUE, pathlen:1",
        "Certificate Sign, CRL Sign",
        "URI:spiffe://mesh.test\n",
        "X509v3 Subject Key Identifier",
        "serialNumber",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
    assert!(run("req -inform DER -in request.der -verify -noout").is_ok());
    let public = run("x509 -in leaf.pem -noout -pubkey").unwrap();
    assert_eq!(run("pkey -in leaf.pem -pubout"), Ok(public), "the key belongs to the certificate");
}

fn openssl(folder: &Path, arguments: &str) -> Result<String, String> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &errors) }
}
