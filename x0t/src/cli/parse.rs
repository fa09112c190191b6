//! Text from the command line into values, once. Each error says what would have been right.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use x0t_identity::RECOVERY_MAX;
use x0t_model::Underlay;
use x0t_node::critical::{Rule, RuleError};

/// The TCP port of TLS where none is given.
pub const DEFAULT_TLS_PORT: u16 = 443;
/// The UDP port of x0t where none is given.
pub const DEFAULT_PORT: u16 = 4600;
/// The longest name of a node: the length of a DNS label (RFC 1035, section 2.3.4), so that names can become host names.
const NODE_NAME_LEN_MAX: usize = 63;
/// An interface name's limit in Linux, IFNAMSIZ without the final NUL.
const INTERFACE_NAME_LEN_MAX: usize = 15;
/// Below this an identity would be renewed more often than a slow host can.
const SVID_TTL_MIN: Duration = Duration::from_secs(10);
/// Beyond this an identity is no longer short-lived: it would outlive the notice of its theft.
const SVID_TTL_MAX: Duration = Duration::from_hours(7 * 24);
/// A token is a secret that lies around in chats and scripts.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(30 * 24);
/// More often would only measure the queue.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_hours(1);

/// The name of a node: the last segment of its SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A host's name made fit to be a node's: its first label in lower case, whatever is not allowed as a dash.
    pub fn from_host_name(host: &str) -> Self {
        let label = host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mapped: String = label.chars().map(|c| if is_name_char(c) { c } else { '-' }).collect();
        let name: String = mapped.trim_matches(['-', '_']).chars().take(NODE_NAME_LEN_MAX).collect();
        let name = name.trim_end_matches(['-', '_']);
        Self(if name.is_empty() || name == "localhost" { "node".to_owned() } else { name.to_owned() })
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sane = text.len() <= NODE_NAME_LEN_MAX
            && text.chars().all(|c| is_name_char(c) || c == '.')
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if sane {
            return Ok(Self(text.to_owned()));
        }
        let suggestion = Self::from_host_name(text);
        Err(format!("a node's name is 1 to 63 of a-z, 0-9, '-', '_' and '.': try `{suggestion}`"))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Upper case is left out although SPIFFE allows it: `Web` and `web` would be two nodes that look like one.
const fn is_name_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-' | '_')
}

/// An underlay address as a person writes it: an IP address or a host name, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    /// An address that means something on one link only, and the interface to it (RFC 4007, 11).
    InZone(Ipv6Addr, String),
    Name(String),
}

impl Endpoint {
    /// The socket addresses it stands for. A name is looked up, once: what is kept is what it meant then.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            // The resolver of the system knows the interfaces.
            Host::InZone(ip, zone) => Ok((format!("{ip}%{zone}").as_str(), self.port).to_socket_addrs()?.collect()),
            Host::Name(name) => Ok((name.as_str(), self.port).to_socket_addrs()?.collect()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Host::InZone(*v6.ip(), v6.scope_id().to_string()),
            _ => Host::Ip(address.ip()),
        };
        Self { host, port: address.port() }
    }
}

/// An address with its zone, `fe80::1%eth0`, in brackets if a port follows, and that port.
fn in_zone(text: &str) -> Option<Endpoint> {
    /// The kernel's IFNAMSIZ, less its final zero.
    const INTERFACE_NAME_MAX: usize = 15;
    let (place, port) = match text.strip_prefix('[') {
        Some(rest) => rest.rsplit_once(']')?,
        None => (text, ""),
    };
    let (ip, zone) = place.split_once('%')?;
    let is_interface = (1..=INTERFACE_NAME_MAX).contains(&zone.len())
        && zone.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b'[' | b']'));
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => port.is_empty().then_some(DEFAULT_PORT)?,
    };
    Some(Endpoint { host: Host::InZone(ip.parse().ok().filter(|_| is_interface)?, zone.to_owned()), port })
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err("port 0 cannot be reached: give the port the other node listens on".to_owned()),
                _ => Ok(address.into()),
            };
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self { host: Host::Ip(ip), port: DEFAULT_PORT });
        }
        if let Some(endpoint) = in_zone(text) {
            return Ok(endpoint);
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)),
            None => (text, Some(DEFAULT_PORT)),
        };
        let is_name = !name.is_empty()
            && name.len() <= 253
            && name.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            // A dotted quad that is no IP address, as in 10.0.0.256, is a mistake and no name.
            && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match (is_name, port) {
            (true, Some(port)) => Ok(Self { host: Host::Name(name.to_owned()), port }),
            _ => {
                Err("an address looks like 192.0.2.7, 192.0.2.7:4600, [2001:db8::7]:4600 or host.example:4600"
                    .to_owned())
            }
        }
    }
}

/// Where a peer is, as a person writes it: an [`Endpoint`], after `tls://` if it is to be reached over TLS only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    endpoint: Endpoint,
    over_tls: bool,
}

impl PeerAddress {
    /// The places it stands for. A name is looked up, once: what is kept is what it meant then.
    pub fn resolve(&self) -> std::io::Result<Vec<Underlay>> {
        let place = if self.over_tls { Underlay::Tls } else { Underlay::Udp };
        Ok(self.endpoint.resolve()?.into_iter().map(place).collect())
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("tls://") {
            Some(rest) => {
                let mut endpoint: Endpoint = rest.parse()?;
                // The port of UDP is none of TLS, and an address without port parses with that one.
                if endpoint.port == DEFAULT_PORT && !rest.ends_with(&format!(":{DEFAULT_PORT}")) {
                    endpoint.port = DEFAULT_TLS_PORT;
                }
                Ok(Self { endpoint, over_tls: true })
            }
            None => Ok(Self { endpoint: text.parse()?, over_tls: false }),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.over_tls { "tls://" } else { "" }, self.endpoint)
    }
}

/// A setting that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional<T> {
    /// Nothing.
    Off,
    /// This.
    Set(T),
}

impl<T> Optional<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// A TCP address to serve TLS on, with [`DEFAULT_TLS_PORT`] unless it names another; or `off`.
pub fn tls_listener(text: &str) -> Result<Optional<SocketAddr>, String> {
    let bare = || {
        let ip = text.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, DEFAULT_TLS_PORT))
    };
    match text {
        "off" => Ok(Optional::Off),
        _ => text
            .parse()
            .ok()
            .or_else(bare)
            .map(Optional::Set)
            .ok_or_else(|| "an address to serve TLS on looks like 0.0.0.0:443, or say `off`".to_owned()),
    }
}

/// A TCP address to publish a bundle on, or `off`.
pub fn bundle_endpoint(text: &str) -> Result<Optional<SocketAddr>, String> {
    match text {
        "off" => Ok(Optional::Off),
        _ => text
            .parse()
            .map(Optional::Set)
            .map_err(|_| "an address to publish the bundle on looks like 0.0.0.0:8443, or say `off`".to_owned()),
    }
}

/// A TCP port, or `off`.
pub fn tls_port(text: &str) -> Result<Optional<u16>, String> {
    match text {
        "off" => Ok(Optional::Off),
        _ => text
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .map(Optional::Set)
            .ok_or_else(|| "a port is a number from 1 to 65535, or say `off`".to_owned()),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::InZone(ip, zone) => write!(f, "[{ip}%{zone}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A socket address to listen on: an IP address, with [`DEFAULT_PORT`] unless it names another.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let bare =
        || text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    text.parse()
        .or_else(|_| bare())
        .map_err(|_| "an address to listen on looks like 0.0.0.0:4600 or [::]:4600".to_owned())
}

/// Where HTTP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpSetting {
    /// Nowhere.
    Off,
    /// On this TCP address.
    On(SocketAddr),
}

impl HttpSetting {
    /// The address, if there is one.
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::On(address) => Some(address),
        }
    }
}

impl FromStr for HttpSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|_| "it is `off` or an address as in 127.0.0.1:8080".to_owned())
    }
}

/// Where SOCKS5 is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocksSetting {
    /// Nowhere.
    Off,
    /// On this TCP address.
    On(SocketAddr),
}

impl SocksSetting {
    /// The address, if there is one.
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::On(address) => Some(address),
        }
    }
}

impl FromStr for SocksSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let on_loopback = || text.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .or_else(|_| on_loopback())
                .map(Self::On)
                .map_err(|_| "it is `off`, a port as in 1080, or an address as in 127.0.0.1:1080".to_owned()),
        }
    }
}

/// What to do about the TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunSetting {
    /// Use one if that is allowed here.
    Auto,
    /// Do without.
    Off,
    /// Fail without.
    Require,
    /// Fail without, and give it this name.
    Named(String),
}

impl FromStr for TunSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            name if (1..=INTERFACE_NAME_LEN_MAX).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && name.starts_with(|c: char| c.is_ascii_alphabetic()) =>
            {
                Ok(Self::Named(name.to_owned()))
            }
            _ => Err("it is `auto`, `off`, `require` or the name of an interface, at most 15 characters".to_owned()),
        }
    }
}

/// A rule for critical flows, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CriticalSetting(pub Option<Rule>);

impl FromStr for CriticalSetting {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|rule| Self(Some(rule))) }
    }
}

/// A span of time as in `90s`, `5m`, `1h30m`, `7d` or `250ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || "a duration looks like 250ms, 30s, 5m, 1h30m or 7d".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let number: u32 = number.parse().map_err(|_| malformed())?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            "d" => Duration::from_hours(24),
            _ => return Err(malformed()),
        };
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(malformed)?;
        rest = after;
    }
    if total.is_zero() { Err(malformed()) } else { Ok(total) }
}

/// Seconds with a decimal point, as in ping(8), or a [`duration`].
pub fn interval(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => {
            Duration::try_from_secs_f64(seconds).map_err(|_| "it is a number of seconds, as in 0.5".to_owned())?
        }
        Err(_) => duration(text)?,
    };
    within(parsed, INTERVAL_MIN, INTERVAL_MAX, "between 1ms and 1h")
}

/// How long a token is valid.
pub fn token_ttl(text: &str) -> Result<Duration, String> {
    within(duration(text)?, Duration::from_secs(1), TOKEN_TTL_MAX, "between 1s and 30d")
}

/// How long an SVID is valid.
pub fn svid_ttl(text: &str) -> Result<Duration, String> {
    within(duration(text)?, SVID_TTL_MIN, SVID_TTL_MAX, "between 10s and 7d")
}

/// How long after the end of its SVID a node may come back by its old key.
pub fn recovery(text: &str) -> Result<Duration, String> {
    within(duration(text)?, Duration::ZERO, RECOVERY_MAX, "between 0s and 7d")
}

/// How long `x0t bench` may measure.
pub fn measuring_time(text: &str) -> Result<Duration, String> {
    within(duration(text)?, Duration::from_millis(100), Duration::from_mins(1), "between 100ms and 1m")
}

/// How much larger something may be than it was: a number from 1 on.
pub fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 1.0);
    factor.ok_or_else(|| "a factor is a number from 1 on, as in 1.5".to_owned())
}

fn within(value: Duration, min: Duration, max: Duration, allowed: &str) -> Result<Duration, String> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(format!("it must be {allowed}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "0s", "5", "h", "5 m", "1.5h", "-5s", "99999999999s", "5m!", "١s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ping_takes_seconds_with_a_point_and_durations() {
        assert_eq!(interval("0.2"), Ok(Duration::from_millis(200)));
        assert_eq!(interval("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(interval("1"), Ok(Duration::from_secs(1)));
        for text in ["0", "-1", "NaN", "inf", "1e99", "2h", "x"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lives_of_tokens_and_identities_have_bounds() {
        assert!(token_ttl("31d").is_err() && token_ttl("500ms").is_err());
        assert!(svid_ttl("9s").is_err() && svid_ttl("8d").is_err());
        assert_eq!(svid_ttl("10s"), Ok(Duration::from_secs(10)));
    }

    #[test]
    fn a_factor_is_a_number_from_one_on() {
        assert_eq!(factor("1.5"), Ok(1.5));
        for text in ["", "0.9", "-2", "NaN", "inf", "x"] {
            assert!(factor(text).is_err(), "{text}");
        }
        assert!(measuring_time("99ms").is_err() && measuring_time("2m").is_err() && measuring_time("3s").is_ok());
    }

    #[test]
    fn a_port_may_be_left_out_of_an_address() {
        for (text, canonical) in [
            ("192.0.2.7", "192.0.2.7:4600"),
            ("192.0.2.7:99", "192.0.2.7:99"),
            ("2001:db8::7", "[2001:db8::7]:4600"),
            ("[2001:db8::7]", "[2001:db8::7]:4600"),
            ("[2001:db8::7]:99", "[2001:db8::7]:99"),
            ("host.example", "host.example:4600"),
            ("host:99", "host:99"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(canonical.to_owned()), "{text}");
        }
        assert_eq!("127.0.0.1:7".parse::<Endpoint>().unwrap().resolve().unwrap(), ["127.0.0.1:7".parse().unwrap()]);
    }

    #[test]
    fn a_link_local_address_keeps_the_link_that_it_is_of() {
        for (text, canonical) in [
            ("fe80::1%eth0", "[fe80::1%eth0]:4600"),
            ("[fe80::1%eth0.7]", "[fe80::1%eth0.7]:4600"),
            ("[fe80::1%eth0]:99", "[fe80::1%eth0]:99"),
            ("[fe80::1%3]:99", "[fe80::1%3]:99"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(canonical.to_owned()), "{text}");
        }
        // The kernel gives loopback the index 1 everywhere.
        for text in ["[fe80::1%1]:7", "[fe80::1%lo]:7"] {
            let resolved = text.parse::<Endpoint>().unwrap().resolve().unwrap();
            assert_eq!(resolved, ["[fe80::1%1]:7".parse().unwrap()], "{text}");
        }
        assert!("[fe80::1%no-such-link0]:7".parse::<Endpoint>().unwrap().resolve().is_err());
        let too_long = "[fe80::1%an-interface-16b]:7";
        for text in ["[fe80::1%]:7", "fe80::1%a/b", "[fe80::1%eth0]:0", "[fe80::1%eth0]7", "192.0.2.1%eth0", too_long] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", ":4600", "host:", "host:0", "10.0.0.256", "a b", "host:70000", "192.0.2.7:0", "a..b", "-x"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listening_address_is_numeric() {
        assert_eq!(socket_address("0.0.0.0"), Ok("0.0.0.0:4600".parse().unwrap()));
        assert_eq!(socket_address("[::]"), Ok("[::]:4600".parse().unwrap()));
        assert_eq!(socket_address("127.0.0.1:0"), Ok("127.0.0.1:0".parse().unwrap()));
        assert!(socket_address("host:4600").is_err());
    }

    #[test]
    fn a_host_name_becomes_a_node_name() {
        for (host, name) in [
            ("alpha", "alpha"),
            ("Alpha.Example.ORG\n", "alpha"),
            ("john's mac", "john-s-mac"),
            ("--x--", "x"),
            ("", "node"),
            ("localhost", "node"),
            ("€€€", "node"),
        ] {
            assert_eq!(NodeName::from_host_name(host).as_str(), name, "{host}");
        }
        let longest = NodeName::from_host_name(&"a".repeat(200));
        assert_eq!(longest.as_str().len(), NODE_NAME_LEN_MAX);
    }

    #[test]
    fn a_name_is_taken_as_given_or_refused_with_a_suggestion() {
        assert!("web-1.eu".parse::<NodeName>().is_ok());
        for text in ["", "Web", "a/b", "..", "-a", "a-", "a b", &"a".repeat(64)] {
            assert!(text.parse::<NodeName>().is_err(), "{text}");
        }
        assert!("Web 1".parse::<NodeName>().unwrap_err().contains("`web-1`"));
    }

    #[test]
    fn http_is_off_or_somewhere_and_tun_is_a_mode_or_a_name() {
        assert_eq!("off".parse(), Ok(HttpSetting::Off));
        assert_eq!("127.0.0.1:1".parse(), Ok(HttpSetting::On("127.0.0.1:1".parse().unwrap())));
        assert!("8080".parse::<HttpSetting>().is_err());
        assert_eq!("require".parse(), Ok(TunSetting::Require));
        assert_eq!("x0t7".parse(), Ok(TunSetting::Named("x0t7".to_owned())));
        assert!("a/b".parse::<TunSetting>().is_err() && "interface-too-long".parse::<TunSetting>().is_err());
    }
}
