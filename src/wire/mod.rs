//! Bytes and values: everything that crosses the network is read and written here, and every length is bounded.

pub mod aead;
pub mod batch;
pub mod code;
pub mod datagram;
pub mod direct;
pub mod frame;
pub mod hello;
pub mod http_proxy;
pub mod noise;
pub mod packet;
pub mod parts;
pub mod proxy_protocol;
pub mod rate;
pub mod seal;
pub mod socks5;
pub mod target;
pub mod varint;
pub mod via;
pub mod ws;
