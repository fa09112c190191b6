//! What goes wrong says what went wrong and what to do, and ends with the exit code that scripts rely on.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::host::{Host, edit, eventually};

#[test]
fn a_token_that_was_mistyped_used_or_is_too_old_admits_nobody() {
    let (alpha, beta, gamma) = (Host::new("alpha"), Host::new("beta"), Host::new("gamma"));
    alpha.up("mesh.test").ok();
    let token = alpha.token("");
    let mistyped = format!("{}{}{}", &token[..20], if &token[20..21] == "A" { "B" } else { "A" }, &token[21..]);
    gamma.join(&mistyped, "").code(2).says(&["cannot be read", "mistyped"]);
    gamma.join("hello", "").code(2).says(&["join tokens begin with `x0t1.`"]);

    beta.join(&token, "").ok();
    gamma.join(&token, "").code(6).says(&["was used", "x0t token create"]);

    let short = alpha.token("--ttl 1s");
    // A name that is taken is refused without using the token up, until the token is too old.
    let mut refused = None;
    eventually("the token expired", || {
        let ended = gamma.x0t(&format!("join {short} --name beta {}", gamma.settings()));
        let is_so = ended.stderr.contains("expired");
        refused = Some(ended);
        is_so
    });
    refused.unwrap().code(6).says(&["x0t token create"]);
}

#[test]
fn a_token_of_another_mesh_admits_nobody() {
    let (alpha, omega, gamma) = (Host::new("alpha"), Host::new("omega"), Host::new("gamma"));
    alpha.up("mesh.test").ok();
    omega.up("other.test").ok();
    let token = omega.token("");
    gamma.join(&token, &format!("--via {}", alpha.address)).code(6).says(&["is not the authority of this token"]);
    gamma.join(&token, "").ok();
}

#[test]
fn a_directory_holds_one_node() {
    let (alpha, omega) = (Host::new("alpha"), Host::new("omega"));
    alpha.up("mesh.test").ok();
    omega.up("other.test").ok();
    let (own, other) = (alpha.token(""), omega.token(""));
    alpha.join(&other, "").code(1).says(&["belongs to a node of mesh mesh.test, not of other.test", "--state-dir"]);
    alpha.join(&own, "").code(1).says(&["already holds node alpha of mesh mesh.test", "x0t up"]);
    alpha.up("third.test").code(1).says(&["mesh.test", "third.test", "--state-dir"]);
    alpha.x0t("up --name beta").code(1).says(&["decided when it is created"]);
    alpha.x0t("run").code(1).says(&["in use by process", "x0t down"]);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let alpha = Host::new("alpha");
    let holder = UdpSocket::bind(alpha.address).unwrap();
    let port = alpha.address.port().to_string();
    alpha.up("mesh.test").code(1).says(&[&port, "in use", "--listen"]);
    drop(holder);
    alpha.up("mesh.test").ok();
    alpha.x0t("down").ok();

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    alpha.x0t(&format!("up --http {address}")).code(1).says(&[&address.port().to_string(), "in use", "--http"]);
    alpha.x0t("up --http off").ok();

    let beta = Host::new("beta");
    let (token, holder) = (alpha.token(""), UdpSocket::bind(beta.address).unwrap());
    beta.join(&token, "").code(1).says(&["in use", "--listen"]);
    drop(holder);
    beta.join(&token, "").ok();
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let alpha = Host::new("alpha");
    alpha.up("mesh.test").ok();
    alpha.x0t("down").ok();
    let mesh = alpha.state_dir().join("mesh.json");
    edit(&mesh, "\"version\": 1", "\"version\": 99");
    let before = std::fs::read(&mesh).unwrap();
    for line in ["up", "run"] {
        alpha.x0t(line).code(1).says(&["newer x0t", "layout 99", "upgrade"]);
    }
    assert_eq!(std::fs::read(&mesh).unwrap(), before);
    edit(&mesh, "\"version\": 99", "\"version\": 1");
    alpha.x0t("up").ok();
}

#[test]
fn keys_that_others_could_read_are_not_used() {
    let alpha = Host::new("alpha");
    alpha.up("mesh.test").ok();
    alpha.x0t("down").ok();
    std::fs::set_permissions(alpha.state_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    alpha.x0t("up").code(6).says(&["chmod go="]);
    std::fs::set_permissions(alpha.state_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    alpha.x0t("up").ok();
}

#[test]
fn without_a_node_every_question_says_how_to_get_one() {
    let alpha = Host::new("alpha");
    for line in
        ["status", "peers", "routes", "sessions", "ping beta -c 1", "trace beta", "token create", "peer add 192.0.2.1"]
    {
        alpha.x0t(line).code(4).says(&["holds no node", "x0t up", "x0t join"]);
    }
    alpha.x0t("run").code(1).says(&["holds no node", "x0t up"]);
    assert_eq!(alpha.x0t("down").ok().stdout, "not running\n");
    assert!(!alpha.state_dir().exists(), "looking changes nothing");
    let report = alpha.x0t("status --json").code(4).stderr;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["code"], report["next"].is_string()), (&4.into(), true));
}

#[test]
fn a_node_that_nobody_has_heard_of_does_not_answer() {
    let alpha = Host::new("alpha");
    alpha.up("mesh.test").ok();
    let lost = alpha.x0t("ping nobody -c 1 -W 0.2 --json").code(5).json_lines();
    assert_eq!((&lost[0]["type"], &lost[1]["received"]), (&"lost".into(), &0.into()));
    assert!(alpha.x0t("ping alpah -c 1 -W 0.2").code(5).stderr.contains("did you mean `alpha`?"));
    alpha.x0t("ping spiffe://elsewhere.test/node/a -c 1").code(2).says(&["no node", "x0t routes"]);
    alpha.x0t("trace nobody -W 0.2").code(5).says(&["does not answer"]);
    let refused = alpha.x0t("token create --name alpha");
    refused.code(6).says(&["no token was created"]);
}

#[test]
fn a_member_cannot_create_tokens() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    alpha.up("mesh.test").ok();
    beta.join(&alpha.token(""), "").ok();
    beta.x0t("token create").code(6).says(&["no token was created", "authority"]);
}

#[test]
fn what_needs_no_node_works_without_one() {
    let alpha = Host::new("alpha");
    assert_eq!(alpha.x0t("version").ok().stdout, format!("x0t {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(alpha.x0t(&format!("completion {shell}")).ok().stdout.contains("doctor"), "{shell}");
    }
    let findings = alpha.x0t("doctor --json").json();
    let found = findings.as_array().unwrap();
    assert!(found.iter().any(|finding| finding["check"] == "state directory" && finding["verdict"] == "warning"));
    assert!(found.iter().all(|finding| finding["verdict"] == "ok" || finding["next"].is_string()));
    assert_eq!(alpha.x0t("frobnicate").code, 2);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let alpha = Host::new("alpha");
    let mut child = alpha.command("completion bash").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}
