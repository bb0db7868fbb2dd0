//! Where listeners get their streams from. A listener lives as long as its configuration does, a session as long as the
//! peer is there; the slot between them holds the session of the moment.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::runtime::edge::StreamEnd;
use crate::runtime::stream::{SessionRef, StreamError, TunnelStream};
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// Opens streams.
pub trait Opener {
    /// What is opened.
    type Stream: StreamEnd + 'static;

    /// Starts a stream to `target`. The session may have no link at the moment: the stream then waits for one.
    ///
    /// # Errors
    /// There is no session, or it takes no more streams.
    fn open(&self, target: Target, class: Class) -> Result<Self::Stream, Unopened>;
}

/// Why there is no stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unopened {
    /// The peer has no session with this site.
    #[error("no session")]
    NoSession,
    /// The session refused.
    #[error("{0}")]
    Refused(#[from] StreamError),
}

/// The session with one peer, or none. Clones are the same slot.
#[derive(Clone, Default, Debug)]
pub struct SessionSlot {
    session: Rc<RefCell<Option<SessionRef>>>,
    /// The listener that opens streams by it.
    origin: Option<Arc<str>>,
}

impl SessionSlot {
    /// Puts a session in place of what was there. Streams of the session before are not touched.
    pub fn set(&self, session: SessionRef) {
        *self.session.borrow_mut() = Some(session);
    }

    /// Leaves the slot empty: connections are refused until there is a session again.
    pub fn clear(&self) {
        *self.session.borrow_mut() = None;
    }

    /// The session of the moment.
    pub fn get(&self) -> Option<SessionRef> {
        self.session.borrow().clone()
    }

    /// The same slot, for a listener: the session knows streams that are opened by it by this text.
    #[must_use]
    pub fn for_listener(&self, listener: &str) -> Self {
        Self { session: Rc::clone(&self.session), origin: Some(listener.into()) }
    }
}

impl Opener for SessionSlot {
    type Stream = TunnelStream;

    fn open(&self, target: Target, class: Class) -> Result<TunnelStream, Unopened> {
        let session = self.get().ok_or(Unopened::NoSession)?;
        Ok(session.open_from(target, class, self.origin.clone())?)
    }
}
