//! A Workload Endpoint with an authority in memory, for other people's clients to be tried against: `serve SOCKET`. Prints `ready`,
//! and then does what it is told on standard input, a word on each line: `rotate`, `federate`, `defederate`, `stats`, `stop`.
//!
//! Whoever has the user id of this process gets `spiffe://mesh.test/web` and `spiffe://mesh.test/api`. Beside the socket stand the files
//! of two peers that trust `mesh.test`: `mesh.test/` holds an SVID of that trust domain, `other.test/` one of a foreign one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an example that is run by tests")]
#![expect(dead_code, reason = "tests use more of the source")]

#[path = "../src/tests/authority.rs"]
mod authority;

use tokio::sync::watch;
use x0t_workload::files::{FileSet, write_svid};
use x0t_workload::server::{ServerConfig, WorkloadServer, bind};

#[tokio::main]
async fn main() {
    let path = std::env::args().nth(1).unwrap();
    let source = authority::TestSource::new("mesh.test");
    let other = authority::TestAuthority::new("other.test");
    let me = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    source.add_with("/web", &[&me], |spec| {
        spec.hint = Some("internal".into());
        spec.federates_with.insert(other.trust_domain().clone());
    });
    source.add("/api", &[&me]);
    let bundle = source.authority.bundle();
    for (authority, id) in [(&source.authority, "spiffe://mesh.test/peer"), (&other, "spiffe://other.test/peer")] {
        let directory = std::path::Path::new(&path).with_file_name(authority.trust_domain().as_str());
        let files = FileSet { svid: &authority.issue(id), bundle: &bundle, jwt: None };
        write_svid(&directory, &files).unwrap();
    }
    let (stop, stopped) = watch::channel(false);
    let mut config = ServerConfig::default();
    if std::env::args().nth(2).is_some_and(|word| word == "without-limits-per-process") {
        (config.connections_per_process_max, config.streams_per_process_max) = (usize::MAX, usize::MAX);
        config.calls_burst = u32::MAX;
    }
    let server = WorkloadServer::new(source.clone(), config, stopped);
    let stats = server.stats();
    let serving = tokio::spawn(server.serve(bind(path.as_ref()).unwrap()));
    println!("ready");
    let (said, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| said.blocking_send(line.unwrap())));
    while let Some(line) = lines.recv().await {
        match line.trim() {
            "rotate" => source.rotate(),
            "federate" => source.set_bundle(other.bundle()),
            "defederate" => source.remove_bundle(other.trust_domain()),
            "stats" => println!("{:?}", stats.counts()),
            "stop" => break,
            unknown => println!("unknown: {unknown}"),
        }
        println!("done");
    }
    stop.send_replace(true);
    serving.await.unwrap().unwrap();
}
