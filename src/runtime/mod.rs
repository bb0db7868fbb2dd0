//! Drivers: the threads and tasks that feed the pure engine and carry out what it asks, and the one clock read.

pub mod clock;
pub mod edge;
pub mod stream;
