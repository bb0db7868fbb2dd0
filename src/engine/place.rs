//! Where flows go: which links they may use, which of these each one takes, and how a link is left.

use std::time::Instant;

use super::{Engine, Link};
use crate::ids::{LinkId, StreamId};
use crate::steer::Uplink;

impl Engine {
    /// The link on which a flow should send. Sparse flows avoid links that carry bulk; bulk leaves one link to them.
    pub(super) fn choose_home(&mut self, stream: StreamId, now: Instant) -> Option<LinkId> {
        let bulk = self.session.is_bulk(stream, now);
        let way = self.way_of_stream(stream, bulk, now).ok()?;
        let usable = self.usable(way);
        if usable.len() < 2 || !bulk {
            return usable
                .iter()
                .min_by_key(|(id, link)| (link.bulk > 0, link.drr.len(), link.srtt(), **id))
                .map(|(id, _)| **id);
        }
        let kept = usable.iter().min_by_key(|(id, link)| (link.bulk, link.srtt(), **id)).map(|(id, _)| **id);
        usable
            .iter()
            .filter(|(id, _)| Some(**id) != kept)
            .min_by_key(|(id, link)| (link.bulk, link.drr.len(), link.srtt(), **id))
            .map(|(id, _)| **id)
    }

    /// Links that flows may use now, of one uplink or of all: the good ones of the best rank, or whatever there is.
    pub(super) fn usable(&self, way: Option<Uplink>) -> Vec<(&LinkId, &Link)> {
        let of_way = |link: &Link| way.is_none_or(|way| link.way == way);
        for tier in [Link::is_good, Link::is_passable, |_: &Link| true] {
            let best = self.links.values().filter(|l| of_way(l) && tier(l)).map(|l| l.rank).min();
            if let Some(rank) = best {
                return self.links.iter().filter(|(_, l)| of_way(l) && tier(l) && l.rank == rank).collect();
            }
        }
        // Whoever chose the uplink knew of links that are gone.
        if way.is_some() { self.usable(None) } else { Vec::new() }
    }

    pub(super) fn choose_control(&mut self) {
        let usable = self.usable(self.way_of_control());
        self.control_link = usable.iter().min_by_key(|(id, link)| (link.bulk, link.srtt(), **id)).map(|(id, _)| **id);
        if (self.session.has_control() || !self.withdrawn.is_empty())
            && let Some(id) = self.control_link
        {
            self.wake(id);
        }
    }

    /// Links came, went, fell silent or came back.
    pub(super) fn links_changed(&mut self, now: Instant) {
        self.review_haste();
        self.review_ways(now);
        self.choose_control();
    }

    /// Moves the flows of a link elsewhere, if there is an elsewhere.
    pub(super) fn leave(&mut self, id: LinkId, now: Instant) {
        self.links_changed(now);
        if !self.has_other_good(id) {
            return;
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.bulk = 0;
            for stream in link.drr.take_all() {
                self.session.set_home(stream, None);
                self.activate(stream, now);
            }
        }
        self.move_datagrams(id, now);
        if self.statement_link == Some(id) && self.session.has_statement() {
            self.begin_statement();
        }
        self.wake(id);
    }

    /// Whether a good link is there besides this one.
    pub(super) fn has_other_good(&self, id: LinkId) -> bool {
        self.links.iter().any(|(other, link)| *other != id && link.is_good())
    }

    /// There is a good link again: what waits on links that were suspect when there was none moves to it.
    pub(super) fn leave_suspects(&mut self, now: Instant) {
        let suspects = self.links.iter().filter(|(_, link)| link.live.suspect_since().is_some());
        for id in suspects.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id, now);
        }
    }

    /// What a link carried is held to be lost, and sent again elsewhere; once, and only if there is an elsewhere.
    pub(super) fn escalate(&mut self, id: LinkId) {
        if !self.has_other_good(id) {
            return;
        }
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.escalated) else { return };
        link.escalated = true;
        self.session.on_slot_suspect(link.slot);
        self.begin_statement();
    }

    /// A flow has turned out to be bulk: it may belong elsewhere.
    pub(super) fn rehome_bulk(&mut self, stream: StreamId, id: LinkId, now: Instant) {
        self.count_bulk(now);
        let Some(home) = self.choose_home(stream, now).filter(|home| *home != id) else {
            self.choose_control();
            return;
        };
        self.move_stream(stream, id, home, now);
        self.count_bulk(now);
        self.choose_control();
    }

    /// What a flow sends from here on leaves by another link.
    pub(super) fn move_stream(&mut self, stream: StreamId, from: LinkId, to: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&from) {
            link.drr.remove(stream);
        }
        self.session.set_home(stream, Some(to));
        self.activate(stream, now);
    }

    /// Counts bulk flows per link anew. Rare: when a flow becomes bulk, and at most once a second otherwise.
    pub(super) fn count_bulk(&mut self, now: Instant) {
        self.bulk_counted = now;
        for link in self.links.values_mut() {
            link.bulk = 0;
        }
        let homes: Vec<LinkId> = self
            .session
            .ids()
            .filter(|stream| self.session.is_bulk(*stream, now))
            .filter_map(|stream| self.session.home(stream))
            .collect();
        for home in homes {
            if let Some(link) = self.links.get_mut(&home) {
                link.bulk += 1;
            }
        }
    }
}
