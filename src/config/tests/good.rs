//! Good files and what they mean.
