//! stub

use std::task::{Context, Poll};

use super::{LinkError, LinkInfo};
use crate::wire::batch::Batch;
use crate::wire::frame::Frame;
use crate::wire::seal::SealPair;

#[derive(Debug)]
pub struct Raw;
#[derive(Debug)]
pub struct Tx;
#[derive(Debug)]
pub struct Rx;

impl Raw {
    pub async fn send(&mut self, _message: &[u8]) -> Result<(), LinkError> {
        unimplemented!()
    }
    pub async fn recv(&mut self, _max: usize) -> Result<Vec<u8>, LinkError> {
        unimplemented!()
    }
    pub fn exporter(&self) -> Option<[u8; 32]> {
        unimplemented!()
    }
    pub fn info(&self) -> LinkInfo {
        unimplemented!()
    }
    pub fn into_link(self, _seal: Option<SealPair>) -> (Tx, Rx) {
        unimplemented!()
    }
}
impl Tx {
    pub fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        unimplemented!()
    }
    pub fn start_send(&mut self, _batch: &Batch) -> Result<(), LinkError> {
        unimplemented!()
    }
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        unimplemented!()
    }
    pub fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        unimplemented!()
    }
}
impl Rx {
    pub fn poll_recv(&mut self, _cx: &mut Context<'_>, _frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        unimplemented!()
    }
}
pub fn rehome(tx: Tx, rx: Rx) -> Result<(Tx, Rx), LinkError> {
    Ok((tx, rx))
}
