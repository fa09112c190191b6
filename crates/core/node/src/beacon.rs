//! What a node shouts into its local network: "a node of this mesh listens on these ports".
//!
//! ```text
//! magic "x0tb" | version 1 | nonce 16 | sealed: port v4 u16, port v6 u16, node id 16 | tag 16
//! ```
//!
//! Key and keystream come from the mesh's name, so that only who knows the name can read or make a beacon. A stranger in the same
//! network learns that some node is there, but neither of which mesh nor whether it is the one it saw yesterday. That is all
//! a beacon is good for: whoever knows the name can make any, and whoever listens can send one again. Nothing in it is
//! believed; it makes a node try an address, and the handshake decides.

use x0t_model::{DecodeError, NodeId, Reader, TrustDomain, Writer};

/// Bytes of a beacon.
pub const BEACON_LEN: usize = MAGIC.len() + 1 + NONCE_LEN + SEALED_LEN + TAG_LEN;

const MAGIC: &[u8; 4] = b"x0tb";
const VERSION: u8 = 1;
const NONCE_LEN: usize = 16;
const SEALED_LEN: usize = 2 + 2 + NodeId::LEN;
const TAG_LEN: usize = 16;

/// What separates these hashes from all others that are made of a mesh's name.
const CONTEXT: &str = "x0tta6bl4 2026-11 local discovery beacon";

/// Who is where, if the beacon's maker is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Who claims to be there. Saves a handshake with a neighbour; proves nothing.
    pub node: NodeId,
    /// Its UDP port over IPv4, 0 if it does not listen there.
    pub port_v4: u16,
    /// Its UDP port over IPv6, 0 if it does not listen there.
    pub port_v6: u16,
}

/// Why a beacon says nothing to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// Something else was sent to the group.
    #[error("not a beacon")]
    Foreign(#[from] DecodeError),
    /// A beacon of a version that is not known here.
    #[error("beacon version {0} is not known")]
    Version(u8),
    /// A beacon of another mesh, or made without knowing the name of this one.
    #[error("a beacon of another mesh")]
    OtherMesh,
}

/// Makes and reads the beacons of one mesh.
#[derive(Clone)]
pub struct BeaconKey([u8; 32]);

impl std::fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeaconKey")
    }
}

impl BeaconKey {
    /// The key of the mesh with this name.
    pub fn of(trust_domain: &TrustDomain) -> Self {
        Self(blake3::derive_key(CONTEXT, trust_domain.as_str().as_bytes()))
    }

    /// The beacon's bytes. A nonce is used once.
    pub fn seal(&self, beacon: Beacon, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let mut out = Vec::with_capacity(BEACON_LEN);
        Writer::new(&mut out).bytes(MAGIC).u8(VERSION).bytes(&nonce);
        let start = out.len();
        Writer::new(&mut out).u16(beacon.port_v4).u16(beacon.port_v6).bytes(beacon.node.as_bytes());
        self.mask(&nonce, &mut out[start..]);
        let tag = self.tag(&out);
        out.extend_from_slice(&tag);
        out
    }

    /// What a beacon says.
    ///
    /// # Errors
    /// If it is none, or none of this mesh.
    pub fn open(&self, bytes: &[u8]) -> Result<Beacon, BeaconError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<4>()? != *MAGIC {
            return Err(DecodeError::Invalid { field: "beacon magic", value: 0 }.into());
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(BeaconError::Version(version));
        }
        let nonce = reader.array::<NONCE_LEN>()?;
        let mut sealed = reader.array::<SEALED_LEN>()?;
        let tag = reader.array::<TAG_LEN>()?;
        reader.finish()?;
        let expected = self.tag(&bytes[..BEACON_LEN - TAG_LEN]);
        // In constant time: how much of a guess is right is nobody's business.
        if !constant_time_eq(&expected, &tag) {
            return Err(BeaconError::OtherMesh);
        }
        self.mask(&nonce, &mut sealed);
        let mut reader = Reader::new(&sealed);
        Ok(Beacon { port_v4: reader.u16()?, port_v6: reader.u16()?, node: reader.node_id()? })
    }

    fn mask(&self, nonce: &[u8; NONCE_LEN], bytes: &mut [u8]) {
        let mut stream = [0; SEALED_LEN];
        blake3::Hasher::new_keyed(&self.0).update(b"mask").update(nonce).finalize_xof().fill(&mut stream);
        bytes.iter_mut().zip(stream).for_each(|(byte, mask)| *byte ^= mask);
    }

    fn tag(&self, covered: &[u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        blake3::Hasher::new_keyed(&self.0).update(b"tag").update(covered).finalize_xof().fill(&mut tag);
        tag
    }
}

fn constant_time_eq(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEACON: Beacon = Beacon { node: NodeId::from_bytes([0xaa; 16]), port_v4: 4600, port_v6: 4601 };

    fn key(name: &str) -> BeaconKey {
        BeaconKey::of(&name.parse().unwrap())
    }

    #[test]
    fn a_beacon_is_read_by_its_mesh_and_by_no_other() {
        let bytes = key("mesh.test").seal(BEACON, [1; 16]);
        assert_eq!(bytes.len(), BEACON_LEN);
        assert_eq!(key("mesh.test").open(&bytes), Ok(BEACON));
        assert_eq!(key("mesh2.test").open(&bytes), Err(BeaconError::OtherMesh));
    }

    #[test]
    fn a_beacon_has_its_golden_bytes() {
        let bytes = key("mesh.test").seal(BEACON, [1; 16]);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, include_str!("../tests/golden/beacon.hex").trim());
    }

    #[test]
    fn two_beacons_of_one_node_have_nothing_in_common() {
        let (one, two) = (key("mesh.test").seal(BEACON, [1; 16]), key("mesh.test").seal(BEACON, [2; 16]));
        let same = one[21..].iter().zip(&two[21..]).filter(|(a, b)| a == b).count();
        assert!(same < 4, "{same} of {} bytes are the same", one.len() - 21);
        assert!(!one.windows(4).any(|window| window == [0xaa; 4]), "the node's id is not to be seen");
    }

    #[test]
    fn a_changed_cut_or_extended_beacon_is_refused() {
        let (key, bytes) = (key("mesh.test"), key("mesh.test").seal(BEACON, [1; 16]));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(key.open(&changed).is_err(), "byte {at}");
            assert!(key.open(&bytes[..at]).is_err(), "cut to {at}");
        }
        assert!(key.open(&[bytes, vec![0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(key("mesh.test").open(&bytes).is_err());
        }
    }
}
