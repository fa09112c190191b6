//! Identities of nodes and workloads on real daemons: replaced, taken back, counted, and signed by a CA that OpenSSL has made.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::host::{Host, eventually};

/// Gives an identity to the processes of whoever runs this test.
fn give_web(host: &Host) -> String {
    let uid = rustix::process::getuid().as_raw();
    let entry = host.x0t(&format!("entry create /web --selector unix:uid:{uid} --json")).ok().json();
    eventually("there is an SVID", || host.x0t("svid show").code == 0);
    entry["id"].as_str().unwrap().to_owned()
}

#[test]
fn after_a_taint_nodes_and_workloads_have_new_svids_and_nobody_has_to_be_forced() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    alpha.up("mesh.test").ok();
    beta.join(&alpha.token(""), "").ok();
    give_web(&alpha);
    let status = alpha.x0t("authority status --json").ok().json();
    let active = |status: &serde_json::Value| {
        let all = status["authorities"].as_array().unwrap();
        let active = all.iter().find(|one| one["kind"] == "x509" && one["state"] == "active").unwrap();
        active["key_id"].as_str().unwrap().to_owned()
    };
    let leaked = active(&status);
    alpha.x0t("authority prepare").ok();
    eventually("every node has heard of the successor", || alpha.x0t("authority activate").code == 0);
    alpha.x0t(&format!("authority taint {leaked}")).ok();
    alpha.x0t("ping beta -c 1 -W 5").ok();
    eventually("nobody shows an SVID of the tainted authority", || {
        alpha.x0t(&format!("authority revoke {leaked}")).code == 0
    });
    assert_ne!(active(&alpha.x0t("authority status --json").ok().json()), leaked);
    assert_eq!(beta.x0t("status --json").ok().json()["svid_distrust"], serde_json::Value::Null);
    alpha.x0t("ping beta -c 1 -W 5").ok();
}

#[test]
fn what_is_taken_back_is_on_the_list_and_what_is_deleted_is_gone() {
    let alpha = Host::new("alpha");
    alpha.up("mesh.test").ok();
    let entry = give_web(&alpha);
    let revoked = alpha.x0t("svid revoke spiffe://mesh.test/web --json").ok().json();
    // The authority reads its state from a disk, so it cannot know what an earlier run has issued.
    assert!(revoked["svids"] == 1 && revoked["complete_from"].is_u64(), "{revoked}");
    alpha.x0t("svid show").ok();
    let deleted = alpha.x0t(&format!("entry delete {entry} --revoke --json")).ok().json();
    assert_eq!(deleted["deleted"], entry.as_str());
    assert!(deleted["revoked"]["svids"].as_u64().unwrap() >= 1, "{deleted}");
    eventually("the identity is gone", || alpha.x0t("svid show").code == 6);
    alpha.x0t(&format!("entry delete {entry} --revoke")).code(2).says(&["there is no entry"]);
    // Nodes are members under their own SVIDs, which can be taken back as well: theirs are replaced.
    alpha.x0t("svid revoke spiffe://mesh.test/node/alpha").ok();
    eventually("the node has another", || {
        let status = alpha.x0t("status --json").ok().json();
        status["svid_state"] == "valid" && status["svid_distrust"].is_null()
    });
}

#[test]
fn the_metrics_of_identity_are_scraped_and_named_as_prometheus_wants_them() {
    let alpha = Host::new("alpha");
    let page = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let settings = format!("--listen {} --tun off --http {page}", alpha.address);
    alpha.x0t(&format!("up --json --name alpha --trust-domain mesh.test {settings}")).ok();
    give_web(&alpha);
    let status = alpha.x0t("status --json").ok().json();
    assert_eq!((&status["workloads"]["serving"], &status["workloads"]["svids"]), (&true.into(), &1.into()));
    let text = alpha.x0t("status").ok().stdout;
    assert!(text.contains("workloads  served at ") && text.contains("1 entry, 1 SVID"), "{text}");

    let metrics = scrape(page);
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("x0t_agent_svids"), 1.0);
    assert_eq!(value("x0t_agent_svids_adopted_total"), 1.0);
    assert_eq!(value("x0t_authority_entries"), 1.0);
    assert_eq!(value(r#"x0t_authority_svids_issued_total{profile="x509",subject="workload"}"#), 1.0);
    assert!(value("x0t_workload_api_calls_total") >= 1.0);
    assert_eq!(value("x0t_workload_api_users_limited_total"), 0.0);
    assert_eq!(value("x0t_jwt_cache_misses_total"), 0.0);
    assert_eq!(value("x0t_svid_renewals_total"), 0.0);
    assert!((3000.0..=3600.0).contains(&value("x0t_svid_remaining_seconds")));
    for kind in ["node", "ca", "jwt_key"] {
        let ends = value(&format!(r#"x0t_certificate_not_after_timestamp_seconds{{kind="{kind}"}}"#));
        assert!(ends > value("x0t_svid_expiry_timestamp_seconds") - 3600.0, "{kind}");
    }
    lint(&metrics);
    promtool(&metrics);
}

fn scrape(page: SocketAddr) -> String {
    let mut stream = TcpStream::connect(page).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// The rules of `promtool check metrics`: every family has a help, counters and only they end with `_total`, units are base units,
/// and no name says its type or is written in camel case.
fn lint(metrics: &str) {
    let help: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(help.contains(&name), "{name} has no help");
        // OpenMetrics names a family without the suffix that its samples have.
        assert!(!name.ends_with("_total"), "{name}");
        let words: Vec<&str> = name.split('_').collect();
        for word in
            ["counter", "gauge", "histogram", "summary", "ms", "us", "ns", "milliseconds", "minutes", "hours", "kb"]
        {
            assert!(!words.contains(&word), "{name} says `{word}`");
        }
        assert!(!["_count", "_sum", "_bucket", "_info"].iter().any(|suffix| name.ends_with(suffix)), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}: {kind}");
    }
}

/// Prometheus's own word, where it is installed.
fn promtool(metrics: &str) {
    // It reads the older text format: counters under the name of their samples, and no info.
    let mut text = String::new();
    let counters: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in metrics.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF") {
        let mut words: Vec<&str> = line.splitn(4, ' ').collect();
        let total;
        if words[0] == "#" && counters.contains(&words[2]) {
            total = format!("{}_total", words[2]);
            words[2] = &total;
        }
        let line = words
            .join(" ")
            .replace("x0t_build info", "x0t_build_info gauge")
            .replace("HELP x0t_build ", "HELP x0t_build_info ");
        text += &format!("{line}\n");
    }
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs OpenSSL in `dir`; false where it is not installed.
fn openssl(dir: &Path, line: &str) -> bool {
    let output = Command::new("openssl").args(line.split_whitespace()).current_dir(dir).output();
    let Ok(output) = output else { return false };
    assert!(output.status.success(), "openssl {line}\n{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// A root and an intermediate for `mesh.test` as a company's PKI would make them: root.pem, ca.pem, ca.key. False without OpenSSL.
fn make_pki(dir: &Path, ca_extensions: &str) -> bool {
    let root = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
    std::fs::write(dir.join("root.ext"), root).unwrap();
    std::fs::write(dir.join("ca.ext"), ca_extensions).unwrap();
    openssl(dir, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key")
        && openssl(dir, "req -new -key root.key -subj /O=Example/CN=Root -out root.csr")
        && openssl(dir, "x509 -req -in root.csr -signkey root.key -days 3650 -extfile root.ext -out root.pem")
        && openssl(dir, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key")
        && openssl(dir, "req -new -key ca.key -subj /O=Example/CN=Mesh -out ca.csr")
        && openssl(
            dir,
            "x509 -req -in ca.csr -CA root.pem -CAkey root.key -CAcreateserial -days 90 -extfile ca.ext -out ca.pem",
        )
}

const CA_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
    subjectAltName=URI:spiffe://mesh.test\n";

#[test]
fn a_mesh_below_a_company_s_root_shows_the_intermediate_and_trusts_the_root_alone() {
    let pki = tempfile::tempdir().unwrap();
    if !make_pki(pki.path(), CA_EXTENSIONS) {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    let file = |name: &str| pki.path().join(name).display().to_string();
    let upstream = format!(
        "--upstream-cert {} --upstream-key {} --upstream-roots {}",
        file("ca.pem"),
        file("ca.key"),
        file("root.pem")
    );
    let settings = alpha.settings();
    alpha.x0t(&format!("up --json --name alpha --trust-domain mesh.test {settings} {upstream}")).ok();
    beta.join(&alpha.token(""), "").ok();
    beta.x0t("ping alpha -c 1 -W 5").ok();
    give_web(&alpha);
    let shown = alpha.x0t("svid show --json").ok().json();
    assert_eq!(shown["svids"][0]["certificates"], 2, "the leaf and the intermediate");
    alpha.x0t(&format!("svid write --once --dir {}", file("svid"))).ok();
    let trusted = std::fs::read_to_string(pki.path().join("svid/bundle.pem")).unwrap();
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
    assert_eq!(body(&trusted), body(&std::fs::read_to_string(pki.path().join("root.pem")).unwrap()));
    // OpenSSL believes it with nothing but the company's root.
    assert!(openssl(pki.path(), "verify -CAfile root.pem -untrusted svid/svid.pem svid/svid.pem"));
    // A running mesh takes the next one, which has to be another key.
    alpha.x0t(&format!("up {upstream}")).code(1).says(&["already", "x0t authority import"]);
    let import =
        format!("authority import --cert {} --key {} --roots {}", file("ca.pem"), file("ca.key"), file("root.pem"));
    alpha.x0t(&import).code(6).says(&["has been an authority before"]);
    let next = tempfile::tempdir().unwrap();
    assert!(make_pki(next.path(), CA_EXTENSIONS));
    let file = |name: &str| next.path().join(name).display().to_string();
    let chain = std::fs::read_to_string(next.path().join("ca.pem")).unwrap()
        + &std::fs::read_to_string(next.path().join("root.pem")).unwrap();
    std::fs::write(next.path().join("both.pem"), chain).unwrap();
    alpha.x0t(&format!("authority import --cert {} --key {}", file("both.pem"), file("ca.key"))).ok();
    eventually("every node has heard of it", || alpha.x0t("authority activate").code == 0);
    beta.x0t("ping alpha -c 1 -W 5").ok();
}

#[test]
fn an_intermediate_that_cannot_be_used_is_refused_with_what_is_wrong_and_makes_no_mesh() {
    let cases = [
        (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n",
            "may not sign for this trust domain",
        ),
        (
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectAltName=URI:spiffe://other.test\n",
            "may not sign for this trust domain",
        ),
        (
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
             nameConstraints=critical,permitted;URI:.example.org\n",
            "name constraints",
        ),
    ];
    for (extensions, why) in cases {
        let pki = tempfile::tempdir().unwrap();
        if !make_pki(pki.path(), extensions) {
            eprintln!("skipped: openssl is not installed");
            return;
        }
        refused(pki.path(), "ca.pem", "ca.key", why);
    }
    let pki = tempfile::tempdir().unwrap();
    assert!(make_pki(pki.path(), CA_EXTENSIONS));
    refused(pki.path(), "ca.pem", "root.key", "the key is not the key of the first certificate");
    refused(pki.path(), "ca.pem", "ca.csr", "openssl pkcs8 -topk8");
    refused(pki.path(), "root.csr", "ca.key", "holds no certificate");
    refused(pki.path(), "nothing.pem", "ca.key", "cannot read");
    // A root that lets no CA stand below it.
    let root = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";
    std::fs::write(pki.path().join("root.ext"), root).unwrap();
    openssl(pki.path(), "x509 -req -in root.csr -signkey root.key -days 3650 -extfile root.ext -out root.pem");
    refused(pki.path(), "ca.pem", "ca.key", "the root allows 0 CA certificates below it");
    // One whose time is over.
    assert!(make_pki(pki.path(), CA_EXTENSIONS));
    let dates = "x509 -req -in ca.csr -CA root.pem -CAkey root.key -CAcreateserial -days 0 -extfile ca.ext -out ca.pem";
    openssl(pki.path(), dates);
    eventually("the certificate has ended", || {
        let mut check = Command::new("openssl");
        check.args(["x509", "-checkend", "0", "-noout", "-in", "ca.pem"]).current_dir(pki.path());
        !check.output().unwrap().status.success()
    });
    refused(pki.path(), "ca.pem", "ca.key", "ended at");
}

fn refused(dir: &Path, cert: &str, key: &str, why: &str) {
    let host = Host::new("alpha");
    let file = |name: &str| dir.join(name).display().to_string();
    let upstream =
        format!("--upstream-cert {} --upstream-key {} --upstream-roots {}", file(cert), file(key), file("root.pem"));
    let settings = host.settings();
    let ended = host.x0t(&format!("up --json --name alpha --trust-domain mesh.test {settings} {upstream}"));
    assert!(matches!(ended.code, 2 | 6), "{}\n{}", ended.code, ended.stderr);
    ended.says(&[why]);
    assert!(!host.state_dir().join("authority.json").exists(), "nothing was made of it");
}

#[test]
fn a_node_that_slept_through_the_end_of_its_svid_comes_back_by_itself() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    let settings = alpha.settings();
    alpha.x0t(&format!("up --json --name alpha --trust-domain mesh.test --svid-ttl 10s --recovery 1h {settings}")).ok();
    beta.join(&alpha.token(""), "").ok();
    beta.x0t("ping alpha -c 1 -W 5").ok();
    let pid: i32 = std::fs::read_to_string(beta.state_dir().join("lock")).unwrap().trim().parse().unwrap();
    let signal = |signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    let stored = std::fs::read(beta.state_dir().join("svid.pem")).unwrap();
    let svid = x0t_identity::Svid::from_stored(&stored).unwrap();
    let wall = || clock_gettime(ClockId::Realtime).tv_sec as u64;
    eventually("its SVID has ended", || wall() > svid.not_after().as_secs() + 1);
    signal(Signal::CONT);
    eventually("it is a member again", || beta.x0t("ping alpha -c 1 -W 1").code == 0);
    assert!(beta.log().contains("has come back"), "{}", beta.log());
}

#[test]
fn a_node_whose_name_was_taken_back_gets_nothing_more_and_the_authority_keeps_its_own() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    let settings = alpha.settings();
    let up = format!("up --json --name alpha --trust-domain mesh.test --svid-ttl 10s --recovery 1h {settings}");
    alpha.x0t(&up).ok();
    beta.join(&alpha.token(""), "").ok();
    beta.x0t("ping alpha -c 1 -W 5").ok();
    for (host, name, code, says) in [
        (&alpha, "alpha", 6, "runs the authority"),
        (&alpha, "gamma", 2, "no node is called gamma"),
        (&beta, "beta", 6, "this node is no authority"),
    ] {
        let ended = host.x0t(&format!("node remove {name}"));
        assert_eq!(ended.code, code, "{}", ended.stderr);
        ended.says(&[says]);
    }
    let removed = alpha.x0t("node remove beta --json").ok().json();
    assert_eq!(removed["removed"], "spiffe://mesh.test/node/beta");
    assert!(removed["revoked"]["svids"].as_u64().unwrap() >= 1, "{removed}");
    // It asks at half of the life of its SVID, then comes with the old key: neither helps.
    eventually("it has heard that it has no place", || beta.log().contains("no place in this trust domain"));
    eventually("its SVID has ended", || beta.x0t("status --json").json()["svid_state"] == "expired");
    eventually("its old key does not bring it back", || beta.log().contains("cannot come back by its old key"));
    assert_eq!(alpha.x0t("node remove beta").code, 2, "once is enough");
}
