//! stub

pub mod allow;
