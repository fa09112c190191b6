//! `x0t cert`: certificates in files, judged without a daemon.

use x0t_identity::{Authority, AuthorityConfig, AwsLcKeys};
use x0t_model::{Entropy, UnixTime};

use crate::host::Host;

const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);

/// A node's chain and the authority that signed it, as DER files of `host`.
fn files(host: &Host) -> (String, String) {
    let (mut keys, mut entropy) = (AwsLcKeys, Entropy::new([5; 32]));
    let node = "spiffe://mesh.test/node/alpha".parse().unwrap();
    let mut authority = Authority::create(&node, AuthorityConfig::default(), &mut keys, &mut entropy, NOW).unwrap();
    let svid = authority.issue_self(&mut keys, &mut entropy, NOW).unwrap();
    std::fs::create_dir_all(host.state_dir()).unwrap();
    let write = |name: &str, der: &[u8]| {
        let path = host.state_dir().join(name);
        std::fs::write(&path, der).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (write("leaf.der", &svid.chain()[0]), write("ca.der", &authority.bundle().authorities()[0]))
}

#[test]
fn a_chain_is_judged_with_every_check_and_an_exit_code() {
    let host = Host::new("alpha");
    let (leaf, ca) = files(&host);
    let at = NOW.as_secs() + 60;
    let verify = |flags: &str| host.x0t(&format!("cert verify {leaf} --anchors {ca} --json {flags}"));
    let verdict = verify(&format!("--at {at}")).ok().json();
    assert_eq!(verdict["valid"], true);
    assert_eq!(verdict["spiffe_id"], "spiffe://mesh.test/node/alpha");
    assert_eq!(verdict["path"], serde_json::json!(["leaf", "anchor 0"]));
    let checks = verdict["checks"].as_array().unwrap();
    assert!(
        checks.len() > 20 && checks.iter().any(|check| check["check"] == "signature" && check["status"] == "passed")
    );

    let refused = verify("--at 4000000000").code(6).json();
    assert_eq!((&refused["valid"], &refused["code"]), (&false.into(), &"time_expired".into()));
    assert!(refused["error"].as_str().unwrap().contains("clock"));
    assert_eq!(verify(&format!("--at {at} --trust-domain other.test")).code(6).json()["code"], "chain_no_anchor");
    let other = verify(&format!("--at {at} --id spiffe://mesh.test/node/beta")).code(6).json();
    assert_eq!(other["code"], "svid_id_mismatch");
    assert_eq!(verify(&format!("--at {at} --name example.com")).code(6).json()["code"], "name_mismatch");
    let text = host.x0t(&format!("cert verify {leaf} --anchors {ca} --at {at}")).ok();
    assert!(text.stdout.contains("VALID spiffe://mesh.test/node/alpha"), "{}", text.stdout);
}

#[test]
fn pins_are_printed_and_asked_for() {
    let host = Host::new("alpha");
    let (leaf, ca) = files(&host);
    let at = NOW.as_secs() + 60;
    let pins = host.x0t(&format!("cert pin {ca} {leaf} --json")).ok().json();
    let (own, key) = (pins[0]["pin"].as_str().unwrap(), pins[1]["pin"].as_str().unwrap());
    let backup = "ab".repeat(32);
    let verify = |flags: &str| host.x0t(&format!("cert verify {leaf} --anchors {ca} --at {at} --json {flags}"));
    verify(&format!("--pin {own} --pin {backup}")).ok();
    let without = verify(&format!("--pin {own} --pin {key}")).code(6).json();
    assert_eq!(without["code"], "pin_no_backup");
    verify(&format!("--pin {own}")).code(2).says(&["backup"]);
    verify("--pin zz").code(2).says(&["x0t cert pin"]);
    let alone = host.x0t(&format!("cert pin {ca}")).ok();
    assert!(alone.stderr.contains("backup"), "{}", alone.stderr);
}

#[test]
fn what_a_certificate_says_is_shown_and_what_is_none_is_refused() {
    let host = Host::new("alpha");
    let (leaf, ca) = files(&host);
    let shown = host.x0t(&format!("cert inspect {leaf} {ca} --json")).ok().json();
    assert_eq!(shown[0]["names"], serde_json::json!(["uri:spiffe://mesh.test/node/alpha"]));
    assert_eq!((&shown[0]["is_ca"], &shown[1]["is_ca"]), (&false.into(), &true.into()));
    let text = host.x0t(&format!("cert inspect {leaf}")).ok().stdout;
    assert!(text.contains("2026-11-21T"), "{text}");
    host.x0t("cert inspect /nowhere.pem").code(2).says(&["/nowhere.pem"]);
    let garbage = host.state_dir().join("garbage.der");
    std::fs::write(&garbage, b"\x30\x03hello").unwrap();
    host.x0t(&format!("cert inspect {}", garbage.display())).code(1).says(&["malformed"]);
    let cut_off = host.state_dir().join("cut-off.pem");
    std::fs::write(&cut_off, "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").unwrap();
    for command in [
        format!("cert inspect {}", cut_off.display()),
        format!("cert verify {} --anchors {ca}", cut_off.display()),
        format!("cert verify {leaf} --anchors {ca} --crl {}", cut_off.display()),
    ] {
        host.x0t(&command).code(2).says(&["cut-off.pem", "PEM"]);
    }
    host.x0t("cert inspect /dev/zero").code(2).says(&["longer than any certificate"]);
}
