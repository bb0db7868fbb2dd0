//! The libFuzzer entry of every target; the binary's name says which.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ghostwire_fuzz::run(env!("CARGO_BIN_NAME"), data));
