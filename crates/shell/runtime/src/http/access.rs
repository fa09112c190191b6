//! Who may ask.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Over TCP, to this address of ours.
    Tcp(SocketAddr),
    /// Over the admin socket, from a process of this user.
    Admin {
        /// Effective user id of the process.
        uid: u32,
    },
}

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Refuses whom [`refusal`] refuses and hardens every answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin>().copied();
    let mut response = match refusal(origin, request.headers(), rustix::process::geteuid().as_raw()) {
        Some(reason) => (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn refusal(origin: Option<Origin>, headers: &HeaderMap, me: u32) -> Option<&'static str> {
    match origin {
        Some(Origin::Admin { uid }) if uid == me || uid == 0 => None,
        Some(Origin::Admin { .. }) => Some("only the user that runs the node, or root, may use this socket"),
        Some(Origin::Tcp(local)) => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let allowed = host.is_some_and(|host| names_this_host(host, local.ip()));
            (!allowed).then_some("ask for this page by a loopback name or by this host's address")
        }
        None => Some("unknown origin"),
    }
}

/// Whether a Host header (RFC 9110 section 7.2) means this host rather than somebody's domain name.
fn names_this_host(host: &str, local: IpAddr) -> bool {
    // An address in brackets, or whatever stands before the port.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == local,
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_names_a_loopback_or_the_address_that_was_asked() {
        let local: IpAddr = "192.0.2.7".parse().unwrap();
        for host in
            ["localhost", "LocalHost:8080", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080", "[::1]", "192.0.2.7:80"]
        {
            assert!(names_this_host(host, local), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "192.0.2.8", "[::2]", "::1"]
        {
            assert!(!names_this_host(host, local), "{host}");
        }
    }

    #[test]
    fn the_admin_socket_is_for_the_own_user_and_root() {
        let ask = |uid| refusal(Some(Origin::Admin { uid }), &HeaderMap::new(), 1000);
        assert_eq!((ask(1000), ask(0)), (None, None));
        assert!(ask(1001).is_some());
        assert!(refusal(None, &HeaderMap::new(), 1000).is_some());
    }
}
