//! Sealing and opening apart from the session: values that hold all it takes, so that another thread can do the work.
//!
//! The session stays the only owner of what changes. It gives away packet numbers before the packets are sealed and judges what was
//! opened when it comes back: replay, epoch and limits are looked at then and nowhere else. Keys never change, so a value that is still
//! under way when its session moves to the next epoch or ends is as good as before, and holds its key until it is dropped.

use std::sync::Arc;

use crate::hop::PayloadKind;
use crate::packet::{FORWARD_OVERHEAD, PROTECTED_HEADER_LEN, ProtectedHeader};
use crate::{HopHeader, KeyError, PacketKey, SessionId, TAG_LEN, frame};

/// Writes the header and the tag of a PROTECTED packet that is laid out already, and seals what is between them: a DATAGRAM frame.
#[inline]
pub(crate) fn seal_datagram(key: &dyn PacketKey, header: ProtectedHeader, packet: &mut [u8]) -> Result<(), KeyError> {
    let header_bytes = header.to_bytes();
    let (front, rest) = packet.split_at_mut(PROTECTED_HEADER_LEN);
    front.copy_from_slice(&header_bytes);
    let (frame, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
    frame::write_datagram_header(frame);
    tag.copy_from_slice(&key.seal(header.pn, &header_bytes, frame)?);
    Ok(())
}

/// Writes header, sealed hop header and tag over the front of a packet.
#[inline]
pub(crate) fn seal_hop(
    key: &dyn PacketKey,
    header: ProtectedHeader,
    hop: &HopHeader,
    packet: &mut [u8],
) -> Result<(), KeyError> {
    let header_bytes = header.to_bytes();
    let (front, rest) = packet.split_at_mut(PROTECTED_HEADER_LEN);
    front.copy_from_slice(&header_bytes);
    let (sealed, tag) = rest.split_at_mut(HopHeader::LEN);
    sealed.copy_from_slice(&hop.to_bytes());
    tag[..TAG_LEN].copy_from_slice(&key.seal(header.pn, &header_bytes, sealed)?);
    Ok(())
}

/// A run of packets of one session that have their numbers and are not sealed yet. What [`crate::Endpoint::seal_datagrams`] and
/// [`crate::Endpoint::seal_hops`] do at once, [`Self::seal`] does later and anywhere.
pub struct SealingRun {
    key: Arc<dyn PacketKey>,
    /// That of the first packet; the numbers of the others follow it.
    first: ProtectedHeader,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// PROTECTED, this far into each packet.
    Datagrams { offset: usize },
    /// FORWARD, at the front of each packet.
    Hops(HopHeader),
}

impl std::fmt::Debug for SealingRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingRun").field("first", &self.first).finish_non_exhaustive()
    }
}

impl SealingRun {
    pub(crate) const fn datagrams(key: Arc<dyn PacketKey>, first: ProtectedHeader, offset: usize) -> Self {
        Self { key, first, form: Form::Datagrams { offset } }
    }

    pub(crate) const fn hops(key: Arc<dyn PacketKey>, first: ProtectedHeader, hop: HopHeader) -> Self {
        Self { key, first, form: Form::Hops(hop) }
    }

    /// Whether `next` is what this run would be, `count` packets further on, so that one run can stand for both.
    pub fn goes_on(&self, count: u64, next: &Self) -> bool {
        let Some(pn) = self.first.pn.checked_add(count) else { return false };
        Arc::ptr_eq(&self.key, &next.key)
            && ProtectedHeader { pn, ..self.first } == next.first
            && self.form == next.form
    }

    /// Seals the packets of the run, of `stride` bytes each, the last of which may be shorter. The checks of length were made when the
    /// numbers were given.
    ///
    /// # Errors
    /// If a packet does not seal; the run must then not be sent.
    pub fn seal(&self, run: &mut [u8], stride: usize) -> Result<(), KeyError> {
        for (packet, pn) in run.chunks_mut(stride.max(1)).zip(self.first.pn..) {
            let header = ProtectedHeader { pn, ..self.first };
            match &self.form {
                Form::Datagrams { offset } => {
                    let packet = packet.get_mut(*offset..).filter(|packet| packet.len() >= SEALED_LEN_MIN);
                    seal_datagram(&*self.key, header, packet.ok_or(KeyError)?)?;
                }
                Form::Hops(_) if packet.len() < FORWARD_OVERHEAD => return Err(KeyError),
                Form::Hops(hop) => seal_hop(&*self.key, header, hop, packet)?,
            }
        }
        Ok(())
    }
}

const SEALED_LEN_MIN: usize = crate::packet::DATAGRAM_FRONT + TAG_LEN;

/// What opens packets of one session and one epoch away from their session. See [`crate::Endpoint::opening_key`].
#[derive(Clone)]
pub struct OpeningKey {
    session: SessionId,
    epoch: u32,
    is_link: bool,
    key: Arc<dyn PacketKey>,
}

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpeningKey({}, epoch {})", self.session, self.epoch)
    }
}

/// What came of opening a packet away from its session, which has still to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    pub(crate) session: SessionId,
    pub(crate) epoch: u32,
    /// Bytes of plaintext; none if it is not authentic, and then its bytes are worthless.
    pub(crate) plain_len: Option<u32>,
}

impl OpeningKey {
    pub(crate) const fn new(session: SessionId, epoch: u32, is_link: bool, key: Arc<dyn PacketKey>) -> Self {
        Self { session, epoch, is_link, key }
    }

    /// Opens a packet in place. `None`, and the packet is untouched, if it is none of this session and epoch.
    pub fn open(&self, packet: &mut [u8]) -> Option<Ahead> {
        let header = ProtectedHeader::decode(packet).ok()?;
        let ours = header.dst_index == self.session.index()
            && header.epoch == self.epoch as u8
            && (self.is_link || !header.forward);
        if !ours {
            return None;
        }
        let (aad, rest) = packet.split_at_mut(PROTECTED_HEADER_LEN);
        let sealed = if header.forward { &mut rest[..HopHeader::LEN + TAG_LEN] } else { rest };
        let plain_len = self.key.open(header.pn, aad, sealed).ok().map(|len| len as u32);
        Some(Ahead { session: self.session, epoch: self.epoch, plain_len })
    }

    /// Opens the hop header of a FORWARD packet and, if that says that the packet ends its way at `me`, with `end` what is in it. What
    /// is on its way to somebody else is not touched: whose it is says the hop header, which a session vouches for, and not the
    /// index, which anybody can write.
    pub fn open_through(
        &self,
        packet: &mut [u8],
        me: x0t_model::NodeId,
        end: Option<&Self>,
    ) -> (Option<Ahead>, Option<Ahead>) {
        let Some(outer) = self.open(packet) else { return (None, None) };
        let arrives = packet[0] == crate::packet::FORWARD
            && outer.plain_len.is_some_and(|len| {
                let plain = &packet[PROTECTED_HEADER_LEN..PROTECTED_HEADER_LEN + len as usize];
                HopHeader::decode(plain).is_ok_and(|hop| hop.dst == me && hop.kind == PayloadKind::EndToEnd)
            });
        let inner = end.filter(|_| arrives).and_then(|end| end.open(&mut packet[FORWARD_OVERHEAD..]));
        (Some(outer), inner)
    }
}
