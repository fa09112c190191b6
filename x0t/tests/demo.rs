//! `x0t demo`, whole: real processes, real sockets, real faults. Takes some ten seconds; needs no root and no network.
//!
//! How fast it heals is for the benchmark to say (`x0t demo --rounds 10`): a busy machine may be slow here, but all must heal.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use x0t_runtime::clock::Clock;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_x0t"));
    command.args(["demo", "--http", "127.0.0.1:0"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_killed_a_frozen_and_a_cut_part_are_survived_and_everything_heals() {
    let output = demo(&["--rounds", "1", "--json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["healed"], &report["nodes"]), (&Value::Bool(true), &Value::from(6)), "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    let kinds: Vec<_> = faults.iter().map(|fault| fault["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["kill", "freeze", "cut"]);
    for fault in faults {
        assert_eq!(fault["state"], "healed", "{fault:#}");
        assert_ne!(fault["old_path"], fault["new_path"], "{fault:#}");
        assert!(fault["lost"].as_u64().unwrap() > 0, "whatever was broken was in use: {fault:#}");
        let measured = |name: &str| fault[name].as_f64().unwrap();
        assert!(measured("detected_ms") <= 5_000.0 && measured("restored_ms") <= 5_000.0, "{fault:#}");
    }
}

/// The demo in the background, with the first line of what it tells.
fn start(command: &mut Command) -> (Child, String, BufReader<ChildStderr>) {
    let mut child = command.spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    (child, line, told)
}

/// The processes that `parent` has started.
fn children_of(parent: u32) -> Vec<Pid> {
    let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    listed.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().unwrap())).collect()
}

fn wait_until_formed(told: &mut BufReader<ChildStderr>) {
    assert!(
        told.lines().any(|line| line.unwrap().contains("all reach all")),
        "the demo ended before the mesh was there"
    );
}

fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_page_shows_all_nodes_and_an_interrupt_leaves_nothing_behind() {
    let (mut child, line, mut told) = start(&mut demo(&["--nodes", "4", "--faults", "0", "--keep"]));
    let address = line.split("http://").nth(1).unwrap().trim_end().trim_end_matches('/').to_owned();
    wait_until_formed(&mut told);
    let page = get(&address, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"), "{page}");
    let topology = get(&address, "/api/v1/topology");
    let topology: Value = serde_json::from_str(topology.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((topology["nodes"].as_array().unwrap().len(), topology["links"].as_array().unwrap().len()), (4, 4));
    assert!(topology["links"].as_array().unwrap().iter().all(|link| link["state"] == "up"), "{topology:#}");

    let nodes = children_of(child.id());
    assert_eq!(nodes.len(), 4);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    assert!(nodes.into_iter().all(|node| test_kill_process(node).is_err()), "every process was waited for");
}

#[test]
fn nodes_do_not_outlive_a_demo_that_was_killed() {
    // What a killed demo cannot clean up, this does.
    let scratch = tempfile::tempdir().unwrap();
    let (mut child, _, mut told) =
        start(demo(&["--nodes", "4", "--faults", "0", "--keep"]).env("TMPDIR", scratch.path()));
    wait_until_formed(&mut told);
    let nodes = children_of(child.id());
    assert_eq!(nodes.len(), 4);
    child.kill().unwrap();
    child.wait().unwrap();
    // The nodes inherited standard error from nobody, and their own logs are files: what ends them is the end of standard
    // input. Whoever adopts them may be slow to wait for them, so a zombie counts as gone.
    let deadline = Clock.now() + Duration::from_secs(10);
    let is_gone = |node: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.as_raw_nonzero())).unwrap_or_default();
        stat.is_empty() || stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
    };
    while !nodes.iter().all(is_gone) {
        assert!(Clock.now() < deadline, "a node outlived the demo");
        std::thread::yield_now();
    }
}
