//! Scenarios: a situation on a lab (links, load, what happens when), played with the real program, and judged.
//!
//! One file each (`netem/scenarios/*.toml`, see [`Scenario`]); each is played over every way of linking it names and on
//! every combination of profiles it names. Always judged: no wrong byte, nothing reset, everything finished by its deadline,
//! memory within bounds, and the emulator itself lost nothing. A scenario adds what else it wants.

mod file;
mod play;
mod report;
mod subject;

pub use file::{Check, Over, Scenario, ScenarioError, Step, Variant};
pub use play::{Outcome, Player};
pub use report::table;
