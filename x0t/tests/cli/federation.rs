//! Two meshes that learn to trust each other over their bundle endpoints, and to stop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use x0t_identity::{Audience, AudienceSet};
use x0t_runtime::clock::Clock;
use x0t_workload::client::{ClientConfig, ClientError, Endpoint, WorkloadClient};

use crate::host::{Host, eventually};

fn free_tcp_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A mesh of one node that publishes its bundle.
struct Mesh {
    host: Host,
    trust_domain: &'static str,
    endpoint: SocketAddr,
}

impl Mesh {
    fn up(name: &'static str, trust_domain: &'static str) -> Self {
        let mesh = Self { host: Host::new(name), trust_domain, endpoint: free_tcp_address() };
        let settings = format!("{} --bundle-endpoint {}", mesh.host.settings(), mesh.endpoint);
        mesh.host.x0t(&format!("up --json --name {name} --trust-domain {trust_domain} {settings}")).ok();
        mesh
    }

    /// This mesh's own bundle, in a file.
    fn bundle(&self) -> PathBuf {
        let path = self.host.state_dir().join("own-bundle.json");
        std::fs::write(&path, self.host.x0t("bundle show").ok().stdout).unwrap();
        path
    }

    fn federate_with(&self, other: &Self, flags: &str) -> crate::host::Ended {
        let (domain, address, name) = (other.trust_domain, other.endpoint, other.host.name);
        self.host.x0t(&format!(
            "federation create {domain} https://{address}/ --profile https_spiffe \
             --endpoint-id spiffe://{domain}/node/{name} --json {flags}"
        ))
    }

    /// The foreign trust domains whose bundles this process gets.
    fn foreign(&self) -> Vec<String> {
        let shown = self.host.x0t("svid show --json").ok().json();
        let trusts = shown["trusts"].as_array().unwrap().iter().map(|domain| domain.as_str().unwrap().to_owned());
        trusts.filter(|domain| domain != self.trust_domain).collect()
    }

    fn client(&self) -> WorkloadClient {
        WorkloadClient::new(Endpoint::Unix(self.host.state_dir().join("workload.sock")), ClientConfig::default())
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn fe_8_workloads_of_two_meshes_believe_each_other_while_these_federate_and_no_longer() {
    let (one, two) = (Mesh::up("alpha", "one.test"), Mesh::up("omega", "two.test"));
    let entry = |mesh: &Mesh, other: &Mesh| {
        let selector = format!("--selector unix:uid:{}", uid());
        mesh.host.x0t(&format!("entry create /web {selector} --federates-with {} --json", other.trust_domain)).ok()
    };
    let created = entry(&one, &two);
    assert!(
        created.stderr.contains("no bundle of two.test") && created.stderr.contains("x0t federation create two.test")
    );
    entry(&two, &one);
    eventually("alpha's processes have an SVID", || one.host.x0t("svid show").code == 0);
    assert_eq!(one.foreign(), Vec::<String>::new());

    // Without a bundle to begin with there is nobody to check the endpoint by.
    let status = one.federate_with(&two, "").code(3);
    assert_eq!(status.json()["last_error"]["code"], "no_bundle");
    one.federate_with(&two, "").code(6).says(&["already", "--replace"]);
    let status = one.federate_with(&two, &format!("--replace --bootstrap {}", two.bundle().display())).ok().json();
    assert!(status["sequence"].as_u64().unwrap() > 0 && status["last_error"].is_null(), "{status}");
    two.federate_with(&one, &format!("--bootstrap {}", one.bundle().display())).ok();
    eventually("alpha's processes have the bundle of two.test", || one.foreign() == ["two.test"]);
    eventually("omega's processes have the bundle of one.test", || two.foreign() == ["one.test"]);
    let listed = one.host.x0t("federation list --json").ok().json();
    assert_eq!((&listed[0]["trust_domain"], &listed[0]["profile"]), (&"two.test".into(), &"https_spiffe".into()));
    assert!(one.host.x0t("bundle list").ok().stdout.contains("its endpoint"));
    assert!(one.host.x0t("federation show two.test").ok().stdout.contains(&two.endpoint.to_string()));
    one.host.x0t("federation refresh two.test").ok();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    let audience: Audience = "web".parse().unwrap();
    let audiences = AudienceSet::parse(["web"]).unwrap();
    let now = x0t_model::UnixTime::from_secs(Clock.wall().as_secs());
    let token = runtime.block_on(two.client().fetch_jwt(&audiences, None, now)).unwrap().remove(0).svid;
    let valid = runtime.block_on(one.client().validate_jwt(&audience, token.token())).unwrap();
    assert_eq!(valid.spiffe_id.to_string(), "spiffe://two.test/web");

    one.host.x0t("bundle delete two.test").code(6).says(&["x0t federation delete two.test"]);
    let deleted = one.host.x0t("federation delete two.test").ok();
    assert!(deleted.stderr.contains("1 entries still federate"), "{}", deleted.stderr);
    eventually("alpha's processes have lost it", || one.foreign().is_empty());
    let refused = runtime.block_on(one.client().validate_jwt(&audience, token.token())).unwrap_err();
    assert!(matches!(refused, ClientError::Status { .. }), "{refused}");
    assert_eq!(two.foreign(), ["one.test"], "what the other mesh believes is its own affair");
    one.host.x0t("federation refresh two.test").code(2).says(&["no federation relationship"]);
    one.host.x0t("federation delete two.test").code(2).says(&["x0t federation list"]);
}

#[test]
fn fe_6_a_bundle_is_kept_by_hand_and_an_old_one_only_if_the_operator_insists() {
    let (one, two) = (Mesh::up("alpha", "one.test"), Mesh::up("omega", "two.test"));
    let old = two.bundle();
    let old = {
        let kept = one.host.state_dir().join("old.json");
        std::fs::copy(old, &kept).unwrap();
        kept
    };
    two.host.x0t("authority prepare").ok();
    let new = two.bundle();
    one.host.x0t(&format!("bundle set two.test {}", new.display())).ok();
    let same = one.host.x0t(&format!("bundle set two.test {} --json", new.display())).ok().json();
    assert_eq!(same["changed"], false);
    let set_old = format!("bundle set two.test {}", old.display());
    one.host.x0t(&set_old).code(6).says(&["older than the one in force", "--force"]);
    one.host.x0t(&format!("{set_old} --force")).ok();
    one.host.x0t("bundle set two.test /etc/hostname").code(2).says(&["no bundle of two.test", "x0t bundle show"]);
    one.host.x0t(&format!("bundle set one.test {}", one.bundle().display())).code(6).says(&["own trust domain"]);
    let listed = one.host.x0t("bundle list --json").ok().json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["is_own"]), (2, &true.into()));
    // It outlives the daemon.
    one.host.x0t("down").ok();
    one.host.x0t("up --json").ok();
    assert!(one.host.x0t("bundle show two.test").ok().stdout.contains("x509-svid"));
    one.host.x0t("bundle delete two.test").ok();
    one.host.x0t("bundle show two.test").code(2).says(&["no bundle of two.test", "x0t bundle list"]);
}

#[test]
fn a_member_publishes_the_bundle_as_well_and_a_taken_port_is_told() {
    let (one, member) = (Mesh::up("alpha", "one.test"), Host::new("beta"));
    let endpoint = free_tcp_address();
    member.join(&one.host.token(""), &format!("--bundle-endpoint {endpoint}")).ok();
    let two = Mesh::up("omega", "two.test");
    let created = two.host.x0t(&format!(
        "federation create one.test https://{endpoint}/ --profile https_spiffe --endpoint-id spiffe://one.test/node/beta \
         --bootstrap {} --json",
        one.bundle().display()
    ));
    // It publishes what it has heard from its authority, and may not have heard anything yet.
    assert!(matches!(created.code, 0 | 3), "{}", created.stderr);
    eventually("the member publishes", || two.host.x0t("federation refresh one.test").code == 0);
    member.x0t("federation list").code(6).says(&["no authority"]);
    let late = Host::new("gamma");
    let taken = late.x0t(&format!("up --name gamma {} --bundle-endpoint {endpoint}", late.settings()));
    taken.code(1).says(&["cannot publish the bundle", "--bundle-endpoint off"]);
}
