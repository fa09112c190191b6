//! Where the server's identities come from.

use std::sync::Arc;

use tokio::sync::watch;
use x0t_model::UnixTime;

use crate::identities::Identities;

/// What the server serves: the embedded authority's share for this node, or what a SPIRE agent gave it.
pub trait IdentitySource: Send + Sync + 'static {
    /// The snapshot in force, and every later one. Publish one for each change, the expiry of an entry included: the server merges
    /// bursts, works out what each caller would get, and sends only what differs from what that caller was sent last.
    fn identities(&self) -> watch::Receiver<Arc<Identities>>;

    /// Wall-clock time.
    fn now(&self) -> UnixTime;
}
