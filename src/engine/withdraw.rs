//! An uplink that is known to be gone, before any silence could show it: its links are left at once, on this side because
//! the host said so, on the other because this side told it.

use std::time::Instant;

use super::Engine;
use crate::ids::LinkId;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::Frame;

impl Engine {
    /// The path of these links is gone. What waits for them moves to other links, what they carried is sent again there,
    /// and the peer is told to do the same. Each is used again when a ping that is sent from now on comes back.
    pub fn withdraw(&mut self, ids: &[LinkId], now: Instant) {
        for id in ids {
            let Some(link) = self.links.get(id) else { continue };
            let name = &self.uplinks[link.uplink].name;
            if !self.withdrawn.contains(name) {
                self.withdrawn.push(name.clone());
            }
        }
        self.doubt(ids, now);
        self.settle(now);
    }

    /// As [`Self::withdraw`], where the uplink itself is there: nobody is told.
    pub fn distrust(&mut self, ids: &[LinkId], now: Instant) {
        self.doubt(ids, now);
        self.settle(now);
    }

    /// The path of a link may be there again: asks at once.
    pub fn probe_link(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.live.probe(now);
        self.wake(id);
    }

    /// The peer has lost its way over an uplink. A link of that same uplink is no witness of it.
    pub(super) fn on_withdraw(&mut self, via: LinkId, uplink: &str, now: Instant) {
        let is_named = |id: &LinkId| self.links.get(id).is_some_and(|link| self.uplinks[link.uplink].name == uplink);
        if is_named(&via) {
            return;
        }
        let lost: Vec<LinkId> = self.links.keys().copied().filter(is_named).collect();
        self.doubt(&lost, now);
    }

    fn doubt(&mut self, ids: &[LinkId], now: Instant) {
        // All at first, or the flows of one would move to the next.
        for id in ids {
            if let Some(link) = self.links.get_mut(id)
                && link.live.doubt(now)
            {
                self.suspects += 1;
            }
        }
        for id in ids {
            self.leave(*id, now);
            self.escalate(*id);
        }
    }

    /// A ping that was sent after the path was gone has come back.
    pub(super) fn on_proof(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.escalated = false;
        let name = &self.uplinks[link.uplink].name;
        self.withdrawn.retain(|withdrawn| withdrawn != name);
        self.links_changed(now);
        self.leave_suspects(now);
    }

    /// Tells the peer of uplinks that are gone, on a link of another one.
    pub(super) fn put_withdrawn(&mut self, id: LinkId, batch: &mut Batch) {
        let Some(own) = self.links.get(&id).filter(|link| link.is_good()).map(|link| link.uplink) else { return };
        let own = &self.uplinks[own].name;
        for uplink in self.withdrawn.extract_if(.., |name| name != own) {
            batch.frame(Lane::Control, &Frame::Withdraw { uplink }, false);
        }
    }
}
