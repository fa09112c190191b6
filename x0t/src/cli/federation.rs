//! `x0t bundle …` and `x0t federation …`: whom of other trust domains to believe.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use x0t_identity::federation::EndpointUrl;
use x0t_model::{SpiffeId, TrustDomain};

/// `x0t bundle …`.
#[derive(Debug, Subcommand)]
pub enum BundleAction {
    /// Print a bundle as a SPIFFE bundle document, to be handed to the operators of another trust domain.
    Show {
        /// Whose [default: this mesh's own].
        trust_domain: Option<TrustDomain>,
    },
    /// Every bundle: this mesh's own, and those of foreign trust domains.
    List,
    /// Keep a bundle of a foreign trust domain, or a newer one. Refused if it is older than the one that is kept.
    Set {
        /// Whose it is. The file does not say.
        trust_domain: TrustDomain,
        /// A SPIFFE bundle document, or `-` for standard input.
        file: PathBuf,
        /// Whatever its sequence number: the operators of the trust domain say that this is the right one.
        #[arg(long)]
        force: bool,
    },
    /// Forget the bundle of a foreign trust domain. Nobody of it is believed from then on.
    #[command(visible_alias = "rm")]
    Delete {
        /// Whose.
        trust_domain: TrustDomain,
    },
}

/// `x0t federation …`.
#[derive(Debug, Subcommand)]
pub enum FederationAction {
    /// Fetch the bundle of a foreign trust domain from its bundle endpoint, now and from now on.
    Create(FederationCreateArgs),
    /// Every relationship, and how it fares.
    List,
    /// One relationship, and how it fares.
    Show {
        /// With whom.
        trust_domain: TrustDomain,
    },
    /// Ask the bundle endpoint now. Exit code 3 if it gave no usable bundle.
    Refresh {
        /// With whom.
        trust_domain: TrustDomain,
    },
    /// End a relationship and forget the bundle: nobody of the trust domain is believed from then on.
    #[command(visible_alias = "rm")]
    Delete {
        /// With whom.
        trust_domain: TrustDomain,
    },
}

/// `x0t federation create`.
#[derive(Debug, Args)]
pub struct FederationCreateArgs {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Its bundle endpoint, as in https://spire.example:8443/.
    pub url: EndpointUrl,
    /// How the endpoint proves who it is: by a certificate of the Web PKI, or by an X.509-SVID.
    #[arg(long, value_name = "https_web|https_spiffe")]
    pub profile: ProfileArg,
    /// With https_spiffe: the endpoint's SPIFFE ID, as in spiffe://spire.example/spire/server.
    #[arg(long, value_name = "SPIFFE-ID", required_if_eq("profile", "https_spiffe"))]
    pub endpoint_id: Option<SpiffeId>,
    /// With https_spiffe: the bundle to check the endpoint with the first time, a file or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
    /// Change the relationship that there is. The bundle stays.
    #[arg(long)]
    pub replace: bool,
}

/// How a bundle endpoint proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// By a certificate of the Web PKI.
    #[value(name = "https_web")]
    HttpsWeb,
    /// By an X.509-SVID.
    #[value(name = "https_spiffe")]
    HttpsSpiffe,
}
