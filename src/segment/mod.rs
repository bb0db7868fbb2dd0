//! Crafted TCP: segments that carry datagrams, and connections that look like TCP's without being it.
//!
//! A datagram is the payload of one segment. Nothing is sent again and nothing waits for what was lost: that is the
//! business of what the datagrams carry. What is kept is the look (RFC 9293): a three-way handshake, sequence and
//! acknowledgement numbers that advance with the bytes, a window, timestamps (RFC 7323), a FIN at the end.
//!
//! [`codec`] turns headers to bytes and back. [`connection`] is one connection, [`table`] those of a server, with
//! handshakes that cost it no memory ([`cookie`]). [`seen`] knows which bytes of the sequence have arrived, so that what
//! is replayed or overlaps is dropped; [`drops`] counts. [`filter`] is what a kernel is asked to let through.
//!
//! Pure: time and chance are arguments, and no input panics.

pub mod codec;
pub mod connection;
pub mod cookie;
pub mod cycle;
pub mod drops;
pub mod filter;
pub mod seen;
pub mod table;

#[cfg(test)]
mod tests;
