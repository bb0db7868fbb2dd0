//! A connection in memory that somebody listens to.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::super::{LinkError, Messages, Transport};

type Sent = Arc<Mutex<Vec<(bool, Vec<u8>)>>>;

/// One end of a connection in memory.
pub(super) struct Pipe {
    is_client: bool,
    pub(super) transport: Transport,
    exporter: Option<[u8; 32]>,
    tx: Option<mpsc::UnboundedSender<Vec<u8>>>,
    rx: mpsc::UnboundedReceiver<Vec<u8>>,
    sent: Sent,
    count: usize,
    /// Message and byte to change on its way.
    pub(super) corrupt: Option<(usize, usize)>,
    /// Datagrams can travel beside it.
    pub(super) direct: bool,
}

/// Who listens in.
pub(super) struct Tap(Sent);

impl Tap {
    pub(super) fn of_client(&self) -> Vec<Vec<u8>> {
        self.of(true)
    }

    pub(super) fn of_server(&self) -> Vec<Vec<u8>> {
        self.of(false)
    }

    fn of(&self, client: bool) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().filter(|(by, _)| *by == client).map(|(_, message)| message.clone()).collect()
    }
}

impl Pipe {
    pub(super) fn pair(transport: Transport, client: Option<[u8; 32]>, server: Option<[u8; 32]>) -> (Self, Self, Tap) {
        let (up, from_client) = mpsc::unbounded_channel();
        let (down, from_server) = mpsc::unbounded_channel();
        let sent = Sent::default();
        let end = |is_client, exporter, tx, rx| Self {
            is_client,
            transport,
            exporter,
            tx: Some(tx),
            rx,
            sent: sent.clone(),
            count: 0,
            corrupt: None,
            direct: false,
        };
        (end(true, client, up, from_server), end(false, server, down, from_client), Tap(sent.clone()))
    }

    /// Messages that arrived and were not read.
    pub(super) fn unread(&mut self) -> usize {
        std::iter::from_fn(|| self.rx.try_recv().ok()).count()
    }

    /// What dropping the real connection does.
    pub(super) fn close(&mut self) {
        self.tx = None;
        self.rx.close();
    }
}

impl Messages for Pipe {
    async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let mut message = message.to_vec();
        if let Some((index, at)) = self.corrupt
            && index == self.count
        {
            message[at] ^= 0x10;
        }
        self.count += 1;
        self.sent.lock().unwrap().push((self.is_client, message.clone()));
        let tx = self.tx.as_ref().ok_or(LinkError::Closed)?;
        tx.send(message).map_err(|_| LinkError::Closed)
    }

    async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        let message = self.rx.recv().await.ok_or(LinkError::Closed)?;
        if message.len() > max {
            return Err(LinkError::TooLong { len: message.len() as u64, max });
        }
        Ok(message)
    }

    fn exporter(&self) -> Option<[u8; 32]> {
        self.exporter
    }

    fn transport(&self) -> Transport {
        self.transport
    }

    fn takes_direct(&self) -> bool {
        self.direct
    }
}
