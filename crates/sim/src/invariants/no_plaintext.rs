//! Nothing that a host hands over to be carried is ever readable on the underlay.

/// What simulated hosts put into their packets, so that it can be looked for.
pub const MARKER: &[u8] = b"this must not be readable";

pub fn check(datagram: &[u8]) {
    let readable = datagram.windows(MARKER.len()).any(|window| window == MARKER);
    assert!(!readable, "a datagram of {} bytes shows what a host sent", datagram.len());
}

#[cfg(test)]
mod tests {
    #[test]
    #[should_panic(expected = "shows what a host sent")]
    fn a_readable_packet_is_found() {
        super::check(&[&[0; 7], super::MARKER].concat());
    }
}
