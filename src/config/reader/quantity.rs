//! Numbers with units, all read in the same way.

use std::time::Duration;

use crate::units::{self, Bitrate, ByteSize, UnitError};

/// Numbers that are written with a unit.
pub(in crate::config) trait Quantity: Copy + PartialOrd {
    /// As documented.
    const KIND: &'static str;

    /// From text.
    fn parse(text: &str) -> Result<Self, UnitError>;

    /// To the same text.
    fn show(self) -> String;
}

impl Quantity for Duration {
    const KIND: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, UnitError> {
        units::parse_duration(text)
    }

    fn show(self) -> String {
        units::format_duration(self)
    }
}

impl Quantity for ByteSize {
    const KIND: &'static str = "size";

    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl Quantity for Bitrate {
    const KIND: &'static str = "rate";

    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn show(self) -> String {
        self.to_string()
    }
}
