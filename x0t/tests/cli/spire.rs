//! Nodes whose identities a Workload API gives. Here it is our own server with an authority in memory; `tests/interop/spire_mesh.py` does
//! the same with real SPIRE agents.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use x0t_workload::server::{ServerConfig, WorkloadServer, bind};

use crate::host::{Ended, Host, eventually};

#[path = "../../../crates/shell/workload/src/tests/authority.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod authority;

use authority::TestSource;

/// A Workload API for the processes of this user, in this process.
struct Agent {
    source: Arc<TestSource>,
    dir: TempDir,
    _stop: watch::Sender<bool>,
    _runtime: Runtime,
}

impl Agent {
    fn start() -> Self {
        let (source, dir) = (TestSource::new("spire.test"), TempDir::new().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let _inside = runtime.enter();
        let server = WorkloadServer::new(source.clone(), ServerConfig::default(), stopped);
        let listener = bind(&dir.path().join("agent.sock")).unwrap();
        runtime.spawn(server.serve(listener));
        drop(_inside);
        Self { source, dir, _stop: stop, _runtime: runtime }
    }

    fn give(&self, path: &str) -> x0t_identity::EntryId {
        self.source.add(path, &[&format!("unix:uid:{}", rustix::process::geteuid().as_raw())])
    }

    fn up(&self, host: &Host, flags: &str) -> Ended {
        let socket = self.dir.path().join("agent.sock");
        host.x0t(&format!("up --json --spire-socket unix://{} {} {flags}", socket.display(), host.settings()))
    }
}

#[test]
fn two_nodes_of_one_workload_api_make_a_mesh_follow_its_renewals_and_stop_when_it_says_so() {
    let agent = Agent::start();
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    agent.give("/web");
    agent.give("/node/alpha");
    let second_entry_of_alpha = agent.give("/node/alpha");
    let entry_of_beta = agent.give("/node/beta");

    agent.up(&alpha, "").code(6).says(&["more than one identity of a node", "node/alpha", "--name NAME"]);
    agent.up(&alpha, "--name gamma").code(6).says(&["spiffe://spire.test/web", "spire-server entry create", "gamma"]);
    agent.up(&alpha, "--name alpha --trust-domain other.test --wait 1s").code(6).says(&["other.test/node/alpha"]);

    let up = agent.up(&alpha, "--name alpha").ok().json();
    assert_eq!((&up["created"], &up["token"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(up["status"]["spiffe_id"], "spiffe://spire.test/node/alpha");
    assert_eq!((&up["status"]["svid_source"], &up["status"]["is_authority"]), (&"workload_api".into(), &false.into()));
    for flag in ["--recovery 1h", "--svid-ttl 10m", "--workload-socket /tmp/w.sock"] {
        alpha.x0t(&format!("up {flag}")).code(2).says(&[flag.split(' ').next().unwrap(), "SPIRE"]);
    }
    agent.up(&beta, &format!("--name beta --peer {}", alpha.address)).ok();
    beta.x0t("ping alpha -c 2 -i 0.01").ok();
    for host in [&alpha, &beta] {
        let kept = std::fs::read_dir(host.state_dir()).unwrap();
        let kept: Vec<String> = kept.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!kept.iter().any(|name| name.contains("svid") || name.contains("key")), "{kept:?}");
    }
    assert!(alpha.x0t("status").ok().stdout.contains("from SPIRE"));
    assert!(alpha.x0t("doctor --json").stdout.contains("SVID from SPIRE"));
    let regions = alpha.x0t("regions status --json").ok().json();
    assert_eq!(
        (&regions["status"], &regions["serving"], &regions["given_by"]),
        (&"ok".into(), &"live".into(), &"local".into())
    );
    assert!(alpha.x0t("regions status").ok().stdout.starts_with("local for "));
    alpha.x0t("token create").code(6).says(&["needs no tokens"]);
    alpha.x0t("entry list").code(6).says(&["SPIRE"]);
    alpha.x0t("up --identity authority").code(1).says(&["decided when it is created"]);

    agent.source.rotate();
    eventually("both have taken the renewal over", || {
        [&alpha, &beta].iter().all(|host| host.log().matches("gives the node's identity").count() >= 2)
    });
    beta.x0t("ping alpha -c 2 -i 0.01").ok();

    // Of the two entries for alpha's identity one is left: it is a node as before, or beta could not lose it below.
    agent.source.remove(&second_entry_of_alpha);

    // Within five seconds of its word (checklist WC-6), and the test's patience is longer than that.
    agent.source.remove(&entry_of_beta);
    eventually("beta shows its identity no more", || beta.x0t("status --json").json()["svid_state"] == "withdrawn");
    beta.x0t("status").code(3);
    eventually("alpha has lost beta", || alpha.x0t("status --json").json()["links_up"] == 0);
    beta.x0t("doctor").code(3);

    agent.give("/node/beta");
    eventually("beta is a node again", || beta.x0t("status").code == 0);
    eventually("and is reached", || alpha.x0t("ping beta -c 1").code == 0);

    beta.x0t("down").ok();
    assert_eq!(
        beta.x0t("up --json").ok().json()["status"]["spiffe_id"],
        "spiffe://spire.test/node/beta",
        "it remembers"
    );
}

#[test]
fn settings_of_spire_that_make_no_sense_are_refused_before_anything_is_made() {
    let alpha = Host::new("alpha");
    let up = |flags: &str| alpha.x0t(&format!("up {} {flags}", alpha.settings()));
    up("--spire-regions eu=http://x;EU=unix:///y").code(2).says(&["region 1", "no Workload API endpoint", "region 2"]);
    up("--spire-socket unix:///x --failover-interval 1d").code(2).says(&["no duration"]);
    up("--spire-socket unix:///x --failover-threshold many").code(2).says(&["no whole number"]);
    up("--spire-socket unix:///x --svid-ttl 10m").code(2).says(&["--svid-ttl"]);
    for flags in [
        "--recovery 1h",
        "--upstream-cert /x --upstream-key /y --upstream-roots /z",
        "--bundle-endpoint 127.0.0.1:8443 --bundle-endpoint-cert /x --bundle-endpoint-key /y",
        "--federation-ca /x",
        "--workload-socket off",
    ] {
        let refused = up(&format!("--spire-socket unix:///nowhere/agent.sock {flags}")).code(2);
        refused.says(&flags.split(' ').filter(|word| word.starts_with("--")).collect::<Vec<_>>());
    }
    up("--spire-socket tcp://192.0.2.1:8000").code(2).says(&["in clear", "Unix socket"]);
    up("--spire-socket unix:///nowhere/agent.sock --wait 1s").code(5).says(&["does not answer", "--spire-socket"]);
    up("--identity authority --failover-interval 1s").code(2).says(&["not from SPIRE"]);
    assert!(!alpha.state_dir().exists());
    alpha.up("mesh.test").ok();
    alpha.x0t("down").ok();
    up("--spire-socket unix:///x").code(2).says(&["from the authority of its mesh"]);
}

#[test]
fn a_spire_server_that_is_not_there_and_a_node_without_regions_say_so() {
    let alpha = Host::new("alpha");
    let nowhere = "--spire-server unix:///nowhere/api.sock";
    for command in
        ["spire health", "spire agents", "entry list --authority spire", "authority status --authority spire"]
    {
        alpha.x0t(&format!("{command} {nowhere}")).code(4).says(&["is not available", "--spire-server"]);
    }
    alpha.x0t("spire health --spire-server tcp://127.0.0.1:1").code(2).says(&["Unix socket"]);
    let entry = "entry create spiffe://spire.test/web --selector unix:uid:1 --authority spire";
    alpha.x0t(&format!("{entry} {nowhere}")).code(2).says(&["below an agent", "--parent"]);
    alpha.x0t("authority plan --authority spire").code(2).says(&["status"]);
    for forced in ["activate --force", "revoke 00 --force"] {
        alpha.x0t(&format!("authority {forced} --authority spire {nowhere}")).code(2).says(&["--force"]);
    }
    alpha.x0t("regions status").code(4).says(&["holds no node"]);
    alpha.up("mesh.test").ok();
    alpha.x0t("regions status").code(6).says(&["only SPIRE's has regions"]);
    alpha.x0t("authority taint xyz").code(2).says(&["names no key"]);
}
