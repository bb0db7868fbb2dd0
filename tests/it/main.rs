//! Tests of the repository as a whole: its layers, its documents, its corpora, its tools.
#![expect(clippy::unwrap_used, reason = "test code")]

mod config_files;
mod corpus;
mod documents;
mod figures;
mod layers;
mod rust;
mod tidy;
mod total;
