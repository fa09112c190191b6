//! Cookies: an initiator proves that it receives at its address before anything is kept for it (RFC 9147 section 5.1).

use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{Entropy, Instant};
use zeroize::ZeroizeOnDrop;

use crate::{Carrier, Purpose};

/// Bytes of a cookie: the bucket it was made in and a MAC.
pub(crate) const COOKIE_LEN: usize = 8 + MAC_LEN;
const MAC_LEN: usize = 16;

/// Cookies are made of the bucket of time they are asked for in, and accepted in this and the next.
const BUCKET: Duration = Duration::from_secs(5);
/// A secret is replaced at this age. Its predecessor lives on until the last cookie made with it is stale.
const SECRET_AGE: Duration = Duration::from_secs(120);

/// Makes and checks cookies without remembering any.
#[derive(ZeroizeOnDrop)]
pub(crate) struct CookieJar {
    secret: [u8; 32],
    previous: [u8; 32],
    #[zeroize(skip)]
    secret_since: Option<Instant>,
}

impl CookieJar {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self { secret: entropy.bytes(), previous: entropy.bytes(), secret_since: None }
    }

    /// The cookie for the initiator that calls itself `src_index` at `carrier`.
    pub(crate) fn bake(
        &mut self,
        carrier: Carrier,
        purpose: Purpose,
        src_index: u32,
        now: Instant,
        entropy: &mut Entropy,
    ) -> [u8; COOKIE_LEN] {
        self.rotate(now, entropy);
        let bucket = bucket_of(now);
        let mut cookie = [0; COOKIE_LEN];
        cookie[..8].copy_from_slice(&bucket.to_be_bytes());
        cookie[8..].copy_from_slice(&mac(&self.secret, carrier, purpose, src_index, bucket).as_bytes()[..MAC_LEN]);
        cookie
    }

    /// Whether `cookie` was made here for this initiator, not long ago.
    pub(crate) fn accepts(
        &self,
        cookie: &[u8],
        carrier: Carrier,
        purpose: Purpose,
        src_index: u32,
        now: Instant,
    ) -> bool {
        let Some((bucket, shown)) = cookie.split_first_chunk::<8>() else { return false };
        let Ok(shown) = <[u8; MAC_LEN]>::try_from(shown) else { return false };
        let bucket = u64::from_be_bytes(*bucket);
        if bucket_of(now).checked_sub(bucket).is_none_or(|age| age > 1) {
            return false;
        }
        [&self.secret, &self.previous].into_iter().any(|secret| {
            let mut expected = [0; 32];
            let mut padded = [0; 32];
            expected[..MAC_LEN]
                .copy_from_slice(&mac(secret, carrier, purpose, src_index, bucket).as_bytes()[..MAC_LEN]);
            padded[..MAC_LEN].copy_from_slice(&shown);
            // `blake3::Hash` compares in constant time.
            blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(padded)
        })
    }

    fn rotate(&mut self, now: Instant, entropy: &mut Entropy) {
        let since = *self.secret_since.get_or_insert(now);
        if now.since(since) >= SECRET_AGE {
            self.previous = std::mem::replace(&mut self.secret, entropy.bytes());
            self.secret_since = Some(now);
        }
    }
}

fn bucket_of(now: Instant) -> u64 {
    now.as_millis() / BUCKET.as_millis() as u64
}

fn mac(secret: &[u8; 32], carrier: Carrier, purpose: Purpose, src_index: u32, bucket: u64) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&bucket.to_be_bytes()).update(&src_index.to_be_bytes()).update(&[purpose as u8]);
    match carrier {
        Carrier::Udp(address) => absorb_address(hasher.update(&[0]), address),
        Carrier::Overlay(node) => {
            hasher.update(&[1]).update(node.as_bytes());
        }
        Carrier::Relayed { via, remote } => {
            let transport = u8::from(remote.udp().is_none());
            absorb_address(hasher.update(&[2, transport]).update(via.as_bytes()), remote.address());
        }
        Carrier::Tls(address) => absorb_address(hasher.update(&[3]), address),
    }
    hasher.finalize()
}

fn absorb_address(hasher: &mut blake3::Hasher, address: SocketAddr) {
    hasher.update(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => hasher.update(&v4.ip().octets()),
        SocketAddr::V6(v6) => hasher.update(&v6.ip().octets()).update(&v6.scope_id().to_be_bytes()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Purpose = Purpose::Link;

    fn udp(text: &str) -> Carrier {
        Carrier::Udp(text.parse().unwrap())
    }

    fn jar() -> (CookieJar, Entropy) {
        let mut entropy = Entropy::new([3; 32]);
        (CookieJar::new(&mut entropy), entropy)
    }

    #[test]
    fn a_cookie_is_good_for_its_initiator_alone() {
        let (mut jar, mut entropy) = jar();
        let (here, now) = (udp("192.0.2.1:4600"), Instant::from_millis(60_000));
        let cookie = jar.bake(here, LINK, 7, now, &mut entropy);
        assert!(jar.accepts(&cookie, here, LINK, 7, now));
        assert!(!jar.accepts(&cookie, here, LINK, 8, now), "another index");
        assert!(!jar.accepts(&cookie, here, Purpose::Join, 7, now), "another purpose");
        for other in [
            udp("192.0.2.1:4601"),
            udp("192.0.2.2:4600"),
            udp("[2001:db8::1]:4600"),
            Carrier::Tls("192.0.2.1:4600".parse().unwrap()),
            Carrier::Overlay(x0t_model::NodeId::from_bytes([0; 16])),
            Carrier::Relayed { via: x0t_model::NodeId::from_bytes([0; 16]), remote: "192.0.2.1:4600".parse().unwrap() },
        ] {
            assert!(!jar.accepts(&cookie, other, LINK, 7, now), "{other:?}");
        }
    }

    #[test]
    fn a_changed_or_cut_cookie_is_refused() {
        let (mut jar, mut entropy) = jar();
        let (here, now) = (udp("192.0.2.1:4600"), Instant::from_millis(60_000));
        let cookie = jar.bake(here, LINK, 7, now, &mut entropy);
        for at in 0..COOKIE_LEN {
            let mut changed = cookie;
            changed[at] ^= 1;
            assert!(!jar.accepts(&changed, here, LINK, 7, now), "byte {at}");
            assert!(!jar.accepts(&cookie[..at], here, LINK, 7, now), "cut to {at}");
        }
    }

    #[test]
    fn a_cookie_outlives_its_secret_but_not_its_time() {
        let (mut jar, mut entropy) = jar();
        let here = udp("192.0.2.1:4600");
        jar.bake(here, LINK, 7, Instant::ZERO, &mut entropy);
        let baked_at = Instant::from_millis(119_999);
        let cookie = jar.bake(here, LINK, 7, baked_at, &mut entropy);
        let rotated_at = Instant::from_millis(121_000);
        assert_ne!(jar.bake(here, LINK, 7, rotated_at, &mut entropy)[8..], cookie[8..]);
        assert!(jar.accepts(&cookie, here, LINK, 7, rotated_at), "made with the previous secret");
        assert!(!jar.accepts(&cookie, here, LINK, 7, baked_at + 2 * BUCKET), "stale");
        assert!(!jar.accepts(&cookie, here, LINK, 7, Instant::ZERO), "from the future");
    }
}
