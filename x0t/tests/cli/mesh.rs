//! Real daemons on loopback: a mesh is made, used, looked at, broken and mended with the commands that people have.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::host::{Host, ended, eventually};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn two_hosts_make_a_mesh_and_the_commands_show_it() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    let up = alpha.up("mesh.test").ok().json();
    assert_eq!(up["status"]["spiffe_id"], "spiffe://mesh.test/node/alpha");
    assert_eq!((&up["created"], &up["status"]["ready"]), (&true.into(), &true.into()));
    let token = up["token"]["token"].as_str().unwrap();
    assert_eq!(up["page"], serde_json::Value::Null);
    assert_eq!(up["token"]["join"], format!("x0t join {token}"));

    let joined = beta.join(token, "").ok().json();
    assert_eq!(joined["status"]["spiffe_id"], "spiffe://mesh.test/node/beta");
    assert_eq!(joined["status"]["is_authority"], false);

    assert!(beta.x0t("status").ok().stdout.starts_with("beta  ready\n"));
    eventually("alpha sees beta", || {
        alpha.x0t("peers").stdout.lines().any(|l| l.starts_with("beta") && l.contains("up"))
    });
    let peers = alpha.x0t("peers --json").ok().json();
    assert_eq!((peers.as_array().unwrap().len(), &peers[0]["spiffe_id"]), (1, &"spiffe://mesh.test/node/beta".into()));
    eventually("alpha has a route to beta", || {
        alpha.x0t("routes").stdout.lines().any(|l| l.starts_with("beta  direct"))
    });
    assert!(alpha.x0t("sessions").ok().stdout.contains("X25519MLKEM768"));

    let ping = beta.x0t("ping alpha -c 3 -i 0.01 --json").ok().json_lines();
    assert_eq!(ping.len(), 4);
    assert_eq!((&ping[3]["type"], &ping[3]["sent"], &ping[3]["received"]), (&"summary".into(), &3.into(), &3.into()));
    let text = beta.x0t("ping alpha -c 1").ok().stdout;
    assert!(text.starts_with("56 bytes from alpha: seq=1 time="), "{text}");
    assert!(text.contains("1 sent, 1 received, 0.0% lost"), "{text}");
    let trace = beta.x0t("trace alpha --json").ok().json();
    assert_eq!((trace["hops"].as_array().unwrap().len(), &trace["complete"]), (1, &true.into()));

    assert!(beta.x0t("up").ok().stdout.starts_with("beta  ready\n"), "up is happy with a node that runs already");
    beta.x0t("up --http 127.0.0.1:1").code(1).says(&["runs already", "x0t down"]);
    assert_eq!(beta.x0t("down").ok().stdout, "stopped\n");
    assert_eq!(beta.x0t("down").ok().stdout, "not running\n");
    beta.x0t("status").code(4).says(&["is not running", "next: ", "x0t up"]);
    eventually("alpha noticed that beta left", || !alpha.x0t("peers").stdout.contains(" up "));

    let again = beta.x0t("up --json").ok().json();
    assert_eq!((&again["created"], &again["status"]["ready"]), (&false.into(), &true.into()));
    beta.x0t("ping alpha -c 1").ok();
}

#[test]
fn a_host_joins_through_a_member_and_is_reached_across_it() {
    let (alpha, beta, gamma) = (Host::new("alpha"), Host::new("beta"), Host::new("gamma"));
    alpha.up("mesh.test").ok();
    beta.join(&alpha.token(""), "").ok();
    gamma.join(&alpha.token(""), &format!("--via {}", beta.address)).ok();
    eventually("gamma knows alpha", || gamma.x0t("routes").stdout.lines().any(|l| l.starts_with("alpha  beta")));
    let ping = gamma.x0t("ping alpha -c 2 -i 0.01 -W 5 --json").ok().json_lines();
    assert_eq!(ping.last().unwrap()["received"], 2);
    let trace = gamma.x0t("trace alpha").ok().stdout;
    let names: Vec<&str> = trace.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["beta", "alpha"], "{trace}");

    gamma.x0t(&format!("peer add {}", alpha.address)).ok();
    eventually("gamma is a neighbour of alpha", || {
        gamma.x0t("peers").stdout.lines().any(|l| l.starts_with("alpha") && l.contains("up"))
    });
    gamma.x0t(&format!("peer remove {}", alpha.address)).ok();
    eventually("it is no neighbour any more", || {
        !gamma.x0t("peers").stdout.lines().any(|l| l.starts_with("alpha") && l.contains(" up "))
    });
}

#[test]
fn a_token_for_a_name_gives_that_name_and_a_taken_name_is_refused() {
    let (alpha, beta, gamma) = (Host::new("alpha"), Host::new("beta"), Host::new("gamma"));
    alpha.up("mesh.test").ok();
    let token = alpha.token("--name edge-7");
    let joined = beta.x0t(&format!("join {token} --json {}", beta.settings())).ok().json();
    assert_eq!(joined["status"]["name"], "edge-7");
    let token = alpha.token("");
    let taken = gamma.x0t(&format!("join {token} --name edge-7 {}", gamma.settings()));
    taken.code(6).says(&["`edge-7` is taken", "next: "]);
    gamma.join(&token, "").ok();
}

#[test]
fn a_node_in_the_foreground_says_goodbye_when_told_to_stop() {
    let alpha = Host::new("alpha");
    let line = format!("up --foreground --name alpha --trust-domain mesh.test {}", alpha.settings());
    let mut child = alpha.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "created mesh mesh.test\n");
    eventually("it answers", || alpha.x0t("status").code == 0);
    alpha.x0t("up").ok();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("  x0t join x0t1."), "{rest}");
    assert_eq!(ended(child), 0);
    alpha.x0t("status").code(4);
}

#[test]
fn neither_tokens_nor_keys_are_logged() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    let up = alpha.x0t(&format!("-vv up --json --name alpha --trust-domain mesh.test {}", alpha.settings())).ok();
    let token = up.json()["token"]["token"].as_str().unwrap().to_owned();
    let joined = beta.x0t(&format!("-vv join {token} {}", beta.settings())).ok();
    let secret = &token[5..40];
    for text in [&up.stderr, &joined.stdout, &joined.stderr, &alpha.log(), &beta.log()] {
        assert!(!text.contains(secret) && !text.contains("PRIVATE KEY"), "{text}");
    }
    assert!(alpha.log().contains("DEBUG"), "the flag reaches the daemon: {}", alpha.log());
}

#[test]
fn events_tell_what_happens_as_it_happens() {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    alpha.up("mesh.test").ok();
    let token = alpha.token("");
    let mut child = alpha.command("events --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(told.starts_with("waiting"), "{told}");
    beta.join(&token, "").ok();
    beta.x0t("down").ok();
    alpha.x0t("down").ok();
    let output = child.wait_with_output().unwrap();
    let events: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let beta = "spiffe://mesh.test/node/beta";
    assert!(events.iter().any(|event| event["event"] == "node_joined" && event["spiffe_id"] == beta), "{events:?}");
    assert!(events.iter().any(|event| event["event"] == "link_up" && event["spiffe_id"] == beta), "{events:?}");
    assert!(events.iter().any(|event| event["event"] == "link_down" && event["reason"] == "goodbye"), "{events:?}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn doctor_finds_a_running_node_well() {
    let alpha = Host::new("alpha");
    alpha.up("mesh.test").ok();
    let findings = alpha.x0t("doctor --json").ok().json();
    let verdict = |check: &str| {
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["check"] == check)
            .map(|finding| finding["verdict"].clone())
    };
    for check in ["state directory", "daemon", "links", "identity", "clock", "UDP port", "TUN device"] {
        assert_eq!(verdict(check), Some("ok".into()), "{check}: {findings}");
    }
    alpha.x0t("down").ok();
    let findings = alpha.x0t("doctor --json").code(3).json();
    assert!(
        findings.as_array().unwrap().iter().any(|f| f["check"] == "daemon" && f["next"] == "start it with `x0t up`")
    );
}
