//! Trust in other trust domains: their bundles, and where newer ones come from (SPIFFE Federation).
//!
//! A foreign bundle is set by an operator, or fetched from the bundle endpoint that a [`FederationRelationship`] names. Both are
//! part of the authority's state ([`Federations`]) and change by [`FederationCommand`]s alone. [`Refresher`] says when to fetch;
//! the shell fetches. Trust domain, URL and profile are three things of their own, and none is derived from another.

mod command;
mod foreign;
mod refresh;
mod relationship;
mod state;
mod url;

pub use self::command::{FederationCommand, FederationRefusal};
pub use self::foreign::{BundleDigest, FOREIGN_DOCUMENT_LEN_MAX, ForeignBundle};
pub use self::refresh::{
    FETCHES_MAX, Fetch, FetchError, FetchId, Fetched, REFRESH_INTERVAL_DEFAULT, Refresher, RelationshipStatus,
    UnknownRelationship,
};
pub use self::relationship::{EndpointProfile, FederationRelationship};
pub use self::state::{FOREIGN_BYTES_MAX, FOREIGN_DOMAINS_MAX, FederationSnapshot, Federations};
pub use self::url::{ENDPOINT_URL_LEN_MAX, EndpointUrl, EndpointUrlError};
