//! The URL of a bundle endpoint (SPIFFE Federation, section 5.2): HTTPS, and nothing in it that would identify a caller.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a URL.
pub const ENDPOINT_URL_LEN_MAX: usize = 2048;
const HTTPS_PORT: u16 = 443;

/// Why something is no URL of a bundle endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    /// Longer than [`ENDPOINT_URL_LEN_MAX`].
    #[error("the URL is longer than {max} bytes", max = ENDPOINT_URL_LEN_MAX)]
    TooLong,
    /// Another scheme: bundles are never fetched in clear.
    #[error("the URL does not begin with https://")]
    NotHttps,
    /// `user@`.
    #[error("the URL may not have a user name")]
    UserInfo,
    /// A part behind `#`.
    #[error("the URL may not have a fragment")]
    Fragment,
    /// Spaces, control characters, anything but ASCII.
    #[error("the URL may have printable ASCII characters only")]
    Characters,
    /// No host, or one that can be none.
    #[error("the URL has no sane host")]
    Host,
    /// A port that is no number from 1 to 65535.
    #[error("the URL has no sane port")]
    Port,
}

/// Where a bundle is fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointUrl {
    host: String,
    port: u16,
    /// With the query, from the slash on.
    path: String,
}

impl EndpointUrl {
    /// A name or an address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 443 if the URL names none.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query: what an HTTP/1.1 request asks for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// As a `Host` header has it (RFC 9110, section 7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS_PORT { host } else { format!("{host}:{}", self.port) }
    }

    /// Where a redirect with this `Location` leads (RFC 9110, section 10.2.2; RFC 3986, section 5.2).
    pub fn redirected(&self, location: &str) -> Result<Self, EndpointUrlError> {
        // A fragment is for whoever shows the document.
        let location = location.split('#').next().unwrap_or_default();
        // A scheme stands before the first slash; behind it, `://` is part of a path or a query.
        let head = location.split(['/', '?']).next().unwrap_or_default();
        if head.contains(':') {
            return location.parse();
        }
        if let Some(rest) = location.strip_prefix("//") {
            return format!("https://{rest}").parse();
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let base = self.path.split('?').next().unwrap_or_default();
            if location.starts_with('?') {
                format!("{base}{location}")
            } else {
                format!("{}{location}", &base[..=base.rfind('/').unwrap_or(0)])
            }
        };
        format!("https://{}{path}", self.authority()).parse()
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > ENDPOINT_URL_LEN_MAX {
            return Err(EndpointUrlError::TooLong);
        }
        let (scheme, rest) = text.split_at_checked(8).ok_or(EndpointUrlError::NotHttps)?;
        if !scheme.eq_ignore_ascii_case("https://") {
            return Err(EndpointUrlError::NotHttps);
        }
        if rest.contains('#') {
            return Err(EndpointUrlError::Fragment);
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte)) {
            return Err(EndpointUrlError::Characters);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(EndpointUrlError::UserInfo);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(EndpointUrlError::Host)?;
                host.parse::<Ipv6Addr>().map_err(|_| EndpointUrlError::Host)?;
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':').ok_or(EndpointUrlError::Port)?),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) if is_host(host) => (host, Some(port)),
                None if is_host(authority) => (authority, None),
                _ => return Err(EndpointUrlError::Host),
            },
        };
        let port = match port {
            None => HTTPS_PORT,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(EndpointUrlError::Port)?
            }
            Some(_) => return Err(EndpointUrlError::Port),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { host: host.to_ascii_lowercase(), port, path: format!("{slash}{path}") })
    }
}

fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

impl TryFrom<String> for EndpointUrl {
    type Error = EndpointUrlError;

    fn try_from(text: String) -> Result<Self, EndpointUrlError> {
        text.parse()
    }
}

impl From<EndpointUrl> for String {
    fn from(url: EndpointUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fe_1_an_endpoint_is_reached_by_https_and_says_nothing_of_its_caller() {
        let ok = |text: &str| text.parse::<EndpointUrl>().unwrap().to_string();
        assert_eq!(ok("https://example.org"), "https://example.org/");
        assert_eq!(ok("HTTPS://Example.ORG:443/b.json"), "https://example.org/b.json");
        assert_eq!(ok("https://127.0.0.1:8443?x=1"), "https://127.0.0.1:8443/?x=1");
        assert_eq!(ok("https://[::1]:8443/b"), "https://[::1]:8443/b");
        let refused = |text: &str| text.parse::<EndpointUrl>().unwrap_err();
        for text in ["http://example.org/", "example.org", "", "ftp://x/", "https:/x", "€€€€€€€€"] {
            assert_eq!(refused(text), EndpointUrlError::NotHttps, "{text}");
        }
        assert_eq!(refused("https://user:secret@example.org/"), EndpointUrlError::UserInfo);
        assert_eq!(refused("https://example.org/#b"), EndpointUrlError::Fragment);
        assert_eq!(refused("https://example.org/ b"), EndpointUrlError::Characters);
        assert_eq!(refused("https://example.org/b\r\nx: y"), EndpointUrlError::Characters);
        for text in ["https://", "https:///b", "https://:8443", "https://[::1/", "https://[x]/", "https://a:b:c/"] {
            assert!(matches!(refused(text), EndpointUrlError::Host | EndpointUrlError::Port), "{text}");
        }
        for text in ["https://a:0/", "https://a:65536/", "https://a:/", "https://a:+1/", "https://[::1]8443/"] {
            assert_eq!(refused(text), EndpointUrlError::Port, "{text}");
        }
        assert_eq!(refused(&format!("https://a/{}", "x".repeat(2048))), EndpointUrlError::TooLong);
    }

    #[test]
    fn fe_4_a_redirect_stays_with_https() {
        let from: EndpointUrl = "https://a.test:8443/x/b.json?v=1".parse().unwrap();
        let to = |location: &str| from.redirected(location).map(|url| url.to_string());
        assert_eq!(to("https://b.test/c#here").as_deref(), Ok("https://b.test/c"));
        assert_eq!(to("//b.test/c").as_deref(), Ok("https://b.test/c"));
        assert_eq!(to("/c").as_deref(), Ok("https://a.test:8443/c"));
        assert_eq!(to("c").as_deref(), Ok("https://a.test:8443/x/c"));
        assert_eq!(to("?v=2").as_deref(), Ok("https://a.test:8443/x/b.json?v=2"));
        assert_eq!(to("/b?u=https://x").as_deref(), Ok("https://a.test:8443/b?u=https://x"));
        assert_eq!(to("?u=https://x").as_deref(), Ok("https://a.test:8443/x/b.json?u=https://x"));
        assert_eq!(to("b/http://x#http://y").as_deref(), Ok("https://a.test:8443/x/b/http://x"));
        assert_eq!(to("ftp:b"), Err(EndpointUrlError::NotHttps));
        assert_eq!(to("http://b.test/c"), Err(EndpointUrlError::NotHttps));
        assert_eq!(to("https://me@b.test/c"), Err(EndpointUrlError::UserInfo));
    }
}
