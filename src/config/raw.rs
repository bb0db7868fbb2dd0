//! How raw links look and reach the wire: `[raw]`.

use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::segment::cycle::{self, Cycle, Flags};
use crate::transport::raw::BackendChoice;

/// What both sides may say about raw links.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Raw {
    /// Control bits of data segments, one entry after the other.
    pub flags: Cycle,
    /// How packets get to and from the wire.
    pub backend: BackendChoice,
}

impl Raw {
    pub(super) fn read(section: &Section<'_>) -> Self {
        const BACKENDS: [(&str, BackendChoice); 3] =
            [("auto", BackendChoice::Auto), ("af_packet", BackendChoice::AfPacket), ("pcap", BackendChoice::Pcap)];
        let shape = Shape::default("array of strings", "[\"PA\"]".into(), cycle::ALLOWED);
        let flags = section.value("flags", shape, |value| {
            let items = value.items()?;
            let entries: Vec<Flags> = items.iter().filter_map(|item| item.parse(cycle::entry)).collect();
            if entries.len() < items.len() {
                return None;
            }
            match Cycle::of(entries) {
                Ok(cycle) => Some(cycle),
                Err(wrong) => value.wrong(wrong),
            }
        });
        Self { flags: flags.unwrap_or_default(), backend: section.choice("backend", BackendChoice::Auto, &BACKENDS) }
    }
}
