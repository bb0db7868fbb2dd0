//! The receiving half.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::{Reader, Shared};
use crate::transport::quic::socket::Registered;
use crate::wire::frame::{Frame, FrameError};

/// Opens what has arrived with the label of one link.
#[derive(Debug)]
pub(in crate::transport::quic) struct DirectRx {
    registered: Registered,
    reader: Reader,
    shared: Arc<Shared>,
}

impl DirectRx {
    pub(super) fn new(registered: Registered, reader: Reader, shared: Arc<Shared>) -> Self {
        Self { registered, reader, shared }
    }

    /// Appends what has arrived to `frames`, up to about `most` bytes; gives the number of bytes, and whether that was all:
    /// then `waker` is woken when more comes.
    ///
    /// # Errors
    /// The peer sent what is not a frame.
    pub(in crate::transport::quic) fn read(
        &mut self,
        most: usize,
        waker: &Waker,
        frames: &mut Vec<Frame>,
    ) -> Result<(usize, bool), FrameError> {
        let (mut bytes, mut is_all) = (0, false);
        while bytes < most {
            let Some(block) = self.registered.inbox.take(waker) else {
                is_all = true;
                break;
            };
            bytes += block.bytes.len();
            self.reader.read(block.bytes, block.stride, frames)?;
        }
        self.reader.finish(frames)?;
        while let Some(signal) = self.reader.poll_signal() {
            self.shared.deliver(signal);
        }
        let (state, counts) = (&self.shared.state, self.reader.counts());
        state.received.store(counts.taken, Relaxed);
        state.forged.store(counts.forged, Relaxed);
        state.replayed.store(counts.replayed, Relaxed);
        state.overflow.store(self.registered.inbox.overflow(), Relaxed);
        Ok((bytes, is_all))
    }
}
