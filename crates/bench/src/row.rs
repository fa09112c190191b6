//! What is measured, and what each is measured against.

/// One line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// Reference: the bare AEAD.
    Aead,
    /// Reference: a copy.
    Copy,
    /// Reference: a bare receive.
    UdpReceive,
    /// A session seals a datagram of 1,300 bytes.
    Seal,
    /// A session opens it.
    Open,
    /// A link session seals a hop header over the front of a packet.
    SealHop,
    /// A link session opens it.
    OpenHop,
    /// The first node of a line sends bulk: TCP super-packets from the host.
    SendBulk,
    /// The relay forwards them.
    ForwardBulk,
    /// The last node receives them.
    ReceiveBulk,
    /// The first node of a line sends a packet alone.
    SendSingle,
    /// The relay forwards it.
    ForwardSingle,
    /// The last node receives it.
    ReceiveSingle,
    /// The same without a relay between.
    SendDirect,
    /// The same without a relay between.
    ReceiveDirect,
    /// Both sides of a handshake together.
    Handshake,
    /// Who carries it next, among 1,000 origins.
    NextHop,
    /// Refusing a datagram of a session that is not held here.
    ForgedStranger,
    /// Refusing a FORWARD packet whose hop header does not open.
    ForgedHop,
    /// Refusing a PROTECTED packet that does not open.
    ForgedPacket,
    /// Refusing a packet that came before.
    Replayed,
    /// Refusing a hello without a cookie.
    ForgedHello,
    /// Receiving a forged datagram on loopback and refusing it.
    ForgedReceive,
    /// Reference: the bare ES256 signature.
    Es256Sign,
    /// Reference: the bare ES256 verification.
    Es256Verify,
    /// Reference: the bare SHA-256 of about a token.
    Sha256,
    /// An authority mints a JWT-SVID.
    JwtMint,
    /// A validator sees a JWT-SVID for the first time.
    JwtValidate,
    /// A validator sees one of 10,000 JWT-SVIDs again.
    JwtRemembered,
    /// A cache serves one of 10,000 JWT-SVIDs.
    JwtServe,
    /// An authority issues an X.509-SVID to a workload, its key given.
    IssueX509,
    /// An authority issues an X.509-SVID to a workload, its signing request checked.
    IssueX509Request,
    /// An authority answers an agent's batch of signing requests: one of its X.509-SVIDs, the encoding of both messages included.
    IssueX509Batch,
    /// An authority looks up the entry and mints a JWT-SVID for its workload.
    IssueJwt,
    /// Reference: rustls-webpki validates a leaf and an intermediate.
    WebpkiChain,
    /// The validator judges a leaf and an intermediate, with every check on record.
    ValidateChain,
    /// The validator judges a leaf against 200 authorities of one name.
    ValidateAmongMany,
}

impl Row {
    /// Those of `x0t bench identity`, in the order of the report.
    pub const IDENTITY: [Self; 14] = [
        Self::Es256Sign,
        Self::Es256Verify,
        Self::Sha256,
        Self::JwtMint,
        Self::JwtValidate,
        Self::JwtRemembered,
        Self::JwtServe,
        Self::IssueX509,
        Self::IssueX509Request,
        Self::IssueX509Batch,
        Self::IssueJwt,
        Self::WebpkiChain,
        Self::ValidateChain,
        Self::ValidateAmongMany,
    ];

    /// Those of `x0t bench dataplane`, in the order of the report.
    pub const DATA_PLANE: [Self; 23] = [
        Self::Aead,
        Self::Copy,
        Self::UdpReceive,
        Self::Seal,
        Self::Open,
        Self::SealHop,
        Self::OpenHop,
        Self::SendDirect,
        Self::ReceiveDirect,
        Self::SendBulk,
        Self::ForwardBulk,
        Self::ReceiveBulk,
        Self::SendSingle,
        Self::ForwardSingle,
        Self::ReceiveSingle,
        Self::Handshake,
        Self::NextHop,
        Self::ForgedStranger,
        Self::ForgedHop,
        Self::ForgedPacket,
        Self::Replayed,
        Self::ForgedHello,
        Self::ForgedReceive,
    ];

    /// Its name in JSON. Never changes: baselines are compared by it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aead => "aes_256_gcm_seal_1400",
            Self::Copy => "copy_65536",
            Self::UdpReceive => "udp_receive",
            Self::Seal => "seal",
            Self::Open => "open",
            Self::SealHop => "seal_hop",
            Self::OpenHop => "open_hop",
            Self::SendDirect => "send_direct",
            Self::ReceiveDirect => "receive_direct",
            Self::SendBulk => "send_bulk",
            Self::ForwardBulk => "forward_bulk",
            Self::ReceiveBulk => "receive_bulk",
            Self::SendSingle => "send_single",
            Self::ForwardSingle => "forward_single",
            Self::ReceiveSingle => "receive_single",
            Self::Handshake => "handshake",
            Self::NextHop => "next_hop_1000",
            Self::ForgedStranger => "forged_stranger",
            Self::ForgedHop => "forged_hop",
            Self::ForgedPacket => "forged_packet",
            Self::Replayed => "replayed",
            Self::ForgedHello => "forged_hello",
            Self::ForgedReceive => "forged_receive",
            Self::Es256Sign => "es256_sign",
            Self::Es256Verify => "es256_verify",
            Self::Sha256 => "sha256_400",
            Self::JwtMint => "jwt_mint",
            Self::JwtValidate => "jwt_validate",
            Self::JwtRemembered => "jwt_validate_remembered",
            Self::JwtServe => "jwt_serve",
            Self::IssueX509 => "issue_x509",
            Self::IssueX509Request => "issue_x509_request",
            Self::IssueX509Batch => "issue_x509_batch",
            Self::IssueJwt => "issue_jwt",
            Self::WebpkiChain => "webpki_chain",
            Self::ValidateChain => "validate_chain",
            Self::ValidateAmongMany => "validate_among_200",
        }
    }

    /// What it is, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Aead => "AES-256-GCM seals 1,400 bytes (reference)",
            Self::Copy => "a copy of 64 KiB (reference)",
            Self::UdpReceive => "a bare UDP receive of 1,200 bytes (reference)",
            Self::Seal => "a session seals a datagram",
            Self::Open => "a session opens a datagram",
            Self::SealHop => "a link seals a hop header",
            Self::OpenHop => "a link opens a hop header",
            Self::SendDirect => "a node sends to a neighbour, of a super-packet",
            Self::ReceiveDirect => "a node receives from a neighbour, in a train",
            Self::SendBulk => "a node sends across a relay, of a super-packet",
            Self::ForwardBulk => "the last relay forwards, in a train",
            Self::ReceiveBulk => "a node receives across a relay, in a train",
            Self::SendSingle => "a node sends a packet alone",
            Self::ForwardSingle => "the last relay forwards a datagram alone",
            Self::ReceiveSingle => "a node receives a datagram alone",
            Self::Handshake => "a handshake, both sides",
            Self::NextHop => "the next hop, among 1,000 origins",
            Self::ForgedStranger => "refuse: unknown session",
            Self::ForgedHop => "refuse: forged hop header",
            Self::ForgedPacket => "refuse: forged packet of 1,200 bytes",
            Self::Replayed => "refuse: replayed packet",
            Self::ForgedHello => "refuse: hello without a cookie",
            Self::ForgedReceive => "receive a forged packet and refuse it",
            Self::Es256Sign => "a bare ES256 signature (reference)",
            Self::Es256Verify => "a bare ES256 verification (reference)",
            Self::Sha256 => "a bare SHA-256 of 400 bytes (reference)",
            Self::JwtMint => "mint a JWT-SVID",
            Self::JwtValidate => "validate a JWT-SVID",
            Self::JwtRemembered => "validate one of 10,000 seen before",
            Self::JwtServe => "serve one of 10,000 from the cache",
            Self::IssueX509 => "issue an X.509-SVID, key given",
            Self::IssueX509Request => "issue an X.509-SVID, request checked",
            Self::IssueX509Batch => "issue one of a batch for an agent",
            Self::IssueJwt => "issue a JWT-SVID by its entry",
            Self::WebpkiChain => "rustls-webpki, leaf and intermediate (reference)",
            Self::ValidateChain => "validate a leaf and an intermediate",
            Self::ValidateAmongMany => "validate a leaf among 200 authorities of one name",
        }
    }

    /// How many of it a second of one core should see, where there is such a goal.
    pub const fn per_second_goal(self) -> Option<f64> {
        match self {
            Self::JwtMint | Self::IssueX509 | Self::IssueJwt => Some(30_000.0),
            Self::JwtValidate => Some(16_000.0),
            Self::IssueX509Batch => Some(8_000.0),
            Self::JwtRemembered | Self::JwtServe => Some(1_000_000.0),
            Self::ValidateAmongMany => Some(1_000.0),
            _ => None,
        }
    }

    /// What its ratio is relative to; `None` for a reference.
    pub const fn reference(self) -> Option<Self> {
        match self {
            Self::Aead | Self::Copy | Self::UdpReceive => None,
            Self::Es256Sign | Self::Es256Verify | Self::Sha256 | Self::WebpkiChain => None,
            Self::ForgedReceive => Some(Self::UdpReceive),
            Self::JwtMint | Self::IssueX509 | Self::IssueX509Request | Self::IssueX509Batch | Self::IssueJwt => {
                Some(Self::Es256Sign)
            }
            Self::JwtValidate | Self::ValidateAmongMany => Some(Self::Es256Verify),
            Self::ValidateChain => Some(Self::WebpkiChain),
            Self::JwtRemembered | Self::JwtServe => Some(Self::Sha256),
            _ => Some(Self::Aead),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_reference_that_is_one() {
        let all = || Row::DATA_PLANE.iter().chain(&Row::IDENTITY);
        let names: BTreeSet<_> = all().map(|row| row.name()).collect();
        assert_eq!(names.len(), all().count());
        assert!(all().filter_map(|row| row.reference()).all(|reference| reference.reference().is_none()));
    }
}
