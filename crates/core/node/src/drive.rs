//! The five verbs by which a world drives a node, as a trait, so that the runtime can be tested with a script in its place.

use x0t_model::{Instant, UnixTime};

use crate::{Delivery, Input, Output, Train, View};

/// Something that is told what happens and says what to do.
pub trait Drive {
    /// Something happened. Drain [`Self::poll_output`] afterwards.
    fn handle(&mut self, input: Input<'_>, now: Instant, wall: UnixTime);

    /// The next thing to do; call until `None`.
    fn poll_output(&mut self) -> Option<Output>;

    /// When to call [`Self::handle`] with [`Input::Timeout`] if nothing else happens before. Ask again after every `handle`.
    fn poll_timeout(&self) -> Option<Instant>;

    /// An empty train to receive into.
    fn spare_train(&mut self) -> Train {
        Train::empty()
    }

    /// A train that was sent: its buffer can be used again.
    fn reclaim_train(&mut self, _train: Train) {}

    /// A delivery that the host has: its buffer can be used again.
    fn reclaim_delivery(&mut self, _delivery: Delivery) {}

    /// Everything there is to see.
    fn view(&self, now: Instant, wall: UnixTime) -> View;
}
