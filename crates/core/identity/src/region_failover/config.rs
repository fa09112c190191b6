//! Regions and numbers as an operator writes them, into values that hold: one conversion, all mistakes at once.
//!
//! Two ways to write the same thing, environment and file, meet in [`FailoverSettings`]:
//!
//! ```text
//! X0T_SPIRE_REGIONS="eu=unix:///run/spire/agent.sock|https://eu.example.org/ready|prio=0;us=unix:///run/spire-us/agent.sock"
//! X0T_FAILOVER_INTERVAL=30s  X0T_FAILOVER_THRESHOLD=3  X0T_FAILOVER_TIMEOUT=1s
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mistakes::{Ledger, RegionMistakes};

/// More regions than this are a mistake in writing; each is checked all the time.
pub const REGIONS_MAX: usize = 16;
/// A region's name is a label of metrics: as long as a DNS label at most (RFC 1035, section 2.3.4).
pub const REGION_NAME_LEN_MAX: usize = 63;
/// The text of all regions.
const TEXT_LEN_MAX: usize = 16 * 1024;
/// A path of a Unix socket ends at 107 bytes in Linux (`sockaddr_un`).
const SOCKET_PATH_LEN_MAX: usize = 107;
const URL_LEN_MAX: usize = 2048;

const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
const THRESHOLD: (u32, u32) = (1, 100);

/// Where a region's Workload API is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionEndpoint {
    /// `unix:///absolute/path`.
    Unix(String),
    /// `tcp://IP:port`, of this host.
    Tcp(SocketAddr),
}

impl RegionEndpoint {
    /// Reads an endpoint as the SPIFFE Workload Endpoint specification, section 4, writes it; TCP to a loopback address only.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path {
                _ if !path.starts_with('/') => Err(format!("`{text}` needs an absolute path: unix:///run/agent.sock")),
                _ if path.contains(['?', '#', '\0']) => Err(format!("`{text}` may have neither query nor fragment")),
                _ if path.len() > SOCKET_PATH_LEN_MAX => {
                    Err(format!("the socket's path has {} bytes, {SOCKET_PATH_LEN_MAX} are possible", path.len()))
                }
                _ => Ok(Self::Unix(path.to_owned())),
            };
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let wrong = |_| format!("`{text}` needs an IP address and a port, and nothing else: tcp://127.0.0.1:8000");
            let address: SocketAddr = rest.parse().map_err(wrong)?;
            // Nothing protects a Workload API's TCP but the host around it, and private keys come over it.
            return if address.ip().to_canonical().is_loopback() {
                Ok(Self::Tcp(address))
            } else {
                Err(format!(
                    "`{text}` is not on this host, and private keys would cross the network in clear: run an agent here and name \
                     its Unix socket, unix:///run/agent.sock"
                ))
            };
        }
        Err(format!("`{text}` is no Workload API endpoint: unix:///run/agent.sock or tcp://127.0.0.1:8000"))
    }
}

impl fmt::Display for RegionEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// How a health check is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In clear.
    Http,
    /// Over TLS, the certificate judged by the host's public trust anchors.
    Https,
}

/// `http[s]://host[:port][/path][?query]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthUrl {
    /// In clear or over TLS.
    pub scheme: Scheme,
    /// A DNS name or an IP address; an IPv6 address without its brackets.
    pub host: String,
    /// 80 or 443 where none is written.
    pub port: u16,
    /// Path and query, beginning with a slash.
    pub path: String,
}

impl HealthUrl {
    /// Reads a URL. User info and fragments are refused: neither means anything to a health check.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("`{text}` {what}: https://host[:port]/ready"));
        if text.len() > URL_LEN_MAX {
            return Err(format!("the health URL has {} bytes, {URL_LEN_MAX} are possible", text.len()));
        }
        let (scheme, rest, port) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest, 80),
            Some(("https", rest)) => (Scheme::Https, rest, 443),
            _ => return wrong("is no HTTP or HTTPS URL"),
        };
        if rest.contains('#') || !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("may have neither a fragment nor spaces");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return wrong("may not have a user name");
        }
        let (host, written_port) = match authority.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                Some((host, after)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, after.strip_prefix(':')),
                _ => return wrong("has no IPv6 address in its brackets"),
            },
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty()
            || host.len() > 253
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
        {
            return wrong("has no sane host");
        }
        let Ok(port) = written_port.map_or(Ok(port), str::parse) else { return wrong("has no sane port") };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { scheme, host: host.to_owned(), port, path: format!("{slash}{path}") })
    }

    /// Host and port as a `Host` header has them (RFC 9110, section 7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for HealthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// One place to get identities from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// What it is called in events, metrics and commands.
    pub name: String,
    /// Its Workload API.
    pub endpoint: RegionEndpoint,
    /// Its health check; without one, a connection to the endpoint is the check.
    pub health: Option<HealthUrl>,
    /// Lower is preferred.
    pub priority: u16,
}

/// A checked configuration: at least one region, sane numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    regions: Vec<Region>,
    /// Each region is checked this often. 30 s: with the threshold, 90 s until a silent region is left, while an SVID of an
    /// hour has half an hour to spare.
    pub interval: Duration,
    /// So many failures in a row end the use of a region. Three: one is ordinary, two are bad luck.
    pub threshold: u32,
    /// A check has to be answered in less time than this. Never longer than the interval.
    pub timeout: Duration,
    /// A region is used at least this long before a preferred one is come back to. Two intervals.
    pub dwell: Duration,
    /// Failed calls count at most this often. A sixth of the interval: a region that refuses all calls is left after two
    /// such spans, and an agent that restarts within a few seconds is not left at all.
    pub passive_spacing: Duration,
}

impl FailoverConfig {
    /// `regions` with the defaults: every 30 s, three failures, one second.
    pub fn with_defaults(regions: Vec<Region>) -> Result<Self, RegionMistakes> {
        let settings = FailoverSettings::default();
        settings.checked("regions", |ledger| sane_regions(regions, "regions", ledger))
    }

    /// As it is written in a file: read again it gives the same.
    pub fn to_settings(&self) -> FailoverSettings {
        let written = |duration: Duration| Some(format!("{}ms", duration.as_millis()));
        let list = self.regions.iter().map(|region| RegionSettings {
            name: region.name.clone(),
            endpoint: region.endpoint.to_string(),
            health: region.health.as_ref().map(ToString::to_string),
            priority: Some(region.priority),
        });
        FailoverSettings {
            list: list.collect(),
            interval: written(self.interval),
            threshold: Some(self.threshold),
            timeout: written(self.timeout),
        }
    }

    /// The regions in the order they were written. Never empty.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}

/// A region as the configuration file writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSettings {
    /// Lower-case letters, digits and dashes.
    pub name: String,
    /// `unix:///absolute/path` or `tcp://IP:port` with a loopback address.
    pub endpoint: String,
    /// `http[s]://host[:port]/path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Lower is preferred; the position in the list if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
}

/// The section `regions` of the configuration file, or what the environment says in its place: text, not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverSettings {
    /// Each region once.
    pub list: Vec<RegionSettings>,
    /// `30s`, `500ms`, `5m`.
    pub interval: Option<String>,
    /// Failures in a row.
    pub threshold: Option<u32>,
    /// `1s`, `500ms`.
    pub timeout: Option<String>,
}

impl FailoverSettings {
    /// Checks everything and says everything that is wrong.
    pub fn into_config(self) -> Result<FailoverConfig, RegionMistakes> {
        let list = self.list.clone();
        self.checked("regions", |ledger| {
            let regions = list.into_iter().enumerate().filter_map(|(at, settings)| {
                let place = format!("regions.list[{at}]");
                let fields = Fields {
                    name: settings.name,
                    endpoint: settings.endpoint,
                    health: settings.health,
                    priority: settings.priority,
                };
                fields.into_region(&place, at, ledger)
            });
            let regions = regions.collect();
            sane_regions(regions, "regions.list", ledger)
        })
    }

    /// What the variables `X0T_SPIRE_REGIONS` and `X0T_FAILOVER_{INTERVAL,THRESHOLD,TIMEOUT}` say. Pure: the values are
    /// handed in. A region is `NAME=ENDPOINT[|HEALTH-URL][|prio=N]`; regions are separated by `;`.
    pub fn parse_environment(
        regions: &str,
        interval: Option<&str>,
        threshold: Option<&str>,
        timeout: Option<&str>,
    ) -> Result<FailoverConfig, RegionMistakes> {
        let mut ledger = Ledger::default();
        let threshold = threshold.and_then(|text| {
            let number = text.trim().parse().map_err(|_| format!("`{text}` is no whole number of failures"));
            ledger.take("X0T_FAILOVER_THRESHOLD", number)
        });
        let settings = Self {
            list: Vec::new(),
            interval: interval.map(str::to_owned),
            threshold,
            timeout: timeout.map(str::to_owned),
        };
        settings.checked_into("X0T_FAILOVER_", ledger, |ledger| parse_regions(regions, ledger))
    }

    fn checked(
        self,
        place: &str,
        regions: impl FnOnce(&mut Ledger) -> Vec<Region>,
    ) -> Result<FailoverConfig, RegionMistakes> {
        self.checked_into(&format!("{place}."), Ledger::default(), regions)
    }

    fn checked_into(
        self,
        prefix: &str,
        mut ledger: Ledger,
        regions: impl FnOnce(&mut Ledger) -> Vec<Region>,
    ) -> Result<FailoverConfig, RegionMistakes> {
        let regions = regions(&mut ledger);
        // `X0T_FAILOVER_INTERVAL` in one way of writing is `regions.interval` in the other.
        let place = |key: &str| match prefix.ends_with('_') {
            true => format!("{prefix}{}", key.to_ascii_uppercase()),
            false => format!("{prefix}{key}"),
        };
        let mut duration = |key: &str, text: Option<String>, default, range| match text {
            None => default,
            Some(text) => ledger.take(&place(key), parse_duration(&text, range)).unwrap_or(default),
        };
        let interval = duration("interval", self.interval, Duration::from_secs(30), INTERVAL);
        let timeout = duration("timeout", self.timeout, Duration::from_secs(1).min(interval), TIMEOUT);
        let threshold = self.threshold.unwrap_or(3);
        if !(THRESHOLD.0..=THRESHOLD.1).contains(&threshold) {
            ledger.note(&place("threshold"), format!("{threshold} is not between {} and {}", THRESHOLD.0, THRESHOLD.1));
        }
        if timeout > interval {
            ledger.note(&place("timeout"), format!("{timeout:?} is longer than the interval of {interval:?}"));
        }
        let (dwell, passive_spacing) = (interval * 2, interval / 6);
        ledger.close(Some(FailoverConfig { regions, interval, threshold, timeout, dwell, passive_spacing }))
    }
}

/// A region's parts as text, whichever way they were written.
struct Fields {
    name: String,
    endpoint: String,
    health: Option<String>,
    priority: Option<u16>,
}

impl Fields {
    fn into_region(self, place: &str, at: usize, ledger: &mut Ledger) -> Option<Region> {
        let named = if self.name.is_empty() { place.to_owned() } else { format!("{place} ({})", self.name) };
        let name = ledger.take(&named, parse_name(&self.name));
        let endpoint = ledger.take(&named, RegionEndpoint::parse(&self.endpoint));
        let health = match self.health {
            None => Some(None),
            Some(text) => ledger.take(&named, HealthUrl::parse(&text)).map(Some),
        };
        let priority = self.priority.unwrap_or(u16::try_from(at).unwrap_or(u16::MAX));
        Some(Region { name: name?, endpoint: endpoint?, health: health?, priority })
    }
}

fn parse_regions(text: &str, ledger: &mut Ledger) -> Vec<Region> {
    const PLACE: &str = "X0T_SPIRE_REGIONS";
    if text.len() > TEXT_LEN_MAX {
        ledger.note(PLACE, format!("has {} bytes, {TEXT_LEN_MAX} are possible", text.len()));
        return Vec::new();
    }
    let written = text.split(';').map(str::trim).filter(|region| !region.is_empty());
    let regions = written.enumerate().filter_map(|(at, region)| {
        let place = format!("{PLACE}, region {}", at + 1);
        parse_region(region, &place, at, ledger)
    });
    let regions = regions.collect();
    sane_regions(regions, PLACE, ledger)
}

fn parse_region(text: &str, place: &str, at: usize, ledger: &mut Ledger) -> Option<Region> {
    let Some((name, rest)) = text.split_once('=') else {
        ledger.note(place, format!("`{text}` is not NAME=ENDPOINT[|HEALTH-URL][|prio=N]"));
        return None;
    };
    let mut parts = rest.split('|').map(str::trim);
    let endpoint = parts.next().unwrap_or_default().to_owned();
    let mut fields = Fields { name: name.trim().to_owned(), endpoint, health: None, priority: None };
    let mut whole = true;
    for part in parts {
        let mut twice = false;
        match part.strip_prefix("prio=") {
            Some(number) => match number.parse() {
                Ok(number) => twice = fields.priority.replace(number).is_some(),
                Err(_) => {
                    ledger.note(place, format!("`{part}` is no priority from 0 to {}", u16::MAX));
                    whole = false;
                }
            },
            None if part.starts_with("http") => twice = fields.health.replace(part.to_owned()).is_some(),
            None => {
                ledger.note(place, format!("`{part}` is neither a health URL nor prio=N"));
                whole = false;
            }
        }
        if twice {
            ledger.note(place, format!("`{part}` says again what was said before"));
            whole = false;
        }
    }
    fields.into_region(place, at, ledger).filter(|_| whole)
}

/// What no region can know alone: how many there are, and that they differ.
fn sane_regions(regions: Vec<Region>, place: &str, ledger: &mut Ledger) -> Vec<Region> {
    let nothing_wrong_so_far = ledger.is_empty();
    if regions.is_empty() && nothing_wrong_so_far {
        ledger.note(place, "names no region");
    }
    if regions.len() > REGIONS_MAX {
        ledger.note(place, format!("names {} regions, {REGIONS_MAX} are possible", regions.len()));
    }
    for (at, region) in regions.iter().enumerate() {
        let before = &regions[..at];
        if before.iter().any(|other| other.name == region.name) {
            ledger.note(place, format!("the name `{}` is given twice", region.name));
        }
        if let Some(other) = before.iter().find(|other| other.endpoint == region.endpoint) {
            // One agent under two names would look like a spare and be none.
            ledger.note(
                place,
                format!("`{}` and `{}` have the same endpoint {}", other.name, region.name, region.endpoint),
            );
        }
    }
    regions
}

fn parse_name(name: &str) -> Result<String, String> {
    let sane = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() || name.len() > REGION_NAME_LEN_MAX || !name.bytes().all(sane) {
        return Err(format!("a region's name is 1 to {REGION_NAME_LEN_MAX} of a-z, 0-9 and '-', not `{name}`"));
    }
    Ok(name.to_owned())
}

fn parse_duration(text: &str, (min, max): (Duration, Duration)) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration such as 30s, 500ms or 5m");
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (digits, unit) = text.split_at(unit_at);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let duration = Duration::from_millis(number.saturating_mul(millis));
    if duration < min || duration > max {
        return Err(format!("`{text}` is not between {min:?} and {max:?}"));
    }
    Ok(duration)
}
