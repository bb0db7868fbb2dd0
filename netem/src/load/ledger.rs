//! What both ends of the load write down.

use crate::histogram::{Histogram, Summary};
use crate::sys;
use crate::units::{MICROSECOND, Nanos};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by all threads of a load.
#[derive(Debug, Default)]
pub struct Ledger {
    stop: AtomicBool,
    deadline: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    wrong: AtomicU64,
    resets: AtomicU64,
    unfinished: AtomicU64,
    requests: AtomicU64,
    pages: AtomicU64,
    uploads: AtomicU64,
    delays: Mutex<Delays>,
    remarks: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Delays {
    witness: Histogram,
    request: Histogram,
    page: Histogram,
}

/// A reading of a [`Ledger`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// Payload bytes that arrived at the far end, each checked.
    pub up_bytes: u64,
    /// Payload bytes that arrived at the near end, each checked.
    pub down_bytes: u64,
    /// Bytes that were not what was sent.
    pub wrong_bytes: u64,
    /// Connections that ended otherwise than they should.
    pub resets: u64,
    /// Connections that had not ended at the deadline.
    pub unfinished: u64,
    /// Requests answered.
    pub requests: u64,
    /// Pages loaded.
    pub pages: u64,
    /// Uploads that arrived whole.
    pub uploads: u64,
    /// There and back for the witness, microseconds.
    pub witness_us: Summary,
    /// From connecting to the last byte of a request, microseconds.
    pub request_us: Summary,
    /// From the first connection to the last byte of a page, microseconds.
    pub page_us: Summary,
    /// What went wrong first, in words; bounded.
    pub remarks: Vec<String>,
}

/// Remarks kept.
const REMARKS_MAX: usize = 20;

impl Ledger {
    /// No new work from now on; what is begun has until `deadline` (monotonic clock) to end.
    pub fn stop(&self, deadline: Nanos) {
        self.deadline.store(deadline, Ordering::Relaxed);
        self.stop.store(true, Ordering::Release);
    }

    /// Whether no new work is to begin.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_stopping() && sys::monotonic() >= self.deadline.load(Ordering::Relaxed)
    }

    /// What is written so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let delays = self.delays();
        Tally {
            up_bytes: get(&self.up),
            down_bytes: get(&self.down),
            wrong_bytes: get(&self.wrong),
            resets: get(&self.resets),
            unfinished: get(&self.unfinished),
            requests: get(&self.requests),
            pages: get(&self.pages),
            uploads: get(&self.uploads),
            witness_us: delays.witness.summary(),
            request_us: delays.request.summary(),
            page_us: delays.page.summary(),
            remarks: self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(super) fn arrived_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn arrived_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn wrong(&self, bytes: u64, what: &str) {
        if bytes > 0 {
            self.wrong.fetch_add(bytes, Ordering::Relaxed);
            self.remark(&format!("{what}: {bytes} wrong bytes"));
        }
    }

    /// A connection ended otherwise than it should.
    pub(super) fn broken(&self, what: &str, why: &str) {
        let counter = if self.is_over() { &self.unfinished } else { &self.resets };
        counter.fetch_add(1, Ordering::Relaxed);
        self.remark(&format!("{what}: {why}"));
    }

    pub(super) fn witnessed(&self, span: Nanos) {
        self.delays().witness.add(span / MICROSECOND);
    }

    pub(super) fn answered(&self, span: Nanos) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.delays().request.add(span / MICROSECOND);
    }

    pub(super) fn uploaded(&self) {
        self.uploads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn loaded(&self, span: Nanos) {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.delays().page.add(span / MICROSECOND);
    }

    fn delays(&self) -> MutexGuard<'_, Delays> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remark(&self, text: &str) {
        let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        if remarks.len() < REMARKS_MAX {
            remarks.push(text.to_owned());
        }
    }
}
