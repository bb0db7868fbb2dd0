//! Which lanes have something to read.
//!
//! Each lane has a waker of its own that puts the lane's number on one list and wakes the receiving half once, so ten
//! thousand idle lanes cost nothing and no lane is polled that has nothing to say.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The list, and whom to wake when something is put on it.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: VecDeque<u32>,
    waker: Option<Waker>,
}

impl ReadyList {
    /// Moves what is ready to `into`; `waker` is woken when more comes.
    pub(super) fn take(&self, into: &mut VecDeque<u32>, waker: &Waker) {
        let mut inner = self.lock();
        into.append(&mut inner.slots);
        match &mut inner.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn push(&self, slot: u32) {
        let mut inner = self.lock();
        inner.slots.push_back(slot);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that runs under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What wakes one lane. It is on the list at most once.
#[derive(Debug)]
pub(super) struct Token {
    slot: u32,
    listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl Token {
    /// A token that is already considered listed: the maker polls the lane first.
    pub(super) fn new(slot: u32, list: &Arc<ReadyList>) -> Arc<Self> {
        Arc::new(Self { slot, listed: AtomicBool::new(true), list: list.clone() })
    }

    /// To be called before the lane is polled: whatever comes from here on lists it again.
    pub(super) fn unlist(&self) {
        self.listed.store(false, Ordering::Release);
    }

    /// The owner keeps the lane on its own list; true if it was not on one.
    pub(super) fn list(&self) -> bool {
        !self.listed.swap(true, Ordering::AcqRel)
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.list() {
            self.list.push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_lane_woken_twice_is_listed_once_and_wakes_the_owner_once() {
        let (list, count) = (Arc::new(ReadyList::default()), Arc::new(Count::default()));
        let (a, b) = (Token::new(7, &list), Token::new(8, &list));
        a.unlist();
        b.unlist();
        let mut ready = VecDeque::new();
        list.take(&mut ready, &Waker::from(count.clone()));
        a.wake_by_ref();
        a.wake_by_ref();
        b.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        list.take(&mut ready, &Waker::from(count.clone()));
        assert_eq!(ready, [7, 8]);
        a.unlist();
        a.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "after a look at the list the owner is woken again");
    }
}
