//! What two far ends tell each other, as bytes.

use std::net::SocketAddr;

use x0t_model::{DecodeError, Reader, Writer};

use super::CANDIDATES_MAX;
use crate::message::{decode_address, encode_address};

/// Two far ends tell each other where they may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Chosen by whoever asks; the answer repeats it.
    pub round: u64,
    /// Whether it answers one.
    pub is_answer: bool,
    /// Where the sender may be reached, at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
}

impl Rendezvous {
    /// Bytes of the longest message: all candidates are IPv6 addresses.
    pub const LEN_MAX: usize = 8 + 1 + 1 + CANDIDATES_MAX * (1 + 16 + 2);

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let candidates = &self.candidates[..self.candidates.len().min(CANDIDATES_MAX)];
        let mut writer = Writer::new(out);
        writer.u64(self.round).u8(self.is_answer.into()).u8(candidates.len() as u8);
        for candidate in candidates {
            encode_address(&mut writer, *candidate);
        }
    }

    /// Reads a whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let round = reader.u64()?;
        let is_answer = match reader.u8()? {
            0 => false,
            1 => true,
            value => return Err(DecodeError::Invalid { field: "rendezvous kind", value: value.into() }),
        };
        let count = usize::from(reader.u8()?);
        if count > CANDIDATES_MAX {
            return Err(DecodeError::TooLong { field: "candidates", value: count, limit: CANDIDATES_MAX });
        }
        let candidates = (0..count).map(|_| decode_address(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { round, is_answer, candidates })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rendezvous_has_its_golden_bytes_and_survives_them() {
        let candidates = ["192.0.2.1:4600", "[2001:db8::1]:4600"].map(|text| text.parse().unwrap()).to_vec();
        let told = Rendezvous { round: 258, is_answer: true, candidates };
        let mut out = Vec::new();
        told.encode(&mut out);
        let golden = [
            &[0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 4, 192, 0, 2, 1, 0x11, 0xf8, 6, 0x20, 1, 0xd, 0xb8][..],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11, 0xf8],
        ];
        assert_eq!(out, golden.concat());
        assert_eq!(Rendezvous::decode(&out), Ok(told));
        let too_many = [&[0; 9][..], &[CANDIDATES_MAX as u8 + 1]].concat();
        assert!(matches!(Rendezvous::decode(&too_many), Err(DecodeError::TooLong { .. })));
        for len in 0..out.len() {
            assert!(Rendezvous::decode(&out[..len]).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(told) = Rendezvous::decode(&bytes) {
                let mut out = Vec::new();
                told.encode(&mut out);
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
