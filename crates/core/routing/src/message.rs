//! What routers say to each other, as bytes.
//!
//! A datagram (or one reliable message of the session) holds any number of messages, each `type u8, length u16, body`. All
//! fields are in network byte order. A type that this version does not know is skipped and counted, so that later versions can
//! add some; a known one must fill its length exactly.
//!
//! | type | message | body |
//! |---|---|---|
//! | 1 | HELLO | flags u8, interval u16 ms, seq u32, time u64 µs, echo seq u32, echo time u64 µs, echo hold u32 µs, received u64 |
//! | 2 | OGM | serial u32, then records of 58 bytes: origin 16, epoch u32, seq u32, flags u8, hops u8, lifetime u16 in 0.1 s, chain 16, metric u32, path MTU u16, bloom u64 |
//! | 3 | WITHDRAW | serial u32, then records of 24 bytes: origin 16, epoch u32, seq u32 |
//! | 4 | SEQ_REQ | origin 16, held epoch u32, held seq u32, held feasible distance u32, ttl u8, nonce u32 |
//! | 5 | RREQ | requester 16, id u32, target 16, ttl u8 |
//! | 6 | ANCHOR_REQ | origin 16, epoch u32 |
//! | 7 | ANCHOR | origin 16, epoch u32, issue u32, seqs u32, hops u8, value 16, proof (u16 length, at most 8,192) |
//! | 8 | GOODBYE | nothing |
//!
//! RREP is not in the list: the answer to an RREQ is a fresh OGM of the target. Nor is RERR: a WITHDRAW says the same earlier.

use std::time::Duration;

use x0t_model::{DecodeError, Metric, NodeId, Reader, Writer};

use crate::chain::{ChainShape, ChainValue};
use crate::feasibility::Seqno;

/// The most bytes of proof an ANCHOR carries.
pub const PROOF_MAX: usize = 8_192;
/// Bytes of a message's type and length.
pub const HEADER_LEN: usize = 3;
/// Bytes of one record of an OGM message.
pub const OGM_LEN: usize = 58;
/// Bytes of one record of a WITHDRAW message.
pub const WITHDRAWAL_LEN: usize = 24;
/// Bytes of a serial number before the records.
pub const SERIAL_LEN: usize = 4;

const HELLO: u8 = 1;
const OGM: u8 = 2;
const WITHDRAW: u8 = 3;
const SEQ_REQ: u8 = 4;
const RREQ: u8 = 5;
const ANCHOR_REQ: u8 = 6;
const ANCHOR: u8 = 7;
const GOODBYE: u8 = 8;

/// "I am here, this is what I saw of you." Measures round trip and loss, and announces the sender's pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Answer with a HELLO at once.
    pub reply_wanted: bool,
    /// The sender has not heard the receiver for too long.
    pub deaf: bool,
    /// Send every offer again: the sender has dropped them.
    pub resync: bool,
    /// The sender will be heard at least this often, in milliseconds.
    pub interval_ms: u16,
    /// Number of this HELLO on this link, from 1.
    pub seq: u32,
    /// When it was sent, in microseconds of the sender's clock.
    pub time_micros: u64,
    /// The newest HELLO received from the receiver; 0 before the first.
    pub echo_seq: u32,
    /// Its `time_micros`.
    pub echo_time_micros: u64,
    /// How long ago it came.
    pub echo_hold_micros: u32,
    /// Which of the receiver's last 64 HELLOs came: bit `n` stands for number `echo_seq - n`.
    pub received: u64,
}

/// One originator record: who announced, how new, and what the sender claims the way costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ogm {
    /// Who announced itself.
    pub origin: NodeId,
    /// How new.
    pub seqno: Seqno,
    /// The origin's role ([`crate::Role::flags`]).
    pub flags: u8,
    /// Hops between the origin and the sender.
    pub hops: u8,
    /// Tenths of a second the record is valid for, counted down while it travels.
    pub lifetime_ds: u16,
    /// The chain value of `seqno.seq` at `hops`.
    pub chain: ChainValue,
    /// Cost from the sender to the origin.
    pub metric: Metric,
    /// The smallest MTU on the way.
    pub path_mtu: u16,
    /// Two bits for each relay on the way, the sender included: ways that share relays share bits.
    pub bloom: u64,
}

/// One retracted offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// For whom the sender carries nothing any more.
    pub origin: NodeId,
    /// The newest announcement it had offered.
    pub seqno: Seqno,
}

/// "This is all I have for that origin; who has better?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqReq {
    /// Whose announcement is wanted.
    pub origin: NodeId,
    /// What the requester holds: something newer helps,
    pub held: Seqno,
    /// or something as new that lies below its feasible distance.
    pub distance: Metric,
    /// Hops it may still go.
    pub ttl: u8,
    /// Tells requests apart in a recording.
    pub nonce: u32,
}

/// "Where is that node?", flooded as far as `ttl` reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rreq {
    /// Who asks.
    pub requester: NodeId,
    /// Tells its requests apart.
    pub id: u32,
    /// Who is sought, and alone may answer.
    pub target: NodeId,
    /// Hops it may still go.
    pub ttl: u8,
}

/// The end of an origin's chain for one epoch, and the proof that the origin said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor<'a> {
    /// What is proven.
    pub statement: AnchorStatement,
    /// What proves it: opaque to routing. The node puts its certificate chain and a signature here.
    pub proof: &'a [u8],
}

/// What an origin signs once per epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorStatement {
    /// Whose chain.
    pub origin: NodeId,
    /// For which epoch.
    pub epoch: u32,
    /// How often the origin has proven this anchor: a later issue replaces an earlier one.
    pub issue: u32,
    /// Sequence numbers and hops of the chain.
    pub shape: ChainShape,
    /// The end of the chain.
    pub value: ChainValue,
}

impl AnchorStatement {
    /// Separates these signatures from all others made with the same key.
    pub const LABEL: &'static [u8] = b"x0tta6bl4 routing anchor v1\0";

    /// The bytes to sign.
    pub fn to_signed_bytes(&self) -> Vec<u8> {
        let mut out = Self::LABEL.to_vec();
        self.write(&mut Writer::new(&mut out));
        out
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.node_id(self.origin)
            .u32(self.epoch)
            .u32(self.issue)
            .u32(self.shape.seqs)
            .u8(self.shape.hops)
            .bytes(&self.value);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            origin: r.node_id()?,
            epoch: r.u32()?,
            issue: r.u32()?,
            shape: ChainShape { seqs: r.u32()?, hops: r.u8()? },
            value: r.array()?,
        })
    }
}

/// Fixed-size records behind a serial number, read one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records<'a> {
    /// Numbers the sender's OGM and WITHDRAW messages, so that one that overtook another on the way is known to be newer.
    pub serial: u32,
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    fn read(body: &mut Reader<'a>, record_len: usize) -> Result<Self, DecodeError> {
        let serial = body.u32()?;
        let bytes = body.bytes(body.rest().len())?;
        match bytes.len() % record_len {
            0 => Ok(Self { serial, bytes }),
            over => Err(DecodeError::Truncated(record_len - over)),
        }
    }

    /// The records as originator records.
    pub fn ogms(self) -> impl Iterator<Item = Ogm> + 'a {
        self.bytes.chunks_exact(OGM_LEN).filter_map(|record| Ogm::read(&mut Reader::new(record)).ok())
    }

    /// The records as retractions.
    pub fn withdrawals(self) -> impl Iterator<Item = Withdrawal> + 'a {
        self.bytes.chunks_exact(WITHDRAWAL_LEN).filter_map(|record| Withdrawal::read(&mut Reader::new(record)).ok())
    }
}

/// Any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Heartbeat and measurement.
    Hello(Hello),
    /// Offers: see [`Records::ogms`].
    Ogm(Records<'a>),
    /// Retractions: see [`Records::withdrawals`].
    Withdraw(Records<'a>),
    /// Asks for a newer announcement.
    SeqReq(SeqReq),
    /// Asks where a node is.
    Rreq(Rreq),
    /// Asks for the anchor of an origin's epoch.
    AnchorReq {
        /// Whose.
        origin: NodeId,
        /// Which.
        epoch: u32,
    },
    /// Gives one.
    Anchor(Anchor<'a>),
    /// The sender leaves in good order.
    Goodbye,
    /// A type this version does not know.
    Unknown(u8),
}

/// The messages of a datagram, one after the other; after an error there are no more.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: Reader<'a>,
    failed: bool,
}

impl<'a> Messages<'a> {
    /// Reads `datagram`.
    pub const fn new(datagram: &'a [u8]) -> Self {
        Self { rest: Reader::new(datagram), failed: false }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let message = Message::read(&mut self.rest);
        self.failed = message.is_err();
        Some(message)
    }
}

impl<'a> Message<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let kind = r.u8()?;
        let mut body = Reader::new(r.prefixed("message length", usize::from(u16::MAX))?);
        let message = match kind {
            HELLO => Self::Hello(Hello::read(&mut body)?),
            OGM => Self::Ogm(Records::read(&mut body, OGM_LEN)?),
            WITHDRAW => Self::Withdraw(Records::read(&mut body, WITHDRAWAL_LEN)?),
            SEQ_REQ => Self::SeqReq(SeqReq {
                origin: body.node_id()?,
                held: read_seqno(&mut body)?,
                distance: body.metric()?,
                ttl: body.u8()?,
                nonce: body.u32()?,
            }),
            RREQ => Self::Rreq(Rreq {
                requester: body.node_id()?,
                id: body.u32()?,
                target: body.node_id()?,
                ttl: body.u8()?,
            }),
            ANCHOR_REQ => Self::AnchorReq { origin: body.node_id()?, epoch: body.u32()? },
            ANCHOR => Self::Anchor(Anchor {
                statement: AnchorStatement::read(&mut body)?,
                proof: body.prefixed("anchor proof", PROOF_MAX)?,
            }),
            GOODBYE => Self::Goodbye,
            unknown => return Ok(Self::Unknown(unknown)),
        };
        body.finish()?;
        Ok(message)
    }
}

fn read_seqno(r: &mut Reader<'_>) -> Result<Seqno, DecodeError> {
    Ok(Seqno { epoch: r.u32()?, seq: r.u32()? })
}

impl Hello {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = r.u8()?;
        Ok(Self {
            reply_wanted: flags & 1 != 0,
            deaf: flags & 2 != 0,
            resync: flags & 4 != 0,
            interval_ms: r.u16()?,
            seq: r.u32()?,
            time_micros: r.u64()?,
            echo_seq: r.u32()?,
            echo_time_micros: r.u64()?,
            echo_hold_micros: r.u32()?,
            received: r.u64()?,
        })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.reply_wanted) | u8::from(self.deaf) << 1 | u8::from(self.resync) << 2;
        framed(out, HELLO, |w| {
            w.u8(flags).u16(self.interval_ms).u32(self.seq).u64(self.time_micros);
            w.u32(self.echo_seq).u64(self.echo_time_micros).u32(self.echo_hold_micros).u64(self.received);
        });
    }
}

impl Ogm {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            origin: r.node_id()?,
            seqno: read_seqno(r)?,
            flags: r.u8()?,
            hops: r.u8()?,
            lifetime_ds: r.u16()?,
            chain: r.array()?,
            metric: r.metric()?,
            path_mtu: r.u16()?,
            bloom: r.u64()?,
        })
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.node_id(self.origin).u32(self.seqno.epoch).u32(self.seqno.seq).u8(self.flags).u8(self.hops);
        w.u16(self.lifetime_ds).bytes(&self.chain).metric(self.metric).u16(self.path_mtu).u64(self.bloom);
    }
}

impl Withdrawal {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { origin: r.node_id()?, seqno: read_seqno(r)? })
    }
}

/// Appends an OGM message. At most 1,129 records fit its length.
pub fn write_ogms(out: &mut Vec<u8>, serial: u32, ogms: &[Ogm]) {
    framed(out, OGM, |w| {
        w.u32(serial);
        ogms.iter().for_each(|ogm| ogm.write(w));
    });
}

/// Appends a WITHDRAW message. At most 2,730 records fit its length.
pub fn write_withdrawals(out: &mut Vec<u8>, serial: u32, withdrawals: &[Withdrawal]) {
    framed(out, WITHDRAW, |w| {
        w.u32(serial);
        for withdrawal in withdrawals {
            w.node_id(withdrawal.origin).u32(withdrawal.seqno.epoch).u32(withdrawal.seqno.seq);
        }
    });
}

impl SeqReq {
    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        framed(out, SEQ_REQ, |w| {
            w.node_id(self.origin).u32(self.held.epoch).u32(self.held.seq);
            w.metric(self.distance).u8(self.ttl).u32(self.nonce);
        });
    }
}

impl Rreq {
    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        framed(out, RREQ, |w| {
            w.node_id(self.requester).u32(self.id).node_id(self.target).u8(self.ttl);
        });
    }
}

/// Appends an ANCHOR_REQ.
pub fn write_anchor_req(out: &mut Vec<u8>, origin: NodeId, epoch: u32) {
    framed(out, ANCHOR_REQ, |w| {
        w.node_id(origin).u32(epoch);
    });
}

impl Anchor<'_> {
    /// Appends the message. The proof is at most [`PROOF_MAX`] bytes long.
    pub fn write(&self, out: &mut Vec<u8>) {
        framed(out, ANCHOR, |w| {
            self.statement.write(w);
            w.prefixed(&self.proof[..self.proof.len().min(PROOF_MAX)]);
        });
    }
}

/// A lifetime as OGMs carry it, rounded up: a hop may add a tenth of a second but never takes a second away.
pub fn lifetime_to_wire(lifetime: Duration) -> u16 {
    u16::try_from(lifetime.as_millis().div_ceil(100)).unwrap_or(u16::MAX)
}

/// Appends a GOODBYE.
pub fn write_goodbye(out: &mut Vec<u8>) {
    framed(out, GOODBYE, |_| {});
}

/// Type, length, body; the length is filled in afterwards. Every caller's body is bounded below 64 KiB.
fn framed(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    let mut w = Writer::new(out);
    w.u8(kind).u16(0);
    body(&mut w);
    let len = out.len() - start - HEADER_LEN;
    debug_assert!(len <= usize::from(u16::MAX), "a message of {len} bytes does not fit its length field");
    out[start + 1..start + HEADER_LEN].copy_from_slice(&(len as u16).to_be_bytes());
}
