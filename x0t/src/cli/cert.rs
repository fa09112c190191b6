//! `x0t cert …`: what may be asked about certificates in files.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use x0t_identity::validation::PeerName;
use x0t_model::{SpiffeId, TrustDomain};

/// `x0t cert …`.
#[derive(Debug, Subcommand)]
pub enum CertAction {
    /// Show what certificates say: names, times, keys, what they may do.
    Inspect {
        /// Files with certificates, in PEM or DER.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Judge a chain as a peer of the mesh would, or a server's, and list every check. Exit code 6 if it is refused.
    Verify(Box<VerifyArgs>),
    /// Print the pins of certificates: SHA-256 of their public keys. A set of pins needs a backup: give the next certificate, too.
    Pin {
        /// Files with certificates, in PEM or DER.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// `x0t cert verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The chain, leaf first, in PEM or DER.
    #[arg(value_name = "CHAIN")]
    pub chain: PathBuf,
    /// Certificates that are trusted, in PEM or DER.
    #[arg(long = "anchors", required = true, value_name = "FILE")]
    pub anchors: Vec<PathBuf>,
    /// Whose anchors they are [default: the trust domain that the leaf names].
    #[arg(long, value_name = "DOMAIN", conflicts_with = "names")]
    pub trust_domain: Option<TrustDomain>,
    /// Who the peer must be.
    #[arg(long = "id", value_name = "SPIFFE-ID", conflicts_with = "names")]
    pub id: Option<SpiffeId>,
    /// Judge a server outside of the mesh, which must bear this DNS name, IP address or mailbox.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<PeerName>,
    /// With --name: a client and not a server.
    #[arg(long, requires = "names")]
    pub client: bool,
    /// With --name: by the rules for public CAs, too.
    #[arg(long, requires = "names")]
    pub public: bool,
    /// With --name: a list of public suffixes, without which no wildcard is believed.
    #[arg(long, requires = "names", value_name = "FILE")]
    pub public_suffixes: Option<PathBuf>,
    /// Revocation lists, in PEM or DER. With one, every certificate of the path must be on record as not revoked.
    #[arg(long = "crl", value_name = "FILE")]
    pub crls: Vec<PathBuf>,
    /// With --crl: ask about the leaf only.
    #[arg(long, requires = "crls")]
    pub leaf_only: bool,
    /// With --crl: accept what no list speaks of, and say so.
    #[arg(long, requires = "crls")]
    pub tolerate_unknown: bool,
    /// Pins, as `x0t cert pin` prints them; at least two, and one of them not in the path.
    #[arg(long = "pin", value_name = "SHA256")]
    pub pins: Vec<String>,
    /// The time to judge at, in seconds since 1970 [default: now].
    #[arg(long, value_name = "SECONDS")]
    pub at: Option<u64>,
}
