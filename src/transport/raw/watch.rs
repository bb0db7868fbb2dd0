//! Looks at what arrives on a port, without taking part.

use std::io;

use tokio::io::unix::AsyncFd;

use super::RawError;
use super::packet::{Frame, PacketSocket};
use crate::segment::codec::parse;

/// A capture of TCP to one port, of both versions of IP.
#[derive(Debug)]
pub struct Watch {
    v4: AsyncFd<PacketSocket>,
    v6: AsyncFd<PacketSocket>,
    buffers: [Vec<u8>; 2],
}

impl Watch {
    /// Opens it on one interface, or on all.
    ///
    /// # Errors
    /// Privileges are missing.
    pub fn open(interface: Option<u32>, port: u16) -> Result<Self, RawError> {
        let open = |ipv4| -> Result<_, RawError> {
            let socket = PacketSocket::open(interface, ipv4, port).map_err(RawError::of_socket)?;
            Ok(socket.register()?)
        };
        Ok(Self { v4: open(true)?, v6: open(false)?, buffers: [vec![0; FRAME_MAX], vec![0; FRAME_MAX]] })
    }

    /// The next frame, in words.
    ///
    /// # Errors
    /// The interface is gone.
    pub async fn next(&mut self) -> io::Result<String> {
        let [first, second] = &mut self.buffers;
        tokio::select! {
            line = next(&self.v4, first) => line,
            line = next(&self.v6, second) => line,
        }
    }
}

/// A whole IP packet, with Ethernet in front.
const FRAME_MAX: usize = 65_535 + 14;

async fn next(socket: &AsyncFd<PacketSocket>, buffer: &mut [u8]) -> io::Result<String> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().recv(buffer)) {
            Ok(Ok(Some(frame))) => return Ok(words(buffer, &frame)),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

fn words(buffer: &[u8], frame: &Frame) -> String {
    let bytes = buffer.get(..frame.len).unwrap_or_default();
    match parse(bytes, frame.ethernet, frame.unverified) {
        Ok(segment) if frame.segment > 0 => format!("{segment}, merged of {} each", frame.segment),
        Ok(segment) => segment.to_string(),
        Err(fault) => format!("{} bytes, {fault}", frame.len),
    }
}
