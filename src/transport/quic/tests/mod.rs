//! QUIC links over real sockets on the loopback interface.

mod datagrams;
mod direct;
mod kit;
mod link;
mod pacing;
mod sim;
mod strangers;
