//! Where the server's identities come from.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use x0t_identity::{AudienceSet, Entry, JwtSvid};
use x0t_model::UnixTime;

use crate::identities::Identities;

/// Why a source gives nothing. The text is for the caller and for the log: it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not now. The caller comes again.
    #[error("{0}")]
    Unavailable(String),
    /// Not to this one.
    #[error("{0}")]
    Denied(String),
}

/// What the server serves: the embedded authority's share for this node, or what a SPIRE agent gave it.
pub trait IdentitySource: Send + Sync + 'static {
    /// The snapshot in force, and every later one. Publish one for each change, the expiry of an entry included: the server merges
    /// bursts, works out what each caller would get, and sends only what differs from what that caller was sent last.
    fn identities(&self) -> watch::Receiver<Arc<Identities>>;

    /// A JWT-SVID of the identity of `entry`, for `audience`. The caller was found to be entitled to it a moment ago.
    fn mint_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a AudienceSet,
    ) -> BoxFuture<'a, Result<Arc<JwtSvid>, SourceError>>;

    /// Wall-clock time.
    fn now(&self) -> UnixTime;
}
