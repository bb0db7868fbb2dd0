//! Virtual time: two pure machines joined by model links. Hours pass in seconds, and the same seed gives the same run.
//!
//! [`World`] goes from event to event, never by ticks: time advances exactly to the earliest thing that a link or a machine
//! asks for, so a machine that forgets to ask for a wake-up stalls here as it would outside. [`Tcp`] is a reliable stream
//! over lossy packets, for machines that expect one (links over WebSocket).

mod tcp;
mod world;

pub use tcp::{MSS, Segment, Tcp};
pub use world::{Node, Outgoing, World};
