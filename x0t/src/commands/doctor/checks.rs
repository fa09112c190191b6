//! The checks, one function each. They look and change nothing.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use x0t_identity::Svid;
use x0t_model::{OverlayPrefix, UnixTime};
use x0t_node::{RecordKind, StatusView};
use x0t_runtime::state_dir::{IdentityProvider, MeshFile, StateDirError};
use x0t_runtime::tun::TunMode;

use super::Finding;
use crate::exit::Failure;
use crate::output::span;
use crate::start::state_dir_failure;

/// CAP_NET_ADMIN, see linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
/// What the daemon asks the kernel for; with less, bursts are lost at high rates.
const SOCKET_BUFFER: u64 = 4 << 20;
/// Certificates reach this far back against clocks that differ.
const SKEW: Duration = Duration::from_secs(60);
/// No host that runs this program has seen an earlier time (2026-01-01).
const RELEASED: UnixTime = UnixTime::from_secs(1_767_225_600);

pub fn state_dir(path: &Path, mesh: &Result<MeshFile, StateDirError>) -> Finding {
    const CHECK: &str = "state directory";
    match mesh {
        Ok(mesh) => Finding::ok(CHECK, format!("{}: node {} of {}", path.display(), mesh.name, mesh.trust_domain)),
        Err(StateDirError::NotInitialised { .. }) => Finding::warning(
            CHECK,
            format!("{} holds no node", path.display()),
            "start a new mesh with `x0t up`, or join one with `x0t join TOKEN`",
        ),
        Err(error) => Finding::failed(CHECK, &state_dir_failure(error)),
    }
}

pub fn daemon(status: &Result<StatusView, Failure>) -> Finding {
    const CHECK: &str = "daemon";
    match status {
        Ok(status) => Finding::ok(CHECK, format!("runs since {}", span(status.uptime_ms))),
        Err(failure) => Finding::failed(CHECK, failure),
    }
}

pub fn links(status: &StatusView) -> Finding {
    const CHECK: &str = "links";
    match &status.not_ready_because {
        _ if status.ready => {
            Finding::ok(CHECK, format!("{} up, {} other nodes reachable", status.links_up, status.reachable))
        }
        reason => Finding::problem(
            CHECK,
            reason.clone().unwrap_or_else(|| "the node is not ready".to_owned()),
            "check that UDP passes between this host and its peers (firewall, address), and that they are of this mesh; \
             see `x0t peers` and `x0t events`",
        ),
    }
}

/// From the running node if there is one, else from the file.
pub fn identity(state_dir: &Path, mesh: Option<&MeshFile>, status: Option<&StatusView>, now: UnixTime) -> Finding {
    const CHECK: &str = "identity";
    if let Some(mesh) = mesh.filter(|mesh| mesh.identity == IdentityProvider::Spire) {
        return identity_from_spire(mesh, status, now);
    }
    const RENEW: &str = "check that the authority can be reached: `x0t status` there, `x0t peers` here";
    let life = |not_after: UnixTime| span(not_after.since(now).as_secs() * 1_000);
    if let Some(status) = status {
        let not_after = UnixTime::from_secs(status.svid_not_after);
        if not_after < now {
            let found = format!("SVID expired {} ago", life_since(not_after, now));
            return Finding::problem(CHECK, found, JOIN_AGAIN);
        }
        let found = format!("SVID {}, {} left", status.svid_state, life(not_after));
        return match status.svid_state.as_str() {
            "valid" | "renewing" => Finding::ok(CHECK, found),
            "degraded" => Finding::warning(CHECK, found, RENEW),
            _ => Finding::problem(CHECK, found, RENEW),
        };
    }
    let stored = std::fs::read(state_dir.join(RecordKind::Svid.file_name()));
    match stored.map(|stored| Svid::from_stored(&stored)) {
        Ok(Ok(svid)) if svid.not_after() > now => {
            Finding::ok(CHECK, format!("SVID valid, {} left", life(svid.not_after())))
        }
        Ok(Ok(svid)) if state_dir.join(RecordKind::Authority.file_name()).exists() => Finding::ok(
            CHECK,
            format!(
                "SVID expired {} ago; the authority issues itself a new one at start",
                life_since(svid.not_after(), now)
            ),
        ),
        Ok(Ok(svid)) => {
            Finding::problem(CHECK, format!("SVID expired {} ago", life_since(svid.not_after(), now)), JOIN_AGAIN)
        }
        Ok(Err(error)) => Finding::problem(CHECK, format!("the stored SVID cannot be used: {error}"), JOIN_AGAIN),
        Err(error) => Finding::problem(CHECK, format!("the stored SVID cannot be read: {error}"), JOIN_AGAIN),
    }
}

/// As the node says, or whether there is somebody to ask.
fn identity_from_spire(mesh: &MeshFile, status: Option<&StatusView>, now: UnixTime) -> Finding {
    const CHECK: &str = "identity";
    const LOOK: &str =
        "check that the SPIRE agent runs and reaches its server, and that the server has an entry for this node";
    let Some(status) = status else {
        let places: Vec<&str> = mesh.regions.list.iter().map(|region| region.endpoint.as_str()).collect();
        let is_there = |place: &&str| place.strip_prefix("unix://").is_none_or(|path| Path::new(path).exists());
        let found = format!("from SPIRE at {}, when the node starts", places.join(", "));
        return match places.iter().any(is_there) {
            true => Finding::ok(CHECK, found),
            false => Finding::problem(CHECK, format!("{found}: nothing is there"), LOOK),
        };
    };
    let left = span(UnixTime::from_secs(status.svid_not_after).since(now).as_secs() * 1_000);
    let why = status.svid_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match status.svid_state.as_str() {
        "valid" => Finding::ok(CHECK, format!("SVID from SPIRE, {left} left")),
        "degraded" => Finding::warning(CHECK, format!("SVID from SPIRE, {left} left, is not renewed{why}"), LOOK),
        "critical" => Finding::problem(CHECK, format!("SVID from SPIRE, {left} left, is not renewed{why}"), LOOK),
        state => Finding::problem(CHECK, format!("SVID from SPIRE is {state}{why}"), LOOK),
    }
}

/// What to do about an identity that nobody accepts any more.
const JOIN_AGAIN: &str = "stop the node with `x0t down`, then join again with a token for its name: \
     `x0t token create --name NAME` on the authority, `x0t join TOKEN` here";

fn life_since(then: UnixTime, now: UnixTime) -> String {
    span(now.since(then).as_secs() * 1_000)
}

/// A clock that is wrong makes valid certificates look expired or not yet valid.
pub fn clock(state_dir: &Path, now: UnixTime) -> Finding {
    const CHECK: &str = "clock";
    const NEXT: &str = "set it, or start a time service such as chrony or systemd-timesyncd";
    let stored = std::fs::read(state_dir.join(RecordKind::Svid.file_name()));
    let issued = stored.ok().and_then(|stored| Some(Svid::from_stored(&stored).ok()?.not_before()));
    let earliest = issued.unwrap_or(RELEASED).max(RELEASED);
    if now + SKEW < earliest {
        let behind = span(earliest.since(now).as_secs() * 1_000);
        return Finding::problem(CHECK, format!("it is at least {behind} slow"), NEXT);
    }
    Finding::ok(CHECK, "not before the identity was issued")
}

pub fn udp_ports(mesh: Option<&MeshFile>, is_running: bool) -> Vec<Finding> {
    let check = |address: &SocketAddr| {
        const CHECK: &str = "UDP port";
        match UdpSocket::bind(address) {
            _ if is_running => Finding::ok(CHECK, format!("{address} is the daemon's")),
            Ok(_) => Finding::ok(CHECK, format!("{address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::problem(
                CHECK,
                format!("{address} is in use by another program"),
                format!(
                    "find it with `ss -ulpn 'sport = :{}'`, or choose another with `x0t up --listen`",
                    address.port()
                ),
            ),
            Err(error) if address.is_ipv6() => Finding::warning(
                CHECK,
                format!("{address}: {error}"),
                "without IPv6, leave it out with `x0t up --listen 0.0.0.0`",
            ),
            Err(error) => {
                Finding::problem(CHECK, format!("{address}: {error}"), "choose another with `x0t up --listen`")
            }
        }
    };
    let listen = mesh.map_or_else(|| MeshFile::DEFAULT_LISTEN.to_vec(), |mesh| mesh.listen.clone());
    // A second bind of the IPv6 wildcard would fail on the first one's IPv4 half.
    listen.iter().filter(|address| address.is_ipv4() || listen.len() == 1).map(check).collect()
}

pub fn http_port(mesh: Option<&MeshFile>, is_running: bool) -> Option<Finding> {
    const CHECK: &str = "HTTP port";
    let address = mesh.map_or(Some(MeshFile::DEFAULT_HTTP), |mesh| mesh.http)?;
    Some(match TcpListener::bind(address) {
        _ if is_running => Finding::ok(CHECK, format!("{address} is the daemon's")),
        Ok(_) => Finding::ok(CHECK, format!("{address} is free")),
        Err(error) => Finding::problem(
            CHECK,
            format!("{address}: {error}"),
            "choose another with `x0t up --http 127.0.0.1:PORT`, or do without: `--http off`",
        ),
    })
}

pub fn tun(mesh: Option<&MeshFile>) -> Finding {
    const CHECK: &str = "TUN device";
    let mode = mesh.map_or(TunMode::Auto, |mesh| mesh.tun);
    if mode == TunMode::Off {
        return Finding::ok(CHECK, "not wanted (--tun off)");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = if !Path::new("/dev/net/tun").exists() {
        ("/dev/net/tun is missing", "load the module with `modprobe tun`; in a container add `--device /dev/net/tun`")
    } else if !has_capability(&status, CAP_NET_ADMIN) {
        ("CAP_NET_ADMIN is missing", "run as root, or in a container with `--cap-add NET_ADMIN`")
    } else {
        return Finding::ok(CHECK, "/dev/net/tun and CAP_NET_ADMIN are there");
    };
    let (found, next) = missing;
    if mode == TunMode::Require {
        return Finding::problem(CHECK, found, next);
    }
    Finding::warning(CHECK, format!("{found}: the mesh works without, but programs cannot use its addresses"), next)
}

/// With an interface into the mesh, whether the kernel takes packets under mesh addresses from other interfaces too. It does unless it is told
/// otherwise: reverse-path filtering by sysctl is for IPv4 only. What `x0t expose` serves is confined to the interface anyway.
pub fn mesh_addresses(mesh: &MeshFile) -> Option<Finding> {
    const CHECK: &str = "mesh addresses";
    let interface = &mesh.tun_name;
    if mesh.tun == TunMode::Off || !Path::new("/sys/class/net").join(interface).exists() {
        return None;
    }
    let network = OverlayPrefix::of(&mesh.trust_domain).network();
    let listed = std::process::Command::new("nft").args(["list", "table", "inet", FILTER_TABLE]).output();
    let rules = listed.ok().filter(|listed| listed.status.success());
    let rules = rules.map(|rules| String::from_utf8_lossy(&rules.stdout).into_owned()).unwrap_or_default();
    if drops_foreign(&rules, network) {
        return Some(Finding::ok(
            CHECK,
            format!("only {interface} may bring packets of {network}/{}", OverlayPrefix::BITS),
        ));
    }
    Some(Finding::warning(
        CHECK,
        format!(
            "no rule of nftables is seen that keeps hosts of other networks from sending under addresses of {network}/{}",
            OverlayPrefix::BITS
        ),
        format!(
            "for programs that listen on the mesh address by themselves: `nft '{}'`",
            filter_rule(interface, network)
        ),
    ))
}

/// The table that the rule stands in.
const FILTER_TABLE: &str = "x0t";

/// What nftables is told, in one line: addresses of the mesh come from the mesh or from this host.
fn filter_rule(interface: &str, network: Ipv6Addr) -> String {
    let network = format!("{network}/{}", OverlayPrefix::BITS);
    let foreign = format!("iifname != {{ \"lo\", \"{interface}\" }}");
    format!(
        "table inet {FILTER_TABLE} {{ chain mesh {{ type filter hook prerouting priority raw; \
         {foreign} ip6 saddr {network} drop; {foreign} ip6 daddr {network} drop; }}; }}"
    )
}

/// Whether rules as `nft list` prints them drop what comes under the mesh's addresses.
fn drops_foreign(rules: &str, network: Ipv6Addr) -> bool {
    let drops = |what: &str| {
        let matches = format!("ip6 {what} {network}/{} ", OverlayPrefix::BITS);
        rules
            .lines()
            .any(|rule| rule.contains("iifname !=") && rule.contains(&matches) && rule.trim_end().ends_with("drop"))
    };
    drops("saddr") && drops("daddr")
}

pub fn socket_buffers() -> Finding {
    const CHECK: &str = "socket buffers";
    let limit = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/core/{name}"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    match limit("rmem_max").min(limit("wmem_max")) {
        Some(limit) if limit < SOCKET_BUFFER => Finding::warning(
            CHECK,
            format!("the kernel allows {} KiB; bursts may be lost at high rates", limit >> 10),
            format!("`sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}`"),
        ),
        Some(limit) => Finding::ok(CHECK, format!("the kernel allows {} KiB", limit >> 10)),
        None => Finding::ok(CHECK, "the kernel does not say its limit"),
    }
}

/// Whether `/proc/self/status` lists the capability as effective.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_mask() {
        assert!(has_capability("Name:\tx0t\nCapEff:\t0000000000001000\n", CAP_NET_ADMIN));
        assert!(!has_capability("CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n", CAP_NET_ADMIN));
        assert!(!has_capability("", CAP_NET_ADMIN));
    }

    #[test]
    fn the_rule_against_forged_mesh_addresses_is_known_again_as_nftables_prints_it() {
        let network = OverlayPrefix::of(&"mesh.test".parse().unwrap()).network();
        let printed = format!(
            "table inet x0t {{\n\tchain mesh {{\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
             \t\tiifname != {{ \"lo\", \"x0t0\" }} ip6 saddr {network}/48 drop\n\
             \t\tiifname != {{ \"lo\", \"x0t0\" }} ip6 daddr {network}/48 drop\n\t}}\n}}\n"
        );
        assert!(drops_foreign(&printed, network));
        assert!(!drops_foreign(&printed.replace("saddr", "daddr"), network), "half of it");
        assert!(!drops_foreign(&printed.replace(" drop", " accept"), network));
        assert!(!drops_foreign("", network));
        assert!(filter_rule("x0t0", network).contains(&format!("ip6 saddr {network}/48 drop;")));
    }

    #[test]
    fn a_clock_before_this_program_is_wrong() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(clock(nowhere, UnixTime::from_secs(0)).verdict, Verdict::Problem);
        assert_eq!(clock(nowhere, RELEASED + SKEW).verdict, Verdict::Ok);
    }

    #[test]
    fn a_port_that_is_taken_is_a_problem_unless_the_daemon_has_it() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut mesh = MeshFile::new("mesh.test".parse().unwrap(), "alpha");
        mesh.listen = vec![taken.local_addr().unwrap()];
        assert_eq!(udp_ports(Some(&mesh), false)[0].verdict, Verdict::Problem);
        assert_eq!(udp_ports(Some(&mesh), true)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn without_a_node_there_is_a_way_to_get_one() {
        let path = Path::new("/nonexistent");
        let finding = state_dir(path, &Err(StateDirError::NotInitialised { path: path.to_owned() }));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.next.unwrap().contains("x0t up"));
    }
}
