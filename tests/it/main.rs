//! Tests of the repository as a whole: its layers, its documents, its corpora, its tools.
#![expect(clippy::unwrap_used, reason = "test code")]

mod config_files;
mod corpus;
mod documents;
mod layers;
mod rust;
#[path = "../bench/stats.rs"]
mod stats;
mod tidy;
mod total;
