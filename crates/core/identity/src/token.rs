//! Join tokens: what an operator carries from the authority to the next machine.
//!
//! ```text
//! x0t1.  base64url( secret 32, bundle digest 32, expires u64, authority u16-prefixed SPIFFE ID,
//!                   addresses u8 count, each: family u8 (4 or 6), 4 or 16 bytes, port u16,
//!                   CRC-32 of "x0t1." and all that u32 )          all big-endian, no padding
//! ```
//!
//! A CRC and not a hash, because a CRC-32 detects *every* error that is shorter than 32 bits: any one mistyped character, and
//! any four in a row. It protects against typing, not against forgery; nothing in a token needs protection from its holder.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use rustls_pki_types::CertificateDer;
use x0t_model::{DecodeError, Reader, SpiffeId, SpiffeIdError, TrustDomain, UnixTime, Writer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::bundle::{BUNDLE_AUTHORITIES_MAX, Bundle};
use crate::leaf_rules::parse;
use crate::verify::{CHAIN_CERTIFICATES_MAX, VerifyError, verify_chain};

/// Addresses in a token: a host has few, and a token is typed or pasted.
pub const TOKEN_ADDRESSES_MAX: usize = 8;
const PREFIX: &str = "x0t1.";
/// A SPIFFE ID of the longest kind and all addresses, in base64, with room.
const TEXT_LEN_MAX: usize = 4096;
const SPIFFE_ID_LEN_MAX: usize = 2048;

/// What the holder of a token knows. Wiped when dropped, printed never, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct JoinSecret([u8; JoinSecret::LEN]);

impl JoinSecret {
    /// Bytes.
    pub const LEN: usize = 32;

    /// Wraps bytes that came from a wire or from [`Entropy`](x0t_model::Entropy).
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the wire.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// What an authority stores: a hash from which the secret, 256 random bits, cannot be found again.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let input = Zeroizing::new([b"x0tta6bl4 2026-11 join secret\0".as_slice(), &self.0].concat());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &input).as_ref());
        hash
    }
}

impl PartialEq for JoinSecret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for JoinSecret {}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// Everything a machine needs to join: where to knock, what to say, and how to know that the right authority answers.
///
/// `Display` writes the token as text, secret included; `Debug` leaves the secret out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Shown once, to the authority.
    pub secret: JoinSecret,
    /// [`Bundle::digest`] of the trust domain at the time the token was made.
    pub bundle_digest: [u8; 32],
    /// Who must answer.
    pub authority: SpiffeId,
    /// Where it, or a member that can relay to it, may be reached.
    pub addresses: Vec<SocketAddr>,
    /// The authority refuses it from the next second on.
    pub expires: UnixTime,
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// Something else altogether.
    #[error("this is not a join token: join tokens begin with `{PREFIX}`")]
    NotAToken,
    /// A token of another version of x0t.
    #[error("this join token has format `{0}`, which this version of x0t does not read")]
    OtherFormat(String),
    /// A character that no token has.
    #[error("the join token has a character at position {0} that no token has: it was mistyped or cut off")]
    BadCharacter(usize),
    /// All characters are possible, but not together.
    #[error("the checksum of the join token does not fit: it was mistyped or cut off")]
    Checksum,
    /// The checksum fits, the content does not.
    #[error("the join token is malformed")]
    Malformed(#[from] DecodeError),
    /// The checksum fits, the authority's identity does not.
    #[error("the join token names no valid authority")]
    Authority(#[from] SpiffeIdError),
}

impl JoinToken {
    /// The trust domain to be joined.
    pub const fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    /// Checks, on the joiner's side, who answers: `presented` is what
    /// [`Authority::join_chain`](crate::Authority::join_chain) shows, a chain (leaf first) and the authorities of the trust
    /// domain behind it. They must be the ones this token was made for, the chain must lead to one of them, and the leaf must
    /// be the authority's. Returns the bundle, which the joiner has thereby come to trust.
    pub fn verify_authority(&self, presented: &[CertificateDer<'_>], now: UnixTime) -> Result<Bundle, VerifyError> {
        if presented.len() > CHAIN_CERTIFICATES_MAX + BUNDLE_AUTHORITIES_MAX {
            return Err(VerifyError::ChainTooLong(presented.len()));
        }
        let (mut chain, mut authorities) = (Vec::new(), Vec::new());
        for certificate in presented {
            let parsed = parse(certificate)?;
            let self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
            if self_issued && !chain.is_empty() {
                authorities.push(certificate.clone().into_owned());
            } else {
                chain.push(certificate.clone());
            }
        }
        authorities.sort_by_cached_key(not_before);
        let bundle = self.pinned_among(&authorities).ok_or(VerifyError::WrongBundle)?;
        let found = verify_chain(&chain, &bundle, now)?;
        if found != self.authority {
            return Err(VerifyError::WrongPeer { found, wanted: self.authority.clone() });
        }
        Ok(bundle)
    }

    /// The authorities that this token was made for, among those that are shown, in the order of their age. Since it was made, some may have been
    /// added at the end and some pruned at the beginning, so they are a run of what was shown or part of it; nothing outside
    /// the run is believed.
    fn pinned_among(&self, shown: &[CertificateDer<'static>]) -> Option<Bundle> {
        for first in 0..shown.len() {
            for last in first..shown.len() {
                let bundle = Bundle::new(self.trust_domain().clone(), shown[first..=last].to_vec(), 0).ok()?;
                if verify_slices_are_equal(&bundle.digest(), &self.bundle_digest).is_ok() {
                    return Some(bundle);
                }
            }
        }
        None
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room for everything at once: a growing buffer would leave copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SPIFFE_ID_LEN_MAX + 512));
        let mut writer = Writer::new(&mut bytes);
        let addresses = &self.addresses[..self.addresses.len().min(TOKEN_ADDRESSES_MAX)];
        writer.bytes(self.secret.as_bytes()).bytes(&self.bundle_digest).u64(self.expires.as_secs());
        writer.prefixed(self.authority.to_string().as_bytes()).u8(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => writer.u8(4).bytes(&ip.octets()),
                IpAddr::V6(ip) => writer.u8(6).bytes(&ip.octets()),
            };
            writer.u16(address.port());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, ParseTokenError> {
        let mut reader = Reader::new(bytes);
        let secret = JoinSecret(reader.array()?);
        let bundle_digest = reader.array()?;
        let expires = UnixTime::from_secs(reader.u64()?);
        let authority = reader.prefixed("authority", SPIFFE_ID_LEN_MAX)?;
        let authority = str::from_utf8(authority).map_err(|_| SpiffeIdError::WrongScheme)?.parse()?;
        let count = usize::from(reader.u8()?);
        if count > TOKEN_ADDRESSES_MAX {
            let limit = TOKEN_ADDRESSES_MAX;
            return Err(DecodeError::TooLong { field: "addresses", value: count, limit }.into());
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let ip: IpAddr = match reader.u8()? {
                4 => reader.array::<4>()?.into(),
                6 => reader.array::<16>()?.into(),
                value => return Err(DecodeError::Invalid { field: "address family", value: value.into() }.into()),
            };
            addresses.push(SocketAddr::new(ip, reader.u16()?));
        }
        reader.finish()?;
        Ok(Self { secret, bundle_digest, authority, addresses, expires })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", *Zeroizing::new(BASE64URL_NOPAD.encode(&self.encode())))
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    /// White space around the token is what pasting leaves behind; inside, it is a mistake.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim_ascii();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let format = text.split_once('.').map(|(format, _)| format);
            return Err(match format.filter(|format| format.starts_with("x0t") && format.len() <= 8) {
                Some(format) => ParseTokenError::OtherFormat(format.to_owned()),
                None => ParseTokenError::NotAToken,
            });
        };
        if body.len() > TEXT_LEN_MAX {
            let (field, value, limit) = ("token", body.len(), TEXT_LEN_MAX);
            return Err(DecodeError::TooLong { field, value, limit }.into());
        }
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| ParseTokenError::BadCharacter(PREFIX.len() + error.position + 1))?;
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(ParseTokenError::Checksum)?;
        if checksum(content) != u32::from_be_bytes(*sum) {
            return Err(ParseTokenError::Checksum);
        }
        Self::decode(content)
    }
}

/// How old a certificate is; the order among those of one second follows from their bytes.
fn not_before(certificate: &CertificateDer<'static>) -> (i64, Vec<u8>) {
    let began = parse(certificate).map_or(0, |parsed| parsed.validity().not_before.timestamp());
    (began, certificate.to_vec())
}

/// CRC-32 (ISO-HDLC, the one of Ethernet and zip) of the prefix and `content`.
fn checksum(content: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in PREFIX.bytes().chain(content.iter().copied()) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_crc_32() {
        // The check value of CRC-32/ISO-HDLC is 0xcbf43926 over "123456789"; with the prefix before it, computed with zlib.
        assert_eq!(checksum(b"123456789"), CRC_OF_PREFIXED_CHECK);
    }

    const CRC_OF_PREFIXED_CHECK: u32 = 0xbd350927;
}
