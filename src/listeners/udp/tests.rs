//! A hub without a session: what it counts and forgets, and how it names its flows.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Back, Hub, NewFlow, Origin};
use crate::engine::{Engine, Params};
use crate::ids::{FlowId, SessionId, Side};
use crate::listeners::{Counters, SessionSlot};
use crate::runtime::clock;
use crate::runtime::edge::FlowParams;
use crate::runtime::shell::Shell;
use crate::runtime::stream::SessionRef;
use crate::wire::code::Code;
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;
use crate::wire::target::Target;

#[derive(Debug, Default)]
struct Log {
    delivered: RefCell<Vec<Bytes>>,
    gone: RefCell<usize>,
}

impl Back for Log {
    fn deliver(&self, _: &Origin, _: &Target, payloads: &[Bytes]) {
        self.delivered.borrow_mut().extend_from_slice(payloads);
    }

    fn gone(&self, _: &Origin, _: &Target) {
        *self.gone.borrow_mut() += 1;
    }
}

struct Bench {
    hub: Rc<Hub>,
    back: Rc<Log>,
    counters: Arc<Counters>,
    shell: Rc<Shell>,
}

impl Bench {
    fn new(max: usize) -> Self {
        let engine = Engine::new(Side::Client, Params::default(), 1, clock::now());
        let shell = Shell::new(SessionId::NEW, "server".into(), engine);
        let slot = SessionSlot::default();
        slot.set(SessionRef::of(&shell));
        let hub = Hub::new(Side::Client, slot, FlowParams { max, ..FlowParams::default() });
        Self { hub, back: Rc::default(), counters: Arc::default(), shell }
    }

    fn open(&self) -> Option<FlowId> {
        let back: Rc<dyn Back> = Rc::<Log>::clone(&self.back);
        self.hub.open(NewFlow {
            association: self.hub.association(),
            class: Class::BestEffort,
            origin: Origin { from: SocketAddr::from(([127, 0, 0, 1], 9)), to: None },
            target: Target::Name("t".into(), 1),
            back,
            counters: Arc::clone(&self.counters),
        })
    }

    /// Whether the next datagram of a flow would name it.
    fn names(&self, id: FlowId) -> bool {
        !self.hub.inside.borrow().flows[&id].known
    }

    fn sent(&self) -> u64 {
        // Without a link everything waits.
        self.shell.snapshot().0.datagrams.waiting / (crate::sched::cake::OVERHEAD as u64 + 5)
    }
}

#[test]
fn a_flow_is_named_until_it_is_known_and_again_when_it_was_forgotten() {
    let bench = Bench::new(10);
    let id = bench.open().unwrap();
    assert!(bench.names(id));
    bench.hub.take(vec![Datagram::Known { flow: id, bytes: Bytes::from_static(b"answer") }]);
    assert!(!bench.names(id), "an answer shows that it is known");
    assert_eq!(*bench.back.delivered.borrow(), [Bytes::from_static(b"answer")]);
    bench.hub.take(vec![Datagram::Flow { flow: id, code: Code::SessionLost }]);
    assert!(bench.names(id));
    bench.hub.send([(id, Bytes::from_static(b"12345"))]);
    assert_eq!(bench.sent(), 1, "a flow that was forgotten there goes on");
    bench.hub.take(vec![Datagram::Flow { flow: id, code: Code::Done }]);
    assert!(!bench.names(id));
}

#[test]
fn a_refused_flow_sends_nothing_for_a_while() {
    let bench = Bench::new(10);
    let id = bench.open().unwrap();
    bench.hub.take(vec![Datagram::Flow { flow: id, code: Code::NotAllowed }]);
    bench.hub.send([(id, Bytes::from_static(b"12345"))]);
    assert_eq!((bench.sent(), bench.counters.datagrams_dropped.get()), (0, 1));
    bench.hub.forget(clock::now() + Duration::from_secs(61));
    assert_eq!((bench.counters.refused.get(), bench.counters.open()), (1, 0));
}

#[test]
fn flows_are_bounded_and_each_ends_in_one_counter() {
    let bench = Bench::new(2);
    let (a, b) = (bench.open().unwrap(), bench.open().unwrap());
    assert_eq!((bench.open(), bench.hub.len(), bench.counters.open()), (None, 2, 2));
    bench.hub.close(a);
    assert_eq!(*bench.back.gone.borrow(), 0, "whoever closes it knows");
    bench.hub.forget(clock::now() + Duration::from_secs(61));
    assert_eq!((bench.hub.len(), *bench.back.gone.borrow(), bench.counters.open()), (0, 1, 0));
    bench.hub.send([(b, Bytes::new())]);
    assert_eq!(bench.sent(), 0);
    assert!(bench.open().is_some());
}
