//! Which SVIDs are out, and which of them nobody should believe any more.
//!
//! An SVID lives for an hour or a day, so most of what an operator takes back is over before anybody asks. What is not is named by
//! its serial number in a revocation list, until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::{SpiffeId, UnixTime};

use crate::authority::RECOVERY_MAX;
use crate::ca_life::KeyId;

/// SVIDs that are remembered while they are valid. Sixteen thousand nodes renewing at half life hold two each; what is beyond is
/// forgotten in the order of its end, and [`Withdrawn::complete_from`] says so.
pub const ISSUED_SVIDS_MAX: usize = 65_536;
/// SVIDs on the revocation lists. Lists of so many have 20 KiB, and fit into one message to a node's agent together with the bundle.
pub const REVOKED_SVIDS_MAX: usize = 512;

/// SVIDs that were on them, remembered because an old SVID may get its node another.
const REMEMBERED_SVIDS_MAX: usize = 8 * REVOKED_SVIDS_MAX;

/// The serial number of an SVID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// From its bytes, the most significant first.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, the most significant first.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = HEXLOWER.decode(String::deserialize(deserializer)?.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a serial number has 16 bytes"))
    }
}

/// An SVID that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IssuedSvid {
    /// Its last second.
    pub not_after: UnixTime,
    /// Its serial number.
    pub serial: Serial,
    /// Who signed it.
    pub issuer: KeyId,
}

/// An SVID that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevokedSvid {
    /// Its last second: from then on it is on no list.
    pub not_after: UnixTime,
    /// Its serial number.
    pub serial: Serial,
    /// Who signed it, and signs the list it is on.
    pub issuer: KeyId,
    /// When it was taken back.
    pub revoked_at: UnixTime,
}

/// What is out, by whose it is. Not durable: 30,000 SVIDs a second are not written down.
#[derive(Clone, Debug, Default)]
pub struct IssuedSvids {
    by_end: BTreeSet<(IssuedSvid, SpiffeId)>,
    by_id: BTreeMap<SpiffeId, BTreeSet<IssuedSvid>>,
    /// Something that ends at this time is not remembered.
    forgotten_until: Option<UnixTime>,
}

/// SVIDs to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Those that are known.
    pub svids: Vec<RevokedSvid>,
    /// There may be others, which are over after this time.
    pub complete_from: Option<UnixTime>,
}

impl IssuedSvids {
    /// After a start: what was issued before is not known, and ends at `until` at the latest.
    pub fn forget_until(&mut self, until: UnixTime) {
        self.forgotten_until = self.forgotten_until.max(Some(until));
    }

    /// Remembers an SVID until its end.
    pub fn note(&mut self, id: &SpiffeId, svid: IssuedSvid, now: UnixTime) {
        self.forget_ended(now);
        if self.by_end.len() >= ISSUED_SVIDS_MAX
            && let Some((first, whose)) = self.by_end.first().cloned()
        {
            self.forgotten_until = self.forgotten_until.max(Some(first.not_after));
            self.remove(&first, &whose);
        }
        self.by_end.insert((svid, id.clone()));
        self.by_id.entry(id.clone()).or_default().insert(svid);
    }

    /// Everything of `id` that is still valid, to be put on the revocation list.
    pub fn withdraw(&self, id: &SpiffeId, now: UnixTime) -> Withdrawn {
        let valid = self.by_id.get(id).into_iter().flatten().filter(|svid| now <= svid.not_after);
        let revoked = |&IssuedSvid { not_after, serial, issuer }: &IssuedSvid| RevokedSvid {
            not_after,
            serial,
            issuer,
            revoked_at: now,
        };
        let complete_from = self.forgotten_until.filter(|until| now <= *until);
        Withdrawn { svids: valid.map(revoked).collect(), complete_from }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_end.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_end.is_empty()
    }

    fn forget_ended(&mut self, now: UnixTime) {
        while let Some((svid, whose)) = self.by_end.first().filter(|(svid, _)| svid.not_after < now).cloned() {
            self.remove(&svid, &whose);
        }
    }

    fn remove(&mut self, svid: &IssuedSvid, whose: &SpiffeId) {
        self.by_end.remove(&(*svid, whose.clone()));
        if let Some(svids) = self.by_id.get_mut(whose) {
            svids.remove(svid);
            if svids.is_empty() {
                self.by_id.remove(whose);
            }
        }
    }
}

/// What is on the revocation lists. Durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revocations {
    svids: BTreeSet<RevokedSvid>,
}

impl Revocations {
    /// Adds `svids`, and drops what nobody could come back with at `at`. False, and nothing added, if they would be too many: then the
    /// authority that signed them is what has to be replaced.
    pub fn add(&mut self, svids: &[RevokedSvid], at: UnixTime) -> bool {
        if self.at(at).count() + svids.len() > REVOKED_SVIDS_MAX {
            return false;
        }
        self.svids.extend(svids);
        self.svids.retain(|svid| at <= svid.not_after + RECOVERY_MAX);
        // In the order of their ends: those that are in force are the last to go.
        while self.svids.len() > REMEMBERED_SVIDS_MAX {
            self.svids.pop_first();
        }
        true
    }

    /// What is revoked, and what was and has ended since: nobody gets a new SVID for it.
    pub fn known(&self) -> impl Iterator<Item = &RevokedSvid> {
        self.svids.iter()
    }

    /// What is revoked and would otherwise be valid at `now`.
    pub fn at(&self, now: UnixTime) -> impl Iterator<Item = &RevokedSvid> {
        self.svids.iter().filter(move |svid| now <= svid.not_after)
    }
}
