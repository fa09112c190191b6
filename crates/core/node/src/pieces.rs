//! Datagrams that are longer than what their path carries, in pieces.
//!
//! IPv6 forbids a link below 1280 bytes, and where one is thinner it asks for "link-specific fragmentation and reassembly" beneath it
//! (RFC 8200, 5). An underlay of 1280 leaves less to the packets inside, so the two ends of a session cut what does not fit and put it
//! together again. Each piece is sealed for itself, so only the far end itself can send a wrong one; what it can make this node
//! keep is bounded all the same, and whoever keeps the most makes room when all of it is full.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use x0t_model::{Instant, NodeId};
use x0t_overlay::SessionId;

/// Pieces of one datagram: the longest one cut for the thinnest path takes nine.
pub const PIECES_MAX: usize = 16;
/// Datagrams of one far end that wait for pieces. Paths reorder by a few packets, and the oldest makes room.
const WAITING_MAX: usize = 16;
/// Bytes that wait, of all far ends together.
const BYTES_MAX: usize = 1 << 20;
/// How long a datagram waits for its last piece. Its sender's transport has long repeated it by then.
const WAITING_TIME: Duration = Duration::from_secs(1);

/// How a datagram is cut: pieces of equal length but for the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// How many pieces.
    pub count: usize,
    /// Bytes of each but the last.
    pub len: usize,
    /// Bytes of the last.
    pub last_len: usize,
}

impl Split {
    /// Cuts `len` bytes into as few pieces as `limit` bytes each allow, all about as long as each other: two halves are less likely
    /// to be in the way than one long piece and a crumb. None if it takes more than [`PIECES_MAX`].
    pub fn new(len: usize, limit: usize) -> Option<Self> {
        let count = len.div_ceil(limit.max(1)).max(1);
        if count > PIECES_MAX {
            return None;
        }
        let each = len.div_ceil(count);
        // Rounding up may have made the last piece superfluous.
        let count = if each == 0 { 1 } else { len.div_ceil(each) };
        Some(Self { count, len: each, last_len: len - each * (count - 1) })
    }
}

/// A piece, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Which datagram it is of; chosen by the sender, and not used again for a while.
    pub id: u32,
    /// Its place, from 0.
    pub index: u8,
    /// Whether it is the last.
    pub last: bool,
    /// Its bytes, never none.
    pub bytes: &'a [u8],
}

/// Why a piece was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is there already. Networks duplicate, but the replay window has sorted those out: this is the sender's doing.
    Duplicate,
    /// It contradicts the pieces that came before: a second end, or one behind the end.
    Contradiction,
    /// The whole would be too long.
    TooLong,
    /// All memory is full, and nobody else holds more of it.
    NoRoom,
}

#[derive(Debug)]
struct Incomplete {
    /// Numbers begin anew with each start of the far end, so the same one in another session is another datagram.
    session: SessionId,
    id: u32,
    since: Instant,
    /// How many pieces there are, once the last is known.
    count: Option<u8>,
    pieces: BTreeMap<u8, Box<[u8]>>,
    bytes: usize,
}

impl Incomplete {
    /// Why `piece` is no part of it, if it is none. The whole is at most `limit` bytes.
    fn refusal(&self, piece: &Piece<'_>, limit: usize) -> Option<Refusal> {
        if self.pieces.contains_key(&piece.index) {
            Some(Refusal::Duplicate)
        } else if piece.bytes.is_empty() || self.contradicts(piece) {
            Some(Refusal::Contradiction)
        } else if self.bytes + piece.bytes.len() > limit {
            Some(Refusal::TooLong)
        } else {
            None
        }
    }

    fn contradicts(&self, piece: &Piece<'_>) -> bool {
        let end = usize::from(piece.index) + 1;
        let beyond =
            self.count.is_some_and(|count| end > usize::from(count) || piece.last && end != usize::from(count));
        let cut_short = piece.last && self.pieces.last_key_value().is_some_and(|(index, _)| *index > piece.index);
        beyond || cut_short || end > PIECES_MAX
    }

    fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.pieces.len() == usize::from(count))
    }
}

/// What waits for its missing pieces.
#[derive(Debug, Default)]
pub struct Reassembly {
    by_node: BTreeMap<NodeId, VecDeque<Incomplete>>,
    bytes: usize,
    /// Datagrams given up: too old, or there was no room.
    pub abandoned: u64,
    /// Pieces not used, for any [`Refusal`].
    pub refused: u64,
}

impl Reassembly {
    /// Takes a piece that `from` has sealed in `session`. Gives the datagram once it is whole, at most `limit` bytes.
    pub fn add(
        &mut self,
        (from, session): (NodeId, SessionId),
        piece: Piece<'_>,
        limit: usize,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let added = self.try_add(from, session, piece, limit, now);
        self.refused += u64::from(added.is_err());
        added
    }

    fn try_add(
        &mut self,
        from: NodeId,
        session: SessionId,
        piece: Piece<'_>,
        limit: usize,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        if usize::from(piece.index) >= PIECES_MAX {
            return Err(Refusal::Contradiction);
        }
        self.forget_old(now);
        let has_room = self.make_room(from, piece.bytes.len());
        let waiting = self.by_node.entry(from).or_default();
        let is_it = |incomplete: &Incomplete| incomplete.id == piece.id && incomplete.session == session;
        let place = waiting.iter().position(is_it).unwrap_or_else(|| {
            let pieces = BTreeMap::new();
            waiting.push_back(Incomplete { session, id: piece.id, since: now, count: None, pieces, bytes: 0 });
            waiting.len() - 1
        });
        let incomplete = &mut waiting[place];
        if let Some(refusal) = incomplete.refusal(&piece, limit).or((!has_room).then_some(Refusal::NoRoom)) {
            // Whoever contradicts itself cannot mean any of it.
            self.abandon(from, place);
            return Err(refusal);
        }
        if piece.last {
            incomplete.count = Some(piece.index + 1);
        }
        incomplete.bytes += piece.bytes.len();
        incomplete.pieces.insert(piece.index, piece.bytes.into());
        self.bytes += piece.bytes.len();
        if !incomplete.is_complete() {
            if waiting.len() > WAITING_MAX {
                self.abandon(from, 0);
            }
            return Ok(None);
        }
        let whole = self.remove(from, place);
        Ok(whole.map(|whole| whole.pieces.values().flat_map(|piece| piece.iter()).copied().collect()))
    }

    /// Makes room for `len` bytes of `from` at the expense of whoever holds more than it would then. False if nobody does: a far end
    /// that holds little is never pushed out by those that hold much.
    fn make_room(&mut self, from: NodeId, len: usize) -> bool {
        let held = |waiting: &VecDeque<Incomplete>| waiting.iter().map(|incomplete| incomplete.bytes).sum::<usize>();
        while self.bytes + len > BYTES_MAX {
            let wanted = self.by_node.get(&from).map_or(0, held) + len;
            let others = self.by_node.iter().filter(|(node, _)| **node != from);
            let largest = others.map(|(node, waiting)| (held(waiting), *node)).max();
            match largest {
                Some((most, node)) if most > wanted => self.abandon(node, 0),
                _ => return false,
            }
        }
        true
    }

    /// Forgets what a session that has ended left unfinished.
    pub fn session_ended(&mut self, node: NodeId, session: SessionId) {
        let Some(waiting) = self.by_node.get_mut(&node) else { return };
        let before = waiting.len();
        let mut freed = 0;
        waiting.retain(|incomplete| {
            let stays = incomplete.session != session;
            freed += if stays { 0 } else { incomplete.bytes };
            stays
        });
        self.abandoned += (before - waiting.len()) as u64;
        self.bytes -= freed;
        if waiting.is_empty() {
            self.by_node.remove(&node);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let (bytes, abandoned) = (&mut self.bytes, &mut self.abandoned);
        self.by_node.retain(|_, waiting| {
            while let Some(oldest) = waiting.pop_front_if(|oldest| now.since(oldest.since) >= WAITING_TIME) {
                *bytes -= oldest.bytes;
                *abandoned += 1;
            }
            !waiting.is_empty()
        });
    }

    fn abandon(&mut self, node: NodeId, place: usize) {
        self.abandoned += u64::from(self.remove(node, place).is_some());
    }

    fn remove(&mut self, node: NodeId, place: usize) -> Option<Incomplete> {
        let waiting = self.by_node.get_mut(&node)?;
        let removed = waiting.remove(place)?;
        if waiting.is_empty() {
            self.by_node.remove(&node);
        }
        self.bytes -= removed.bytes;
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: NodeId = NodeId::from_bytes([1; 16]);
    const OTHER: NodeId = NodeId::from_bytes([2; 16]);
    const LIMIT: usize = 9001;
    const FIRST: SessionId = SessionId::from_u64(1);
    const SECOND: SessionId = SessionId::from_u64(2);

    /// A piece that `from` sealed in its first session.
    fn add(
        reassembly: &mut Reassembly,
        from: NodeId,
        piece: Piece<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        reassembly.add((from, FIRST), piece, LIMIT, now)
    }

    fn pieces(datagram: &[u8], id: u32, split: Split) -> Vec<Piece<'_>> {
        let chunks = datagram.chunks(split.len.max(1)).enumerate();
        chunks.map(|(index, bytes)| Piece { id, index: index as u8, last: index + 1 == split.count, bytes }).collect()
    }

    fn piece(id: u32, index: u8, last: bool, bytes: &[u8]) -> Piece<'_> {
        Piece { id, index, last, bytes }
    }

    #[test]
    fn a_cut_is_even_and_covers_everything() {
        assert_eq!(Split::new(1281, 1091), Some(Split { count: 2, len: 641, last_len: 640 }));
        assert_eq!(Split::new(9001, 1091), Some(Split { count: 9, len: 1001, last_len: 993 }));
        assert_eq!(Split::new(1000, 1000), Some(Split { count: 1, len: 1000, last_len: 1000 }));
        assert_eq!(Split::new(10, 4), Some(Split { count: 3, len: 4, last_len: 2 }));
        assert_eq!(Split::new(9, 2), Some(Split { count: 5, len: 2, last_len: 1 }));
        assert_eq!(Split::new(17, 1), None);
    }

    #[test]
    fn an_old_datagram_is_given_up_and_so_is_the_oldest_of_too_many() {
        let mut reassembly = Reassembly::default();
        let later = Instant::ZERO + WAITING_TIME;
        assert_eq!(add(&mut reassembly, PEER, piece(1, 0, false, &[1]), Instant::ZERO), Ok(None));
        assert_eq!(add(&mut reassembly, PEER, piece(1, 1, true, &[2]), later), Ok(None), "the first piece is gone");
        assert_eq!((reassembly.abandoned, reassembly.bytes), (1, 1));
        for id in 0..WAITING_MAX as u32 {
            assert_eq!(add(&mut reassembly, OTHER, piece(100 + id, 0, false, &[1]), later), Ok(None));
        }
        assert_eq!(reassembly.abandoned, 1);
        assert_eq!(add(&mut reassembly, OTHER, piece(7, 0, false, &[1]), later), Ok(None));
        assert_eq!((reassembly.abandoned, reassembly.by_node[&OTHER].len()), (2, WAITING_MAX));
        reassembly.session_ended(OTHER, SECOND);
        assert_eq!(reassembly.by_node.len(), 2, "what the first session left may still be finished");
        reassembly.session_ended(OTHER, FIRST);
        assert_eq!((reassembly.bytes, reassembly.by_node.len()), (1, 1));
        assert_eq!(reassembly.abandoned, 2 + WAITING_MAX as u64);
    }

    #[test]
    fn pieces_of_two_sessions_are_not_put_together() {
        let mut reassembly = Reassembly::default();
        let now = Instant::ZERO;
        let mut add = |session, piece| reassembly.add((PEER, session), piece, LIMIT, now);
        assert_eq!(add(FIRST, piece(0, 0, false, b"old ")), Ok(None));
        // The far end has started anew, and so have its numbers.
        assert_eq!(add(SECOND, piece(0, 1, true, b"datagram")), Ok(None));
        assert_eq!(add(SECOND, piece(0, 0, false, b"new ")), Ok(Some(b"new datagram".to_vec())));
        assert_eq!(add(FIRST, piece(0, 1, true, b"one")), Ok(Some(b"old one".to_vec())));
    }

    #[test]
    fn those_that_hold_much_push_out_nobody_that_holds_little() {
        let mut reassembly = Reassembly::default();
        let now = Instant::ZERO;
        assert_eq!(add(&mut reassembly, PEER, piece(7, 0, false, &[1; 1000]), now), Ok(None));
        // Far ends that fill all memory with datagrams that they never finish.
        for node in 10..40 {
            for id in 0..WAITING_MAX as u32 {
                for index in 0..8 {
                    let _ =
                        add(&mut reassembly, NodeId::from_bytes([node; 16]), piece(id, index, false, &[0; 1000]), now);
                }
            }
        }
        // Up to a whole datagram may be free: that is what the one that holds most gives up.
        assert!(reassembly.bytes > BYTES_MAX - 8_000 && reassembly.bytes <= BYTES_MAX, "{}", reassembly.bytes);
        assert_eq!(
            add(&mut reassembly, PEER, piece(7, 1, true, &[2]), now).map(|whole| whole.map(|whole| whole.len())),
            Ok(Some(1001)),
            "it was there first"
        );
        for index in 0..8 {
            assert_eq!(add(&mut reassembly, OTHER, piece(1, index, false, &[3; 1000]), now), Ok(None), "it is new");
        }
        assert!(matches!(add(&mut reassembly, OTHER, piece(1, 8, true, &[3; 1000]), now), Ok(Some(_))));
        assert!(reassembly.bytes <= BYTES_MAX);
    }

    #[test]
    fn lying_pieces_are_refused_and_take_their_datagram_with_them() {
        let lies: [(&[Piece<'_>], Refusal); 7] = [
            (&[piece(1, 0, false, &[1]), piece(1, 0, false, &[1])], Refusal::Duplicate),
            (&[piece(1, 1, true, &[1]), piece(1, 2, true, &[1])], Refusal::Contradiction),
            (&[piece(1, 1, true, &[1]), piece(1, 2, false, &[1])], Refusal::Contradiction),
            (&[piece(1, 5, false, &[1]), piece(1, 2, true, &[1])], Refusal::Contradiction),
            (&[piece(1, 0, true, &[])], Refusal::Contradiction),
            (&[piece(1, 16, true, &[1])], Refusal::Contradiction),
            (&[piece(1, 0, false, &[0; 9000]), piece(1, 1, true, &[0; 2])], Refusal::TooLong),
        ];
        for (pieces, refusal) in lies {
            let mut reassembly = Reassembly::default();
            let mut last = Ok(None);
            for piece in pieces {
                last = add(&mut reassembly, PEER, *piece, Instant::ZERO);
            }
            assert_eq!(last, Err(refusal), "{pieces:?}");
            assert_eq!((reassembly.bytes, reassembly.by_node.len(), reassembly.refused), (0, 0, 1), "{pieces:?}");
        }
    }

    #[test]
    fn what_all_far_ends_together_leave_unfinished_is_bounded() {
        let mut reassembly = Reassembly::default();
        for node in 0..200 {
            for id in 0..WAITING_MAX as u32 {
                let from = NodeId::from_bytes([node; 16]);
                let _ = add(&mut reassembly, from, piece(id, 0, false, &[0; 1000]), Instant::ZERO);
            }
        }
        assert!(reassembly.bytes <= BYTES_MAX && reassembly.refused > 0);
        let later = Instant::ZERO + WAITING_TIME;
        assert_eq!(add(&mut reassembly, PEER, piece(1, 0, true, &[7]), later), Ok(Some(vec![7])), "for a second");
        assert_eq!((reassembly.bytes, reassembly.by_node.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_datagram_whole(
            len in 1_usize..9001,
            limit in 600_usize..1500,
            seed in any::<u64>(),
        ) {
            let datagram: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            let split = Split::new(len, limit).unwrap();
            let mut pieces = pieces(&datagram, 9, split);
            prop_assert_eq!(pieces.len(), split.count);
            prop_assert!(split.len <= limit && split.last_len <= split.len && split.last_len > 0);
            for place in (1..pieces.len()).rev() {
                pieces.swap(place, (seed >> (place % 60)) as usize % (place + 1));
            }
            let mut reassembly = Reassembly::default();
            let mut whole = None;
            for piece in &pieces {
                prop_assert_eq!(&whole, &None);
                whole = add(&mut reassembly, PEER, *piece, Instant::ZERO).unwrap();
            }
            prop_assert_eq!(whole, Some(datagram));
            prop_assert_eq!((reassembly.bytes, reassembly.by_node.len()), (0, 0));
        }

        #[test]
        fn no_pieces_make_it_panic_or_forget_to_count(
            sent in proptest::collection::vec((0_u32..3, 0_u8..20, any::<bool>(), 0_usize..40, 0_u64..400), 0..80),
        ) {
            let mut reassembly = Reassembly::default();
            let mut now = Instant::ZERO;
            for (id, index, last, len, millis) in sent {
                now += Duration::from_millis(millis);
                let _ = reassembly.add((PEER, FIRST), piece(id, index, last, &[7; 40][..len]), 200, now);
                let held: usize = reassembly.by_node.values().flatten().map(|waiting| waiting.bytes).sum();
                prop_assert_eq!(held, reassembly.bytes);
            }
        }
    }
}
